"""Training of a network that grows block by block, in a state that never changes shape.

The state has the leaves of the whole network and of all temporary heads from the start.
What is not there yet, or not any more, is masked out and zero, as if it were pruned: so
nobody sends or counts it. The first weights of later blocks wait on the server.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedsparsify_jax import trees
from fedsparsify_jax.engine.wrappers.ema import Averaged
from fedsparsify_jax.engine.wrappers.variables import checked
from fedsparsify_jax.errors import counted
from fedsparsify_jax.models import Model
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Cohort,
    FederatedAlgorithm,
    Key,
    PyTree,
    RoundInfo,
    State,
    Variables,
)

STAGE = "stage"
"""Collection of the variables to evaluate that says which stage they are of."""


class Stage(NamedTuple):
    """The network of the first blocks; that of the last stage is the whole one."""

    network: Model
    leaves: frozenset[str]  # paths of its variables
    new: frozenset[str]  # those that the stage before did not have


class Phase(NamedTuple):
    """Rounds in a row in which the same is trained."""

    stage: int  # from 0
    warm: bool  # whether only what is new is trained
    length: int


class Growing(NamedTuple):
    """``State.server`` of an algorithm whose network grows."""

    method: PyTree  # what the algorithm itself keeps on the server
    first: dict[str, jax.Array]  # path of a leaf of later stages to its first weights


def stages_of(
    apply_fn: ApplyFn, parts: Sequence[Model], number: int | None
) -> list[Stage]:
    """Returns S stages, which end behind block floor(s B / S) of the B there are.

    Args:
      apply_fn: the forward pass of the whole network.
      parts: of the model, see `models.Model`.
      number: S; None for a stage a block.

    Raises:
      ValueError: if there are not that many blocks.
    """
    if not parts:
        raise ValueError(
            f"stages is {number or 'a block each'}: the model does not offer its first "
            "blocks as networks of their own (mlp, cnn, vgg16_bn, resnet56 and "
            "resnet18_gn do), so it must be 1"
        )
    blocks = len(parts)
    number = blocks if number is None else number
    if not 1 <= number <= blocks:
        raise ValueError(
            f"stages is {number}: it must be at least 1, and at most {blocks} for this "
            f"model, which has {counted(blocks, 'block')}"
        )
    chosen = [parts[s * blocks // number - 1] for s in range(1, number + 1)]
    chosen[-1] = chosen[-1]._replace(apply=apply_fn)
    leaves = [frozenset(dict(trees.named_leaves(_shapes(part)))) for part in chosen]
    before = [frozenset[str](), *leaves]
    return [
        Stage(network=part, leaves=now, new=now - old)
        for part, now, old in zip(chosen, leaves, before, strict=False)
    ]


def _shapes(network: Model) -> Variables:
    shapes: Variables = jax.eval_shape(network.init, jax.random.key(0))
    return shapes


def phases_of(rounds: int, stages: int, warmup: int) -> list[Phase]:
    """Divides the rounds: T / (2 S) for each stage but the last, which has all others.

    T are the rounds without those of warming up, which every stage but the first opens
    with.

    Args:
      rounds: T + (S - 1) W.
      stages: S.
      warmup: W.

    Raises:
      ValueError: for fewer rounds than that takes.

    Example:
      >>> [phase.length for phase in phases_of(42, 2, 2)]
      [10, 2, 30]
      >>> [phase.length for phase in phases_of(3000, 4, 0)]
      [375, 375, 375, 1875]
    """
    if warmup < 0:
        raise ValueError(f"warmup_rounds is {warmup}: it must be at least 0")
    training = rounds - (stages - 1) * warmup
    if training < stages:
        raise ValueError(
            f"rounds is {rounds}: {counted(stages, 'stage')} with warmup_rounds of "
            f"{warmup} take at least {stages + (stages - 1) * warmup}"
        )
    each = max(training // (2 * stages), 1)
    phases = []
    for stage in range(stages):
        last = stage == stages - 1
        length = training - stage * each if last else each
        phases.append(Phase(stage=stage, warm=True, length=warmup if stage else 0))
        phases.append(Phase(stage=stage, warm=False, length=length))
    return [phase for phase in phases if phase.length]


def only(
    optimizer: optax.GradientTransformation, leaves: frozenset[str]
) -> optax.GradientTransformation:
    """Returns the optimizer that moves some leaves of ``params`` alone.

    Others have neither gradients nor updates; its state is that of all of them.
    """
    inner = optax.with_extra_args_support(optimizer)

    def chosen(tree: PyTree) -> PyTree:
        return trees.map_with_name(
            lambda name, u: u if f"params/{name}" in leaves else jnp.zeros_like(u), tree
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        updates, state = inner.update(chosen(updates), state, params, **extra)
        return chosen(updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


class Course(NamedTuple):
    """The phases of a run, and the algorithm that each of them trains by.

    All algorithms have the same state: a part of the leaves is pruned in it.
    """

    stages: Sequence[Stage]
    phases: Sequence[Phase]
    algorithms: Sequence[FederatedAlgorithm]

    @property
    def ends(self) -> list[int]:
        """Returns the last round of every phase."""
        return list(itertools.accumulate(phase.length for phase in self.phases))

    def phase(self, completed: jax.Array) -> jax.Array:
        """Returns the number of the phase that comes after so many rounds."""
        passed = [jnp.int32(completed >= end) for end in self.ends[:-1]]
        return sum(passed, start=jnp.int32(0))

    def stage(self, completed: jax.Array) -> jax.Array:
        """Returns the number of the stage of the last of so many rounds, from 0."""
        last = self.phase(jnp.maximum(completed - 1, 0))
        return jnp.array([phase.stage for phase in self.phases], jnp.int32)[last]

    def round(self, runs: Sequence[Any], *args: Any) -> tuple[State, RoundInfo]:
        """Runs a round, ``(key, state, ...)``, by that of its phase."""
        # The checker takes a key that goes to several branches for used twice.
        numbers, with_keys = trees.hide_keys(args)
        branches = [
            lambda numbers, number=number, run=run: self._round_of(
                number, run, *with_keys(numbers)
            )
            for number, run in enumerate(runs)
        ]
        phase = self.phase(args[1].round)
        new: tuple[State, RoundInfo] = jax.lax.switch(phase, branches, numbers)
        return new

    def _round_of(
        self, number: int, run: Any, key: Key, state: State, *data: Any
    ) -> tuple[State, RoundInfo]:
        """Runs a round of one phase; the network grows before a stage's first one."""
        first, stage = state.server.first, self.phases[number].stage
        state = state._replace(server=state.server.method)
        if number and self.phases[number - 1].stage < stage:
            begins = state.round == self.ends[number - 1]
            state = self._grown(state, first, stage, begins)
        state, info = run(key, state, *data)
        return state._replace(server=Growing(method=state.server, first=first)), info

    def _grown(
        self, state: State, first: dict[str, jax.Array], number: int, begins: jax.Array
    ) -> State:
        """Returns the state with the leaves of a stage, if that begins."""
        stage, before = self.stages[number], self.stages[number - 1]
        gone = dict.fromkeys(before.leaves - stage.leaves, 0)
        weights = {name: first[name] for name in stage.new}
        kept = dict.fromkeys(stage.new, True) | dict.fromkeys(gone, False)
        state = _in_models(state, lambda tree: _put(begins, weights | gone, tree))
        state = state._replace(masks=_put(begins, kept, state.masks))

        # Kept optimizers start anew: nothing of what was trained pulls at the blocks.
        if jax.tree.leaves(state.clients.optimizer):
            anew = self.algorithms[0].init(jax.random.key(0), state.variables).clients
            optimizer = trees.where(begins, anew.optimizer, state.clients.optimizer)
            state = state._replace(clients=state.clients._replace(optimizer=optimizer))
        return state


