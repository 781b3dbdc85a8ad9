"""Shadow runs of a federation: many of them in one program, each on its own half."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.engine import sweeps
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.audit.finished import Finished
from fedsparsify_jax.runner.audit.members import Pool, half, shadow_seed
from fedsparsify_jax.runner.options.config import NATURAL, TrainConfig
from fedsparsify_jax.runner.options.rules import in_options
from fedsparsify_jax.runner.programs.federation import (
    Keys,
    algorithm_of,
    memory_of_clients,
    partition,
    round_key,
)
from fedsparsify_jax.runner.programs.placement import client_map_of_trial, trial_map
from fedsparsify_jax.types import (
    ClientData,
    Examples,
    FederatedAlgorithm,
    Key,
    State,
    Variables,
    nothing_more,
)


class ShadowData(NamedTuple):
    """Data of one shadow run in the program; stacked ``[c, ...]``."""

    key: Key  # of its rounds
    rows: jax.Array  # [N, M] int32: which examples of the pool the clients hold
    sizes: jax.Array  # [N] int32: real ones of the M


def check_divisible(run: Finished) -> None:
    """Refuses runs whose clients cannot be had of other examples.

    Raises:
      InputError: in one line.
    """
    of_store = run.federation.population is not None
    if of_store or run.config.partition == NATURAL:
        how = "--dataset store" if of_store else f"--partition {NATURAL}"
        raise InputError(
            f"the clients of the run {run.path} come with the data ({how}), and test "
            "examples are no client's: shadow runs divide all examples anew, so leave "
            "--shadow-runs and LiRA out, or take --threat server, whose shadow models "
            "are of one client"
        )


class ShadowFederations:
    """Trains shadow runs of a run's configuration.

    Everything is as in the run but for the seed and the examples: each shadow run's
    clients divide its half of the pool as the configuration says.

    Args:
      run: the one that is attacked.
      pool: all examples.
      seed: of the audit.
      number: of shadow runs in all, for the length of the longest client.
      at_once: shadow runs in one call of the program.
      score: a model's variables to its scores, see `attacks.phi`.
      devices: that the shadow runs are divided over.
      inner: how one device runs its shadows, see `placement.trial_map`.
    """

    def __init__(
        self,
        run: Finished,
        pool: Pool,
        seed: int,
        number: int,
        at_once: int,
        score: Callable[[Variables], np.ndarray],
        devices: Sequence[Any] | None = None,
        inner: ClientMap | None = None,
    ):
        check_divisible(run)
        devices = list(devices or jax.local_devices())[:at_once]
        self._run, self._pool, self._seed, self._score = run, pool, seed, score
        # As many in every call, so that there is one program.
        self._width = -(-at_once // len(devices)) * len(devices)
        self._examples = pool.take(np.arange(pool.size))
        config, model = run.config, run.federation.model
        options, dataset = dataclasses.asdict(config), run.federation.dataset
        divided = [self._parts(shadow) for shadow in range(number)]
        self._longest = max(len(part) for parts in divided for part in parts)
        taken = memory_of_clients(options, model, dataset, divided[0])
        self._algorithm: FederatedAlgorithm = algorithm_of(
            config,
            model,
            dataset,
            client_map_of_trial(options, model, devices, taken, self._width),
            batch_size=min(config.batch_size or 1, self._longest),
        )
        trials = trial_map(devices, inner)
        self._program = jax.jit(
            sweeps.over_trials(self._rounds, trials), donate_argnums=0
        )

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """Trains shadow runs and scores their models: ``[c, n]``."""
        padded = [*numbers, *[numbers[-1]] * (self._width - len(numbers))]
        states = sweeps.stack_states([self._first(number) for number in padded])
        states, _ = self._program(states, self._examples, self._data(padded))
        states = jax.device_get(states)
        rows = []
        for place, number in enumerate(numbers):
            state = self._after(sweeps.trial_state(states, place), number)
            rows.append(self._score(self._algorithm.model(state)))
        return np.stack(rows)

    def _keys(self, number: int) -> Keys:
        return Keys.from_seed(shadow_seed(number, self._seed))

    def _parts(self, number: int) -> list[np.ndarray]:
        """Returns the examples of a shadow run's clients, by their numbers."""
        rows = half(self._pool.size, number, self._seed)
        seed = shadow_seed(number, self._seed)
        config: TrainConfig = dataclasses.replace(self._run.config, seed=seed)
        try:
            parts = partition(config, self._examples.y[rows])
        except InputError as error:
            raise InputError(
                f"a shadow run's half of all examples cannot be divided as in the run: "
                f"{in_options(str(error))}"
            ) from error
        return [rows[part] for part in parts]

    def _first(self, number: int) -> State:
        """Returns the state of a shadow run before round 1."""
        keys = self._keys(number)
        variables = self._run.federation.model.init(keys.model)
        return self._algorithm.init(keys.state, variables)

    def _data(self, numbers: Sequence[int]) -> ShadowData:
        """Returns the rows and keys of shadow runs, filled up to the longest client."""
        divided = [self._parts(number) for number in numbers]
        rows = np.zeros((len(numbers), len(divided[0]), self._longest), np.int32)
        sizes = np.zeros(rows.shape[:2], np.int32)
        for place, parts in enumerate(divided):
            for client, part in enumerate(parts):
                rows[place, client, : len(part)] = part
                sizes[place, client] = len(part)
        keys = jnp.stack([self._keys(number).rounds for number in numbers])
        return ShadowData(key=keys, rows=jnp.asarray(rows), sizes=jnp.asarray(sizes))

    def _rounds(
        self, state: State, examples: Examples, shadow: ShadowData
    ) -> tuple[State, tuple[()]]:
        """Runs all rounds of one shadow run."""
        rows = shadow.rows
        clients = ClientData(examples.x[rows], examples.y[rows], shadow.sizes)

        def one_round(_: jax.Array, state: State) -> State:
            key = round_key(shadow.key, state.round)
            return self._algorithm.step(key, state, clients)[0]

        return jax.lax.fori_loop(0, self._run.config.rounds, one_round, state), ()

    def _after(self, state: State, number: int) -> State:
        """Returns the state of a shadow run after post-training."""
        if self._algorithm.finish is nothing_more:
            return state
        data: ShadowData = jax.tree.map(lambda leaf: leaf[0], self._data([number]))
        x, y = self._examples
        clients = ClientData(
            x=jnp.asarray(x)[data.rows], y=jnp.asarray(y)[data.rows], sizes=data.sizes
        )
        state = jax.tree.map(jnp.asarray, state)
        return self._algorithm.finish(self._keys(number).of_finish(), state, clients)
