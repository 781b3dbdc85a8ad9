"""Trained models on their way out: files, compaction, other runtimes.

`load` and `save` exchange models with files, `saved_model` makes one of variables and
a description, and `runnable` makes a function of any model file.
"""

from fedsparsify_jax.deploy.files import FORMATS as FORMATS
from fedsparsify_jax.deploy.files import load as load
from fedsparsify_jax.deploy.files import save as save
from fedsparsify_jax.deploy.running import Runnable as Runnable
from fedsparsify_jax.deploy.running import runnable as runnable
from fedsparsify_jax.deploy.saved import SavedModel as SavedModel
from fedsparsify_jax.deploy.saved import saved_model as saved_model

__all__ = [
    "FORMATS",
    "Runnable",
    "SavedModel",
    "load",
    "runnable",
    "save",
    "saved_model",
]
