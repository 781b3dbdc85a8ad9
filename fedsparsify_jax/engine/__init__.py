"""The round: from a method's hooks to ``init`` and ``step``, and what wraps them."""

from fedsparsify_jax.engine.round import EngineOptions as EngineOptions
from fedsparsify_jax.engine.round import engine as engine
