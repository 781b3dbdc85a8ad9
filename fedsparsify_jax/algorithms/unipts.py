"""UniPTS: a dense model, pruned after its training on a few examples.

Xie, Zhang, Lin, Cao and Ji, *UniPTS: A Unified Framework for Proficient Post-Training
Sparsity*, CVPR 2024, arXiv 2405.18810.

FedAvg for T rounds; then one machine, with some of the clients' examples, the dense
model w_0, its answers ``p = softmax(z_0 / 4)`` and a sparsity P, finds

    budgets   of layers l, with n_l of the N weights and genes v:
              s_l <- max(0, P + d - softmax(v)_l d N / n_l),   d = 0.05;
              v by evolution, for the accuracy of w_0 pruned so, statistics anew
    weights   in steps of SGD with momentum 0.9, a cosine rate and decay 1e-4,
              m   <- in every layer, the n_l (1 - s_l) largest |w|
              w   <- w - eta (g + 5e-5 (1 - m) * w),  g the gradient at m * w of
              L   =  16 mean_b sum_c p (ln p - log_softmax(z) / tau_e),
              tau_e = 8 * 0.99^e in epoch e, so that g grows by 1 / tau_e
    result    w <- m * w, statistics anew

Deviations: the budgets are scaled so that they have P exactly, where the clip alone
makes small networks sparser; d is at most (1 - P) / 2. Norms and biases, if they may be
pruned, are layers too. Genes start at ln n_l + N(0, 1), the first of them at ln n_l (P
everywhere), which is the paper's child of that kind, and the best 10 of all so far have
12 crossovers and 12 mutations as children. Statistics are the mean of all batches',
without the noise of 1e-6. The teacher answers once, to images that are not augmented.
1,024 examples, where the paper has 10,240 of a million. They leave the clients: a
deployment takes data of the server's. What that sends is not counted.

Checked against: NumPy, in tests/algorithms/test_unipts.py. The authors' code has no
licence and was not looked at.
"""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import calibration
from fedsparsify_jax.algorithms._shared.allocation_search import searched_counts
from fedsparsify_jax.algorithms._shared.sparse_distillation import (
    Distillation,
    distilled,
)
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.engine.wrappers.ema import with_ema
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Batch, Method
from fedsparsify_jax.pruning.selection import keep_counts, magnitude
from fedsparsify_jax.training.statistics import batches_in_order, re_estimated
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    FederatedAlgorithm,
    Key,
    Prunable,
    PyTree,
    RoundInfo,
    State,
    Variables,
)


def unipts(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    calibration_examples: int = 1024,
    generations: int = 25,
    post_epochs: int = 100,
    post_batch_size: int = 64,
    post_learning_rate: ArrayLike = 0.01,
    temperature: ArrayLike = 4.0,
    pruned_decay: ArrayLike = 5e-5,
    prunable: Prunable | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedAvg with UniPTS as its ``finish``.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: P in [0, 1); at 0 the model stays as it is.
      calibration_examples: drawn from all clients; all of them if there are fewer.
      generations: of the search; 0 gives every layer P.
      post_epochs: over those examples; 0 prunes alone.
      post_batch_size: B of these epochs.
      post_learning_rate: eta of the first step.
      temperature: of the teacher's answers.
      pruned_decay: of pruned weights.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      merge: a name of `merges.NAMES` or a function of that signature.
      **options: see `engine.options.Options`. ``client_map`` runs the candidates of the
        search too.

    Raises:
      InputError: for private rounds.
      ValueError: for an unknown merge, or numbers of examples or epochs that cannot be.

    Returns:
      The algorithm. Its ``step`` raises `InputError` for targets that are no classes.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> few = {"calibration_examples": 64, "generations": 1, "post_epochs": 1}
      >>> algorithm = unipts(model.apply, **few)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> state = algorithm.finish(jax.random.key(3), state, clients)
      >>> float(info.sparsity), round(float(mask_algebra.sparsity(state.masks)), 3)
      (0.0, 0.9)
    """
    _check(calibration_examples, generations, post_epochs, post_batch_size)
    if options.get("privacy") is not None:
        raise InputError(
            "privacy does not go with this method: after the last round it looks at "
            "clients' examples without noise; use fedsparsify-global"
        )
    settings = Distillation(
        epochs=post_epochs,
        batch_size=post_batch_size,
        learning_rate=post_learning_rate,
        temperature=temperature,
        pruned_decay=pruned_decay,
    )
    search = partial(
        searched_counts,
        apply_fn,
        sparsity=final_sparsity,
        generations=generations,
        run=options.get("client_map") or vmapped(),
        prunable=prunable,
    )
    post = _post_training(apply_fn, calibration_examples, search, settings, prunable)
    decay = options.pop("server_ema", None)  # around `finish`, too
    method = Method(aggregate=aggregate(merge), prunable=prunable)
    algorithm = engine(apply_fn, method, **options)

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        if not jnp.issubdtype(clients.y.dtype, jnp.integer):
            raise InputError(
                "unipts distils shares of classes, the targets are numbers"
            )
        return algorithm.step(key, state, clients)

    @jax.jit
    def finish(key: Key, state: State, clients: ClientData) -> State:
        numbers, with_keys = trees.hide_keys(key)
        return jax.lax.cond(
            jnp.asarray(final_sparsity) > 0,
            lambda: post(with_keys(numbers), state, clients),
            lambda: state,
        )

    return with_ema(decay, algorithm._replace(step=step, finish=finish))


def _post_training(
    apply_fn: ApplyFn,
    examples: int,
    search: Callable[[Key, Variables, Batch], PyTree],
    settings: Distillation,
    prunable: Prunable | None,
) -> Callable[[Key, State, ClientData], State]:
    """Builds what comes after the rounds: search, train, prune, measure statistics."""

    def post(key: Key, state: State, clients: ClientData) -> State:
        draw, search_key, train, measure = jax.random.split(key, 4)
        dense = state.variables
        data = calibration.drawn(draw, clients, examples)
        batches = batches_in_order(data, settings.batch_size)
        counts = search(search_key, dense, batches)
        w = distilled(apply_fn, train, dense, counts, data, settings, prunable=prunable)
        masks = keep_counts(magnitude(w), counts, prunable=prunable)
        sparse = mask_algebra.apply(masks, w)
        new = re_estimated(apply_fn, measure, sparse, batches)
        return state._replace(variables=trees.cast_like(new, dense), masks=masks)

    return post


def _check(examples: int, generations: int, epochs: int, batch_size: int) -> None:
    for name, number, least in (
        ("calibration_examples", examples, 1),
        ("generations", generations, 0),
        ("post_epochs", epochs, 0),
        ("post_batch_size", batch_size, 1),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}: it must be at least {least}")
