"""DP-SGD: a client's step on clipped gradients of single examples, and noise.

In a step on a batch of at most B of a client's n examples, with weights w under the
masks m, z the noise multiplier and C the clipping norm,

    g_i  =  m * gradient of the loss of example i at w
    g    =  (sum_i min(1, C / |g_i|) g_i + z C m * N(0, I)) / min(B, n)

takes the place of the batch's gradient (Abadi et al., *Deep Learning with Differential
Privacy*, arXiv 1607.00133, algorithm 1). To zero out an example (Kairouz et al.,
*Practical and Private (Deep) Learning without Sampling or Shuffling*, arXiv 2103.00039)
moves the sum by at most C, to replace it by twice that, whatever it is: a gradient with
a NaN or an infinity is zero. The divisor is that of the client's full batches also for
the last short one of an epoch, whose noise is then no larger than that of the others.

All that a method does with g is post-processing: penalties that are added to the loss,
momentum, masks by magnitude. For that, `private_loss` is a loss in value, and has g for
its gradient; the method's objective sees it in place of the model's, and a batch whose
examples it cannot read. One step may take one such gradient, or the accounting of
`accounting.shuffled` would not be that of the training.

The examples of a batch never meet: each goes through the network by itself. The
gradients of as many of them are held at once as fit `NUMBERS_AT_ONCE`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Batch, BatchLoss
from fedsparsify_jax.privacy import noise
from fedsparsify_jax.training.local import StepLoss, StepLossFn
from fedsparsify_jax.types import Key, PyTree, Variables

NUMBERS_AT_ONCE = 2**24
"""Numbers of examples' gradients that one client holds at once: 64 MiB of float32."""

# Far from the small numbers that `split` folds in, and from `gradient_point`'s.
_NOISE = 0xD9_5E9D
# A loss that is only reported: no example makes the sum of all infinite.
_LARGEST_LOSS = 1e9


class ExamplePrivacy(NamedTuple):
    """The options of DP-SGD in clients' training; numbers may be traced."""

    clip_norm: ArrayLike  # C, of one example's gradient
    noise_multiplier: ArrayLike  # z, in units of C on the sum over a batch
    # the passes over a client's examples in a round that epsilon counts, see
    # `accounting.shuffled`: training with more is refused; None counts elsewhere
    passes: int | None = None


class Hidden:
    """Examples that nobody may read: all but their shape raises `InputError`.

    Args:
      array: the examples ``[B, ...]``, for shape and dtype.
      reader: who might read them, for the message.

    Example:
      >>> Hidden(jnp.zeros((2, 3)), "its loss looks").shape
      (2, 3)
      >>> Hidden(jnp.zeros((2, 3)), "its loss looks")[0]
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: privacy of examples does not go with this \
method: its loss looks at examples outside of the gradients that are clipped
    """

    def __init__(self, array: Any, reader: str) -> None:
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._reader = reader

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            f"privacy of examples does not go with this method: {self._reader} at "
            "examples outside of the gradients that are clipped"
        )

    def __getattr__(self, name: str) -> Any:
        self._refuse()

    __getitem__ = __len__ = __iter__ = __array__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __eq__ = __lt__ = __gt__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = _refuse
    __hash__ = None  # type: ignore[assignment]


