"""Trained models on their way out: files, compaction, other runtimes.

`load` and `save` exchange models with files of one of `FORMATS`, and `save_coreml`
writes Core ML packages, which are directories and not read back. `saved_model` makes a
model of variables and a description, `traced_model` of any network; `runnable` makes a
function of a file.
"""

from fedsparsify_jax.deploy.files import FORMATS as FORMATS
from fedsparsify_jax.deploy.files import load as load
from fedsparsify_jax.deploy.files import save as save
from fedsparsify_jax.deploy.packages import save_coreml as save_coreml
from fedsparsify_jax.deploy.running import Runnable as Runnable
from fedsparsify_jax.deploy.running import runnable as runnable
from fedsparsify_jax.deploy.saved import SavedModel as SavedModel
from fedsparsify_jax.deploy.saved import saved_model as saved_model
from fedsparsify_jax.deploy.saved import traced_model as traced_model

__all__ = [
    "FORMATS",
    "Runnable",
    "SavedModel",
    "load",
    "runnable",
    "save",
    "save_coreml",
    "saved_model",
    "traced_model",
]
