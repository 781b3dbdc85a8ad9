"""FedSparsify in JAX: federated training of sparse networks in jitted rounds.

algorithm = algorithms.fedsparsify_global(model.apply, final_sparsity=0.9, rounds=50)
state = algorithm.init(key, variables)
state, info = jax.jit(algorithm.step)(key, state, clients)
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from fedsparsify_jax import aggregation as aggregation
from fedsparsify_jax import algorithms as algorithms
from fedsparsify_jax import client_map as client_map
from fedsparsify_jax import data as data
from fedsparsify_jax import deploy as deploy
from fedsparsify_jax import engine as engine
from fedsparsify_jax import masks as masks
from fedsparsify_jax import method as method
from fedsparsify_jax import metrics as metrics
from fedsparsify_jax import models as models
from fedsparsify_jax import pruning as pruning
from fedsparsify_jax import schedules as schedules
from fedsparsify_jax import training as training
from fedsparsify_jax import trees as trees
from fedsparsify_jax.errors import InputError as InputError
from fedsparsify_jax.types import ClientData as ClientData
from fedsparsify_jax.types import Examples as Examples
from fedsparsify_jax.types import FederatedAlgorithm as FederatedAlgorithm
from fedsparsify_jax.types import RoundInfo as RoundInfo
from fedsparsify_jax.types import State as State

try:
    __version__ = _version("fedsparsify_jax")
except _PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "ClientData",
    "Examples",
    "FederatedAlgorithm",
    "InputError",
    "RoundInfo",
    "State",
    "__version__",
    "aggregation",
    "algorithms",
    "client_map",
    "data",
    "deploy",
    "engine",
    "masks",
    "method",
    "metrics",
    "models",
    "pruning",
    "schedules",
    "training",
    "trees",
]