def at_once(batch_size: int, numbers: int) -> int:
    """Returns how many examples' gradients are held at once: a divisor of the batch.

    Args:
      batch_size: B.
      numbers: of one gradient.

    Example:
      >>> at_once(32, 26_122), at_once(32, 1_600_000), at_once(31, 1_600_000)
      (32, 8, 1)
    """
    fitting = max(1, NUMBERS_AT_ONCE // max(numbers, 1))
    divisors = [d for d in range(1, batch_size + 1) if batch_size % d == 0]
    return max(d for d in divisors if d <= fitting or d == 1)


def clipped_sum(
    loss: BatchLoss,
    variables: Variables,
    batch: Batch,
    key: Key,
    norm: ArrayLike,
    kept: Callable[[PyTree], PyTree],
) -> tuple[jax.Array, PyTree]:
    """Adds up the clipped gradients of a batch's examples, and their losses.

    Args:
      loss: mean loss of a batch; it gets one example at a time.
      variables: of the model.
      batch: ``[B, ...]``; rows that are not valid count nothing.
      key: of what the examples' losses draw, each by itself.
      norm: C; may be traced.
      kept: a tree of parameters to that tree without what is pruned.

    Returns:
      The sum of the losses, those that are not finite as 1e9, and of the gradients of
      the parameters: float32 at least.

    Raises:
      InputError: for a loss that changes collections of the model, when it is traced.
    """
    others = {name: tree for name, tree in variables.items() if name != "params"}

    def of_one(x: jax.Array, y: jax.Array, numbers: Any) -> tuple[jax.Array, PyTree]:
        one = Batch(x=x[None], y=y[None], valid=jnp.ones(1, bool))

        def value_of(params: PyTree) -> jax.Array:
            model = others | {"params": params}
            value, changed = loss(model, one, with_keys(numbers))
            _refuse_statistics(changed)
            return value

        value, gradient = jax.value_and_grad(value_of)(variables["params"])
        return value, noise.clip(kept(_wide(gradient)), norm)

    def add(
        sums: tuple[jax.Array, PyTree], rows: tuple[Any, ...]
    ) -> tuple[tuple[jax.Array, PyTree], None]:
        x, y, valid, numbers = rows
        values, gradients = jax.vmap(of_one)(x, y, numbers)
        values = jnp.nan_to_num(values.astype(jnp.float32), nan=_LARGEST_LOSS)
        values = jnp.clip(values, -_LARGEST_LOSS, _LARGEST_LOSS)
        weights = valid.astype(jnp.float32)
        more = jnp.sum(values * weights), trees.weighted_sum(gradients, weights)
        return jax.tree.map(jnp.add, sums, more), None

    size = batch.valid.shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))
    numbers, with_keys = trees.hide_keys(keys)
    together = at_once(size, trees.size(variables["params"]))
    rows = jax.tree.map(
        lambda leaf: leaf.reshape(size // together, together, *leaf.shape[1:]),
        (batch.x, batch.y, batch.valid, numbers),
    )
    zeros = jax.tree.map(jnp.zeros_like, _wide(variables["params"]))
    sums, _ = jax.lax.scan(add, (jnp.float32(0), zeros), rows)
    return sums


def private_steps(options: ExamplePrivacy) -> StepLossFn:
    """Builds what replaces the loss of every step of local training.

    Args:
      options: see `ExamplePrivacy`.

    Returns:
      A function for `training.local.local_training`, whose losses are private.
    """

    def private_step(
        loss: BatchLoss,
        batch: Batch,
        size: jax.Array,
        key: Key,
        kept: Callable[[PyTree], PyTree],
    ) -> StepLoss:
        hidden = Batch(
            x=Hidden(batch.x, "its loss looks"),  # type: ignore[arg-type]
            y=Hidden(batch.y, "its loss looks"),  # type: ignore[arg-type]
            valid=batch.valid,
        )
        numbers, with_keys = trees.hide_keys(jax.random.fold_in(key, _NOISE))
        most = batch.valid.shape[0]
        divisor = jnp.clip(size, 1, most).astype(jnp.float32)
        calls: list[None] = []

        def private_loss(
            variables: Variables, batch_: Batch, key: Key
        ) -> tuple[jax.Array, Variables]:
            calls.append(None)
            _refuse_other_batch(batch_, hidden)
            at = jax.lax.stop_gradient(variables)
            norm = jnp.asarray(options.clip_norm, jnp.float32)
            total, gradient = clipped_sum(loss, at, batch, key, norm, kept)
            deviation = options.noise_multiplier * norm
            gradient = noise.noisy(with_keys(numbers), gradient, deviation)
            gradient = jax.tree.map(lambda g: g / divisor, kept(gradient))
            valid = jnp.sum(batch.valid, dtype=jnp.float32)
            value = total / jnp.maximum(valid, 1.0)
            return value + _zero_with_gradient(variables["params"], gradient), {}

        return StepLoss(loss=private_loss, batch=hidden, check=lambda: _one(calls))

    return private_step


def _wide(tree: PyTree) -> PyTree:
    """Returns the tree in float32 at least, in which norms are taken."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )


def _zero_with_gradient(params: PyTree, gradient: PyTree) -> jax.Array:
    """Returns 0, whose gradient with respect to the parameters is the one given."""
    gradient = jax.lax.stop_gradient(gradient)
    products = jax.tree.map(
        lambda w, g: jnp.sum((w - jax.lax.stop_gradient(w)) * g.astype(w.dtype)),
        params,
        gradient,
    )
    total: jax.Array = sum(jax.tree.leaves(products), start=jnp.float32(0))
    return total


def _refuse_statistics(changed: Variables) -> None:
    if changed:
        raise InputError(
            f"privacy of examples is of parameters only, training changes "
            f"{next(iter(changed))!r} as well: use a network without running "
            "statistics, such as one with group norm"
        )


def _refuse_other_batch(batch: Batch, hidden: Batch) -> None:
    if batch.x is not hidden.x or batch.y is not hidden.y:
        raise InputError(
            "privacy of examples does not go with this method: its loss is of other "
            "examples than those of the batch"
        )


def _one(calls: list[None]) -> None:
    """Checks, when a step is traced, that it released one gradient."""
    if len(calls) != 1:
        raise InputError(
            f"privacy of examples does not go with this method: its steps take "
            f"{len(calls)} gradients of the loss, and noise is accounted for 1"
        )
