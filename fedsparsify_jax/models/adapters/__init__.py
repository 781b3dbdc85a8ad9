"""From Flax linen, NNX or plain functions to `Model`."""

from fedsparsify_jax.models.adapters.linen import Augment as Augment
from fedsparsify_jax.models.adapters.linen import Model as Model
from fedsparsify_jax.models.adapters.linen import Preprocess as Preprocess
from fedsparsify_jax.models.adapters.linen import from_functions as from_functions
from fedsparsify_jax.models.adapters.linen import from_linen as from_linen
from fedsparsify_jax.models.adapters.nnx import from_nnx as from_nnx
