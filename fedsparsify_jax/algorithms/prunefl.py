"""PruneFL: masks re-chosen now and then by importance for the time they cost.

Jiang, Wang, Valls, Ko, Lee, Leung and Tassiulas, *Model Pruning Enables Efficient
Federated Learning on Edge Devices*, TNNLS 2022, arXiv 1909.12326.

Clients train under m. In every A-th round t each also adds up the dense gradients g of
its steps and uploads the square of the sum; after the merge

    a_j         =  sum_k n_k (sum over steps g_kj)^2
    r           =  0.3 * 0.5^(t / 10000)
    stay        :  the kept weights but for the share r of smallest |w| of each layer
    candidates  :  all others, by decreasing a_j / t_j, added while
                   a_j / t_j > sum of a / (c + sum of t) over what is kept so far

with t_j the time a weight of its layer costs and c the fixed time of a round. Grown
weights start at zero. Before round 1, ``initial_adjustments`` such choices are made
between epochs of training on one random client, with the sum over steps of g^2.

A round that chooses masks sends a dense number for every weight besides the model, and
its bytes have them.

Deviations: the greedy choice is found without a sort (`greedy.most_efficient`). The
importance is that of the clients of the choosing round; the official code adds up
squares over the rounds before it as well, where all of its ten clients take part. Only
the masks of the initial stage are kept, not its weights, and it has a fixed length
where the code waits for the density to settle. Times default to 1 a weight and c to
0.1 a weight of the model: pure ranking by a_j. Sparsity is an outcome unless
``final_sparsity`` pins it for comparison. ``freeze_zero_initialized`` (see `snip`)
keeps zeros there for good.

Checked against: jiangyuang/PruneFL b499d3a, read (adaptive.py, control/algorithm.py);
the FedSparsify authors' port ranks signed gradients and is not reproduced. Importances,
choices and whole rounds against NumPy in tests/algorithms/test_prunefl.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation.means import weighted_mean
from fedsparsify_jax.algorithms._shared.before_training import nonzero
from fedsparsify_jax.algorithms._shared.client_scores import scoring_clients
from fedsparsify_jax.algorithms._shared.greedy import (
    most_efficient,
    most_important,
    ratios,
)
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.tuning import optimizer_of
from fedsparsify_jax.method import (
    Client,
    Context,
    GradFn,
    GradientTransform,
    Local,
    Method,
    ServerTransform,
    Setup,
    Upload,
    Uploader,
    Uploads,
    no_state,
    stacked,
)
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER
from fedsparsify_jax.pruning.selection import drop_share, magnitude
from fedsparsify_jax.training.local import TrainFn, batch_loss, local_training
from fedsparsify_jax.types import (
    ApplyFn,
    Cohort,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Variables,
)


class _Rule(NamedTuple):
    """The choice of masks; the fields are arguments of `prunefl`."""

    final_sparsity: ArrayLike | None
    max_density: ArrayLike
    layer_time: Callable[[str], float] | None
    fixed_time: ArrayLike | None
    droppable: ArrayLike
    half_life: ArrayLike
    prunable: Prunable | None

    def times(self, variables: Variables) -> PyTree:
        """Returns t_j, one number a leaf."""
        return trees.map_with_name(
            lambda name, _: 1.0 if self.layer_time is None else self.layer_time(name),
            variables,
        )

    def fixed(self, times: PyTree, variables: Variables) -> ArrayLike:
        """Returns c: by default a tenth of the time of all prunable weights."""
        if self.fixed_time is not None:
            return self.fixed_time
        uses = mask_algebra.prunable_leaves(variables, self.prunable)
        cost = jax.tree.map(lambda use, t, w: use * t * w.size, uses, times, variables)
        return jnp.float32(0.1 * sum(jax.tree.leaves(cost)))

    def masks(
        self,
        variables: Variables,
        masks: Masks,
        importance: PyTree,
        t: ArrayLike,
        context: Context,
    ) -> Masks:
        """Returns the masks after an adjustment in round t."""
        importance = jax.tree.map(jnp.zeros_like, variables) | importance
        share = self.droppable * 0.5 ** (jnp.asarray(t, jnp.float32) / self.half_life)
        stay = drop_share(magnitude(variables), masks, share, prunable=self.prunable)
        within = context.server  # what may ever be kept; None for everything
        best = functools.partial(most_important, stay=stay, prunable=self.prunable)
        times = self.times(variables)
        gain = ratios(importance, times)
        if self.final_sparsity is not None:
            return best(gain, sparsity=context.sparsity, within=within)
        chosen = most_efficient(
            importance,
            times,
            stay,
            fixed_time=self.fixed(times, variables),
            within=within,
            prunable=self.prunable,
        )
        return best(gain, sparsity=1 - jnp.asarray(self.max_density), within=chosen)


def _zeros(variables: Variables) -> PyTree:
    return {"params": jax.tree.map(jnp.zeros_like, variables["params"])}


def _adding(term: Callable[[jax.Array], jax.Array]) -> GradientTransform:
    """Adds up a term of the gradients of a client's steps."""

    def update(
        grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[Any, Variables, PyTree]:
        value, gradients = grad_fn(variables)
        terms = jax.tree.map(term, gradients)
        return value, gradients, jax.tree.map(jnp.add, memory, terms)

    return GradientTransform(_zeros, update)


def _sending(interval: int) -> Uploader:
    """Sends the squared sums of gradients; other rounds than every A-th drop them."""

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        chooses = context.round % interval == 0
        importance = jax.tree.map(
            lambda total: jnp.where(chooses, total * total, 0.0), local.memory
        )
        dense = BYTES_PER_NUMBER * trees.size(importance)
        upload = Upload(
            variables=local.variables,
            masks=local.masks,
            extra=importance,
            extra_bytes=jnp.where(chooses, jnp.uint32(dense), jnp.uint32(0)),
        )
        return upload, client.state

    return Uploader(no_state, send)


def _mean(uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
    return weighted_mean(uploads.variables, uploads.sizes), context.masks


def _choosing(rule: _Rule, interval: int, freeze: bool) -> ServerTransform:
    """Chooses masks by the clients' importances in every A-th round."""

    def eligible(variables: Variables, masks: Masks) -> Masks | None:
        return nonzero(variables, rule.prunable) if freeze else None

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        importance = trees.weighted_sum(uploads.extra, uploads.sizes)
        masks = jax.lax.cond(
            context.round % interval == 0,
            lambda: rule.masks(variables, masks, importance, context.round, context),
            lambda: masks,
        )
        return mask_algebra.apply(masks, variables), masks, context.server

    return ServerTransform(eligible, update)


def _initial_stage(
    rule: _Rule,
    train: TrainFn,
    optimizer: optax.GradientTransformation,
    adjustments: int,
) -> Setup:
    """Chooses the first masks between trainings on one random client."""

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        _, train_key = jax.random.split(key)
        data = trees.take(clients.data, 0)

        def stage(
            carry: tuple[Variables, Masks], number: jax.Array
        ) -> tuple[tuple[Variables, Masks], None]:
            variables, masks = carry
            state = optimizer.init(variables["params"])
            key = jax.random.fold_in(train_key, number)
            trained = train(key, variables, masks, state, data, context)
            masks = rule.masks(trained.variables, masks, trained.memory, 0, context)
            return (trained.variables, masks), None

        eligible = context.server
        start = context.variables, context.masks if eligible is None else eligible
        (_, masks), _ = jax.lax.scan(stage, start, jnp.arange(adjustments))
        return mask_algebra.apply(masks, context.variables), masks

    return Setup(functools.partial(scoring_clients, source="client"), first_masks)


def prunefl(
    apply_fn: ApplyFn,
    *,
    interval: int = 50,
    final_sparsity: ArrayLike | None = None,
    max_density: ArrayLike = 1.0,
    layer_time: Callable[[str], float] | None = None,
    fixed_time: ArrayLike | None = None,
    droppable: ArrayLike = 0.3,
    half_life: ArrayLike = 10_000,
    initial_adjustments: int = 5,
    initial_epochs: int = 1,
    prunable: Prunable | None = None,
    freeze_zero_initialized: bool = False,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds PruneFL.

    Args:
      apply_fn: the model's forward pass.
      interval: rounds between adjustments.
      final_sparsity: if given, every choice keeps exactly ``n - floor(S n)`` weights,
        the best of the candidates whatever they gain.
      max_density: otherwise, the share of the weights that may be kept at most.
      layer_time: path of a leaf to the time of one of its weights; 1 by default.
      fixed_time: c > 0; by default a tenth of the time of all prunable weights.
      droppable: share of each layer's kept weights that is up for replacement, 0.3 in
        the paper, halved every ``half_life`` rounds.
      half_life: in rounds.
      initial_adjustments: choices before round 1; 0 starts dense.
      initial_epochs: epochs of SGD on one client before each of them (the authors
        make 10).
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      freeze_zero_initialized: whether parameters that start at zero stay there.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = prunefl(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")
    if initial_adjustments < 0:
        raise ValueError(
            f"initial_adjustments is {initial_adjustments}: it must be at least 0"
        )
    if initial_epochs < 1:
        raise ValueError(f"initial_epochs is {initial_epochs}: it must be at least 1")
    rule = _Rule(
        final_sparsity=final_sparsity,
        max_density=max_density,
        layer_time=layer_time,
        fixed_time=fixed_time,
        droppable=droppable,
        half_life=half_life,
        prunable=prunable,
    )
    method = Method(
        schedule=schedules.constant(0.0 if final_sparsity is None else final_sparsity),
        gradient=_adding(lambda gradient: gradient),
        upload=_sending(interval),
        aggregate=stacked(_mean),
        server=_choosing(rule, interval, freeze_zero_initialized),
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    resolved = resolve(options)
    optimizer = optimizer_of(resolved)
    train = local_training(
        batch_loss(apply_fn, resolved.loss_fn),
        optimizer,
        method._replace(gradient=_adding(jnp.square)),
        epochs=initial_epochs,
        batch_size=resolved.batch_size,
    )
    setup = _initial_stage(rule, train, optimizer, initial_adjustments)
    return engine(apply_fn, method._replace(setup=setup), **options)
