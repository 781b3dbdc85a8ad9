"""ProgFed: a network that grows block by block, pruned by FedSparsify's schedule.

Wang, Stich, He and Fritz, *ProgFed: Effective, Communication, and Computation Efficient
Federated Learning by Progressive Training*, ICML 2022, arXiv 2110.05323.

The network is G o E_S o ... o E_1. Stage s trains G_s o E_s o ... o E_1, of which only
that is sent: G_s are means over space and one linear layer for s < S, dropped when the
stage ends, and G_S = G. E_1, ..., E_(s-1) go on from where they are, E_s and G_s start
at their first weights, optimizers anew. Stages have, in this order,

    s < S:   T_s = floor(T / (2 S)) rounds, at least 1
    S:       all others of the T
    s > 1:   W rounds of warming up before these, in which E_s and G_s alone move

In round t of stage s, with w, m and n the weights, masks and number of weights of
its network:

    tune    w_k <- E local epochs from w, weights projected by m at every step
    merge   w   <- sum_k n_k w_k / sum_k n_k
    purge   m   <- the n - floor(s_t n) largest |w| of its layers, within m
            w   <- m * w

with the schedule s_t of FedSparsify-Global; with ``final_sparsity=0`` it is ProgFed by
itself, and with ``stages=1`` FedSparsify-Global (FedAvg). Bytes of a round are those of
its stage's network, both ways; first weights are not counted, like the first model's.

The round is one program: a branch on t, outside everything else, of whole rounds on the
network of a stage. So it costs what that network costs, while the state, of the whole
network and all heads, keeps its shapes: what is not there is pruned, for sending,
saving, resuming and vmapping alike. A program a stage would need other states,
checkpoints and sweeps. Price: compiling all stages at once, and updates, means and
masks of full size, which are little beside training.

Deviations: the last stage has the rounds that division leaves over. With fewer stages
than blocks, E_1, ..., E_s are the first floor(s B / S) of the B blocks. Warming up is
part of the rounds of a run, so that T is what is left; the authors count T without it.
Temporary heads are purged too. Running statistics move in frozen blocks as well (the
authors have GroupNorm), no batch is skipped (theirs with a loss of 10 and more are),
and the learning rate is constant (theirs is a cosine).

Checked against: NumPy, in tests/algorithms/test_progfed.py; lengths of stages against
the authors' configurations (hui-po-wang/ProgFed).
"""

from collections.abc import Sequence
from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import stages as staging
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.tuning import optimizer_of
from fedsparsify_jax.method import Context, Method, ServerTransform, Uploads
from fedsparsify_jax.models import Model
from fedsparsify_jax.pruning.selection import magnitude
from fedsparsify_jax.training.compact.wrapper import UnsuitableError
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scope,
    Variables,
)


def progfed(
    apply_fn: ApplyFn,
    *,
    parts: Sequence[Model] = (),
    stages: int | None = None,
    warmup_rounds: int = 0,
    final_sparsity: ArrayLike = 0.9,
    rounds: int = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    schedule: Schedule | None = None,
    merge: str | ValueMerge = "mean",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds ProgFed.

    Args:
      apply_fn: the model's forward pass.
      parts: networks of its first blocks, ``model.parts``; not needed for one stage.
      stages: S; None for a stage a block.
      warmup_rounds: W.
      final_sparsity: S_T in [0, 1); 0 for ProgFed by itself.
      rounds: T + (S - 1) W.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, in which nothing is purged any more.
      schedule: any other schedule, in place of the polynomial of the six above.
      merge: a name of `merges.NAMES` or a function of that signature.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`; asked for
        temporary heads too.
      **options: see `engine.options.Options`.

    Returns:
      The algorithm. Between rounds, `FederatedAlgorithm.evaluated` is the network of
      the stage; ``model`` is the whole one, whose later blocks are zero until they
      come.

    Raises:
      ValueError: for more stages than the model has blocks, or too few rounds.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = progfed(model.apply, parts=model.parts, stages=2, rounds=4)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> {path: int(kept) for path, kept in info.kept.items() if "kernel" in path}
      {'params/Dense_0/kernel': 8192, 'params/Dense_1/kernel': 0, \
'params/Dense_2/kernel': 0, 'params/head_1/kernel': 1280}
    """
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=end,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )
    purge = purge_by(
        lambda variables, context: magnitude(variables), scope=scope, prunable=prunable
    )
    method = Method(
        schedule=schedule, aggregate=aggregate(merge), server=purge, prunable=prunable
    )
    if stages == 1:
        return engine(apply_fn, method, **options)
    if options.get("compact_form") is not None:
        raise UnsuitableError("the network grows")

    networks = staging.stages_of(apply_fn, parts, stages)
    phases = staging.phases_of(rounds, len(networks), warmup_rounds)

    def of(phase: staging.Phase) -> FederatedAlgorithm:
        stage, of_phase = networks[phase.stage], options.copy()
        if phase.warm:
            optimizer = optimizer_of(resolve(options))
            of_phase["optimizer"] = staging.only(optimizer, stage.new)
            of_phase.pop("weight_decay", None)  # which that optimizer has already
            of_phase.pop("trust_coefficient", None)
        now = _within(stage.leaves, method, scope, prunable)
        return engine(stage.network.apply, now, **of_phase)

    course = staging.Course(networks, phases, [of(phase) for phase in phases])
    return staging.growing(course)


def _within(
    leaves: frozenset[str], method: Method, scope: Scope, prunable: Prunable | None
) -> Method:
    """Returns the method that has only these leaves, of which it prunes."""

    def present(name: str) -> bool:
        chosen = prunable(name) if prunable else name.split("/")[0] == "params"
        return name in leaves and chosen

    purge = purge_by(
        lambda variables, context: magnitude(variables), scope=scope, prunable=present
    )

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        variables, new, state = purge.update(key, variables, masks, uploads, context)
        # A purge keeps all that may not be pruned: what is absent stays so.
        return variables, mask_algebra.intersect(new, masks), state

    server = ServerTransform(purge.init, update)
    return method._replace(server=server, prunable=present)
