"""The round: from a method's hooks to ``init`` and ``step``, and its surroundings."""

from fedsparsify_jax.engine.build import engine as engine
from fedsparsify_jax.engine.options import EngineOptions as EngineOptions
from fedsparsify_jax.engine.options import Options as Options
from fedsparsify_jax.engine.options import resolve as resolve
from fedsparsify_jax.engine.records import sum_uploads as sum_uploads
from fedsparsify_jax.engine.round import client_half as client_half
from fedsparsify_jax.engine.round import server_half as server_half
from fedsparsify_jax.engine.tuning import tuning_of as tuning_of