def growing(course: Course) -> FederatedAlgorithm:
    """Makes one algorithm of those of the phases.

    A round is a real branch on ``State.round``: it computes what its phase trains.
    """
    stages, algorithms = course.stages, course.algorithms
    whole, inner = _shapes(stages[-1].network), algorithms[-1]
    assert inner.cohorts is not None

    def init(key: Key, variables: Variables) -> State:
        variables = _with_heads(key, checked(variables), stages)
        leaves = stages[0].leaves
        named = trees.named_leaves(variables)
        first = {name: jnp.copy(leaf) for name, leaf in named if name not in leaves}
        absent = dict.fromkeys(first, 0)
        state = inner.init(key, _put(jnp.array(True), absent, variables))
        masks = _put(jnp.array(True), dict.fromkeys(first, False), state.masks)
        return state._replace(
            masks=masks, server=Growing(method=state.server, first=first)
        )

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        runs = [algorithm.step for algorithm in algorithms]
        return course.round(runs, key, state, clients)

    def run(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        runs = [one.cohorts.run for one in algorithms if one.cohorts is not None]
        return course.round(runs, key, state, cohort, setup_clients)

    def model(state: State) -> Variables:
        state = state._replace(server=state.server.method)
        variables: Variables = trees.restricted(inner.model(state), whole)
        return variables

    def evaluated(state: State) -> tuple[ApplyFn, Variables]:
        stage = course.stage(state.round)
        state = state._replace(server=state.server.method)
        networks = [stage.network.apply for stage in stages]
        return _staged(networks), inner.model(state) | {STAGE: stage}

    return inner._replace(
        init=init,
        step=step,
        model=model,
        evaluated=evaluated,
        cohorts=inner.cohorts._replace(run=run),
        halves=None,  # a round is of its stage's
    )


def _staged(networks: Sequence[ApplyFn]) -> ApplyFn:
    """Returns the forward pass of the stage that the variables say they are of."""

    def apply(
        variables: Variables, x: jax.Array, **flags: Any
    ) -> tuple[jax.Array, Variables]:
        own = {name: tree for name, tree in variables.items() if name != STAGE}
        branches = [lambda x, one=one: one(own, x, **flags)[0] for one in networks]
        return jax.lax.switch(variables[STAGE], branches, x), {}

    return apply


def _put(condition: jax.Array, values: Mapping[str, Any], tree: PyTree) -> PyTree:
    """Replaces leaves, by path, under a condition."""
    return trees.map_with_name(
        lambda name, leaf: (
            jnp.where(condition, values[name], leaf) if name in values else leaf
        ),
        tree,
    )


def _in_models(state: State, change: Callable[[Variables], Variables]) -> State:
    """Changes the variables, and their average if the server keeps one."""
    server = state.server
    if isinstance(server, Averaged):
        server = server._replace(average=change(server.average))
    return state._replace(variables=change(state.variables), server=server)


def _with_heads(key: Key, variables: Variables, stages: Sequence[Stage]) -> Variables:
    """Adds what only the networks of earlier stages have: their heads."""
    for number, stage in enumerate(stages[:-1]):
        own = stage.network.init(jax.random.fold_in(key, number))
        variables = trees.joined(variables, own)
    return variables
