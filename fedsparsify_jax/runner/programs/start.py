"""The model that a run starts from: a file's weights, or adapters around them."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import deploy, models, trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.storage.model_files import (
    ARRAYS,
    DESCRIPTION,
    load_model,
)
from fedsparsify_jax.types import Variables

TIMES_RANK = 2.0
"""Alpha over rank if no alpha is given, as 16 for rank 8."""


class Start(NamedTuple):
    """The weights that a run starts from, and whether they are what it trains.

    Attributes:
      variables: of the file, as NumPy arrays.
      alpha: of the adapters around them; None if they are trained themselves.
    """

    variables: Variables
    alpha: float | None = None

    def whole(self, variables: Variables) -> Variables:
        """Returns a trained model as the network's own variables."""
        if self.alpha is None:
            return variables
        return models.merge_lora(self.variables, variables, alpha=self.alpha)


def started(config: TrainConfig, model: Model) -> tuple[Model, Start | None]:
    """Returns a model whose first variables are those of ``--init``, if that is given.

    Args:
      config: resolved.
      model: the network.

    Raises:
      InputError: for a file that is missing, damaged, or of another network, naming
        the first difference.
    """
    if config.init is None:
        return model, None
    variables = _checked(config, model, _variables(config.init))
    if config.lora_rank is None:
        return model._replace(init=lambda key: _on_device(variables)), Start(variables)
    rank, alpha = config.lora_rank, config.lora_alpha
    alpha = TIMES_RANK * rank if alpha is None else alpha
    adapters = models.lora(model, variables, rank=rank, alpha=alpha)
    return adapters, Start(variables, alpha)


def _on_device(variables: Variables) -> Variables:
    copies: Variables = jax.tree.map(jnp.array, variables)
    return copies


def _variables(path: Path) -> Variables:
    """Reads a model file, or that of a finished run."""
    if path.name == ARRAYS and (path.parent / DESCRIPTION).is_file():
        path = path.parent
    if not path.is_dir():
        return deploy.load(path).variables
    for place in (path / "model", path):
        if (place / ARRAYS).is_file():
            variables, _ = load_model(place)
            return variables
    raise InputError(f"--init {path} holds no model: it must be a file or finished run")


def _checked(config: TrainConfig, model: Model, variables: Variables) -> Variables:
    """Returns variables in the network's dtypes, if they are those of the network."""
    expected = jax.eval_shape(model.init, jax.random.key(0))
    difference = trees.first_difference(expected, variables)
    if difference is not None:
        name, wanted, given = difference
        raise InputError(
            f"--init {config.init} is of another model: {name} has shape "
            f"{given or 'none'} there, and {wanted or 'none'} in {config.model!r} on "
            f"{config.dataset!r}"
        )
    for name, leaf in trees.named_leaves(variables):
        if not np.isfinite(leaf).all():
            raise InputError(f"--init {config.init}: {name} has numbers that are NaN")
    cast: Variables = jax.tree.map(
        lambda like, leaf: np.asarray(leaf, like.dtype), expected, variables
    )
    return cast
