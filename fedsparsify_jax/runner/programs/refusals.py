"""Refusals of methods in the words of the command line: by name, with its options.

The core knows neither names of algorithms nor options. Most of its refusals come when
an algorithm is built, but some only when a round is traced, from inside of a hook.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

from fedsparsify_jax.data import Dataset
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.registry import KEYWORDS
from fedsparsify_jax.runner.options.rules import in_options
from fedsparsify_jax.types import FederatedAlgorithm

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def refused(name: str, error: ValueError) -> InputError:
    """Returns an error of the core as a refusal of an algorithm.

    >>> print(refused("snip", ValueError("batch_size is 9: it is too large")))
    --algorithm snip: --batch-size is 9: it is too large
    """
    names = {keyword: field for field, keyword in KEYWORDS.items()}
    return InputError(f"--algorithm {name}: {in_options(str(error), names)}")


def check_classes(cohort_sampling: str, dataset: Dataset) -> None:
    """Refuses representative cohorts of examples that have no class.

    Raises:
      InputError: for targets that are numbers, or several of an example.
    """
    if cohort_sampling != "representative":
        return
    wanted = "--cohort-sampling representative looks at classes"
    if dataset.task != "classification":
        raise InputError(f"{wanted}: the targets of this data set are numbers")
    if np.ndim(dataset.train.y) != 1:
        raise InputError(f"{wanted}: an example of this data set has several")


def naming(name: str, algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """Returns an algorithm whose rounds name it where they refuse "this method".

    Other errors of a traced round, such as those of data, pass as they are.

    Args:
      name: of the algorithm.
      algorithm: without one.
    """
    cohorts, halves = algorithm.cohorts, algorithm.halves
    if cohorts is not None:
        cohorts = cohorts._replace(run=_naming(name, cohorts.run))
    if halves is not None:
        halves = halves._replace(
            client=_naming(name, halves.client), merge=_naming(name, halves.merge)
        )
    step = _naming(name, algorithm.step)
    return algorithm._replace(step=step, cohorts=cohorts, halves=halves)


def _naming(
    name: str, function: Callable[_Given, _Result]
) -> Callable[_Given, _Result]:
    @functools.wraps(function)
    def call(*given: _Given.args, **more: _Given.kwargs) -> _Result:
        try:
            return function(*given, **more)
        except InputError as error:
            if "this method" not in str(error):
                raise
            raise refused(name, error) from error

    return call
