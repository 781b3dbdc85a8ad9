"""Shadow uploads: what a client would have sent, had it other examples.

A curious server has the model that it sent out, and trains it itself, with the client's
part of the round, on random halves of the client's examples and as many others.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.method import Context, Upload
from fedsparsify_jax.runner.audit.attacks import phi
from fedsparsify_jax.runner.audit.curious_server import Observed, model_of
from fedsparsify_jax.runner.audit.finished import Finished
from fedsparsify_jax.runner.audit.members import Pool, half, shadow_seed
from fedsparsify_jax.runner.audit.shadows import Trainer
from fedsparsify_jax.runner.programs.federation import Keys
from fedsparsify_jax.runner.programs.placement import trial_map
from fedsparsify_jax.types import ClientData, ClientsState, Examples, Key


class ShadowUploads:
    """Trains shadow uploads of a client: its part of the round, on halves of a pool.

    Args:
      run: that is attacked.
      seen: the round.
      pool: the client's examples and others.
      seed: of the audit.
      at_once: uploads in one call of the program.
      examples: that are attacked.
    """

    def __init__(
        self,
        run: Finished,
        seen: Observed,
        pool: Pool,
        seed: int,
        at_once: int,
        examples: Examples,
    ):
        self._run, self._seen, self._pool, self._seed = run, seen, pool, seed
        self._width = at_once
        self._score = phi(run.federation.model, run.federation.dataset, examples)
        self._examples = pool.take(np.arange(pool.size))
        # What the client kept is not known to the server.
        self._kept = seen.halves.keep(seen.state.variables)
        self._map = trial_map(jax.local_devices()[:1], None)
        self._program = jax.jit(self._uploads)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """Trains shadow uploads and scores them: ``[c, n]``."""
        padded = [*numbers, *[numbers[-1]] * (self._width - len(numbers))]
        halves = [half(self._pool.size, number, self._seed) for number in padded]
        # Halves of an odd number differ by one.
        rows = np.stack([np.resize(h, -(-self._pool.size // 2)) for h in halves])
        sizes = np.array([len(h) for h in halves], np.int32)
        seeds = [shadow_seed(number, self._seed) for number in padded]
        keys = jnp.stack([Keys.from_seed(seed).rounds for seed in seeds])
        shared = (self._seen.context, self._kept, self._examples)
        uploads = jax.device_get(self._program(shared, (keys, rows, sizes)))
        results = []
        for place in range(len(numbers)):
            upload = jax.tree.map(lambda leaf, place=place: leaf[place], uploads)
            model = model_of(self._run, self._seen.state, upload)
            results.append(self._score(model))
        return np.stack(results)

    def _uploads(
        self,
        shared: tuple[Context, ClientsState, Examples],
        stacked: tuple[Key, jax.Array, jax.Array],
    ) -> Upload:
        """Returns the uploads of some shadows, stacked ``[c, ...]``."""

        def one(
            shared: tuple[Context, ClientsState, Examples],
            shadow: tuple[Key, jax.Array, jax.Array],
        ) -> Upload:
            (context, kept, examples), (key, rows, size) = shared, shadow
            data = ClientData(examples.x[rows], examples.y[rows], size)
            number = jnp.int32(self._seen.client)
            result = self._seen.halves.client(key, context, number, data, kept)
            upload: Upload = result.upload
            return upload._replace(extra=(), extra_bytes=())

        _, uploads = self._map(one, shared, stacked)
        return uploads


def trainer(
    run: Finished, seen: Observed, pool: Pool, seed: int, at_once: int
) -> Callable[[Examples], Trainer]:
    """Builds what trains shadow uploads and scores the examples that are attacked."""
    return lambda examples: ShadowUploads(run, seen, pool, seed, at_once, examples)
