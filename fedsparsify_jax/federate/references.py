"""Functions by name: ``module:function``."""

import importlib
from collections.abc import Callable
from typing import Any

from fedsparsify_jax.errors import InputError, shown


def load(reference: str) -> Callable[..., Any]:
    """Imports a function.

    >>> load("math:sqrt")(9)
    3.0

    Raises:
      InputError: if it is not ``module:function``, or there is no such thing.
    """
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise InputError(f"{shown(reference)} is not module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot import {reference}: {error}") from error
    if not callable(function):
        raise InputError(f"{reference} is not a function")
    loaded: Callable[..., Any] = function
    return loaded
