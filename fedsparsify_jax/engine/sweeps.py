"""Many runs as one program: seeds and traced hyperparameters along a leading axis.

The runs of a sweep, its *trials*, differ in numbers alone: keys, initial models, client
data, learning rates, sparsities. `over_trials` runs a function of one trial for all of
them, with any `client_map.ClientMap` in the place where clients usually go: all trials
at once (`vmapped`), one after another (`chunked`), divided over devices (`sharded`).

All trials have completed the same number of rounds, so `State.round` stays one scalar.
That matters: decisions that depend on the round alone (the masks of SNIP in round 1,
PruneFL's adjustments) remain real branches, while under a plain ``vmap`` of the whole
state every trial would compute both sides in every round.

Shape letter: ``S`` trials.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.client_map import ClientMap, vmapped
from fedsparsify_jax.types import PyTree, State

TrialFn = Callable[[State, PyTree, PyTree], tuple[State, PyTree]]
"""The work of one trial: ``(state, shared, trial) -> (state, result)``."""

_NO_ROUND: Any = ()  # in the place of the round, which is not stacked


def stack_states(states: Sequence[State]) -> State:
    """Stacks the states of S trials: leaves ``[S, ...]``, but ``round`` a scalar.

    Args:
      states: of the same structure, all after the same number of rounds.

    Raises:
      ValueError: if there is none, or they have completed different rounds.

    Example:
      >>> states = [State({"w": jnp.ones(2)}, {}, jnp.int32(3)) for _ in range(4)]
      >>> both = stack_states(states)
      >>> both.variables["w"].shape, int(both.round)
      ((4, 2), 3)
    """
    rounds = sorted({int(state.round) for state in states})
    if len(rounds) != 1:
        raise ValueError(
            f"the trials must have completed the same rounds: got {rounds}"
        )
    loose = [state._replace(round=_NO_ROUND) for state in states]
    stacked: State = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loose)
    return stacked._replace(round=jnp.int32(rounds[0]))


def trial_state(states: State, trial: int) -> State:
    """Returns the state of one trial, as its own run would have it.

    >>> states = State({"w": jnp.arange(4.0)}, {}, jnp.int32(3))
    >>> alone = trial_state(states, 2)
    >>> alone.variables, int(alone.round)
    ({'w': Array(2., dtype=float32)}, 3)
    """
    alone: State = trees.take(states._replace(round=_NO_ROUND), trial)
    return alone._replace(round=states.round)


def over_trials(
    fn: TrialFn, trials: ClientMap | None = None
) -> Callable[[State, PyTree, PyTree], tuple[State, Any]]:
    """Runs ``fn`` for every trial of a sweep.

    Builders of algorithms are called inside ``fn``, where hyperparameters of a trial
    are traced scalars.

    Args:
      fn: ``(state, shared, trial) -> (state, result)``: one or more rounds, equally
        many for every trial.
      trials: how they share the hardware, see `client_map`; all at once by default.
        For a mesh: ``sharded(mesh, inner)``.

    Returns:
      ``(states, shared, stacked) -> (states, results)``: the states as from
      `stack_states`, everything in ``stacked`` and in the results ``[S, ...]``.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> from fedsparsify_jax import algorithms
      >>> def one_round(state, clients, trial):
      ...     algorithm = algorithms.fedsparsify_global(
      ...         model.apply, final_sparsity=trial["sparsity"], rounds=1
      ...     )
      ...     return algorithm.step(trial["key"], state, clients)
      >>> init = algorithms.fedsparsify_global(model.apply).init
      >>> model_key, state_key = jax.random.split(jax.random.key(0))
      >>> start = model.init(model_key)  # each trial may have its own
      >>> states = stack_states([init(state_key, start), init(state_key, start)])
      >>> keys = jax.random.split(jax.random.key(1), 2)
      >>> grid = {"sparsity": jnp.array([0.5, 0.75]), "key": keys}
      >>> states, info = jax.jit(over_trials(one_round))(states, clients, grid)
      >>> [round(float(sparsity), 3) for sparsity in info.sparsity], int(states.round)
      ([0.5, 0.75], 1)
    """
    mapped = vmapped() if trials is None else trials

    def one(common: PyTree, stacked: PyTree) -> PyTree:
        completed, shared = common
        state, trial = stacked
        return fn(state._replace(round=completed), shared, trial)

    def run(states: State, shared: PyTree, stacked: PyTree) -> tuple[State, Any]:
        loose = states._replace(round=_NO_ROUND)
        _, (new, results) = mapped(one, (states.round, shared), (loose, stacked))
        return new._replace(round=new.round[0]), results

    return run
