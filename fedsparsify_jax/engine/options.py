"""The options that every algorithm has, with their defaults."""

from typing import NamedTuple, TypedDict, get_args

import optax
from jax.typing import ArrayLike

from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.compressors import compression_of
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.engine.wrappers import clipping, faults
from fedsparsify_jax.engine.wrappers.attacks import Attack
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.engine.wrappers.private import Privacy
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy
from fedsparsify_jax.training.compact.wrapper import Form
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.training.powerprop import check_alpha
from fedsparsify_jax.types import (
    CohortSampling,
    GradientPoint,
    LocalOptimizer,
    LossFn,
    OptimizerState,
    PowerpropAverage,
    UploadCompression,
    WireValues,
)


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of `engine`; `Options` documents them."""

    learning_rate: ArrayLike
    momentum: ArrayLike | None
    nesterov: bool
    optimizer: LocalOptimizer | optax.GradientTransformation | None
    weight_decay: ArrayLike | None
    trust_coefficient: ArrayLike | None
    gradient_clip: ArrayLike | None
    optimizer_state: OptimizerState
    num_clients: int | None
    num_classes: int | None
    loss_fn: LossFn
    local_epochs: float
    local_steps: int | None
    batch_size: int
    participation: float
    cohort_sampling: CohortSampling
    client_map: ClientMap | None
    compact_form: Form | None
    faults: Faults | None
    attack: Attack | None
    clip_norm: ArrayLike | None
    privacy: Privacy | ExamplePrivacy | None
    server_ema: ArrayLike | None
    server_lookahead: ArrayLike | None
    powerprop: ArrayLike | None
    powerprop_average: PowerpropAverage
    gradient_point: GradientPoint
    gradient_radius: ArrayLike | None
    wire_values: WireValues
    upload_compression: UploadCompression
    topk_fraction: ArrayLike | None
    error_feedback: bool | None
    keep_messages: bool


class Options(NamedTuple):
    """The options of the engine.

    ``learning_rate``, ``momentum``, ``weight_decay``, ``trust_coefficient``,
    ``gradient_clip``, ``clip_norm``, ``server_ema``, ``server_lookahead``,
    ``powerprop``, ``gradient_radius``, ``topk_fraction`` and the numbers of ``faults``,
    ``attack`` and ``privacy`` may be traced; all else is static.

    Attributes:
      learning_rate: of the clients' SGD.
      momentum: of the clients' SGD; None or 0 for none.
      nesterov: whether the momentum is Nesterov's.
      optimizer: ``"lars"`` or any Optax transformation, in place of that ``"sgd"``.
      weight_decay: of LARS, see `optimizers.lars`; 0 by default.
      trust_coefficient: of LARS; 0.001 by default.
      gradient_clip: the largest norm of a step's gradient by the kept weights; longer
        ones are scaled down, see `optimizers.clipping`. None for no limit.
      optimizer_state: ``"fresh"`` starts every client with a new state every round;
        ``"kept"`` keeps a state for each of the N clients, as the authors' long-lived
        Keras models do. The same thing for SGD without momentum.
      num_clients: N; needed for whatever is kept for each client.
      num_classes: C; needed for representative cohorts, whose clients have classes
        ``0 .. C - 1`` as targets.
      loss_fn: outputs and targets of a batch to one loss an example.
      local_epochs: E, passes over its data that a client makes in a round; 0.5 is
        half of the steps of one.
      local_steps: steps of every client in a round, in place of epochs.
      batch_size: B.
      participation: share of the clients that takes part in a round, drawn without
        replacement; ``floor(participation * N)`` clients.
      cohort_sampling: ``"poisson"`` draws for each client whether it takes part, with
        probability ``participation``; ``"fixed"`` draws so many;
        ``"representative"`` as many, who together hold nearly the classes of all
        clients, see `sampling`.
      client_map: how the cohort's clients are run, see `client_map`; all at once by
        default.
      compact_form: a compact form of the model that clients train where the round's
        masks fit it, with the same results, see `training.compact`.
      faults: how often clients drop out, straggle or send broken numbers; never by
        default. Broken uploads are left out in any case, see `wrappers.faults`.
      attack: what hostile clients do, see `wrappers.attacks`.
      clip_norm: the largest norm of a client's update; longer ones are scaled down
        before the merge, see `wrappers.clipping`.
      privacy: clipping and noise of differentially private rounds: of clients'
        updates, see `wrappers.private`, or of examples' gradients, see
        `wrappers.private_examples`; none by default.
      server_ema: decay of an average model to evaluate, see `wrappers.ema`.
      server_lookahead: how far beyond the model clients start, as a share of its last
        move, see `wrappers.lookahead`; None for not at all.
      powerprop: exponent alpha >= 1 of Powerpropagation: clients train roots of the
        kernels, see `wrappers.powerprop`; None or 1 trains weights.
      powerprop_average: whether the server then merges the roots, ``"theta"``, or the
        ``"weights"``.
      gradient_point: where clients take gradients, see `wrappers.gradient_point`: at
        the weights, ``"none"``, or beside them.
      gradient_radius: how far beside them: a multiple of the ``"past"`` or ``"fresh"``
        gradient (by default the learning rate) or of normal ``"noise"`` (0.01), and
        the distance itself for ``"sam"`` (0.05).
      wire_values: dtype in which models travel, both ways: in ``"float16"`` and
        ``"bfloat16"`` the receiver goes on with rounded numbers, see
        `wrappers.transport`. Bytes of `RoundInfo` stay at 32 bit a number.
      upload_compression: ``"none"``; ``"topk"`` uploads the largest entries of the
        change of the model, ``"int8"`` and ``"int4"`` all of them, rounded at random
        to few levels; see `wrappers.compression`. Bytes of `RoundInfo` count that.
      topk_fraction: share of the kept entries that ``"topk"`` uploads; 0.1 by default.
      error_feedback: whether every client keeps what was left out and adds it to its
        next change, which takes the memory of a model for each of the N clients. By
        default for ``"topk"`` alone.
      keep_messages: whether `RoundInfo` has all that was sent, which takes the memory
        of a model and its masks for every client of the cohort.
    """

    learning_rate: ArrayLike = 0.02
    momentum: ArrayLike | None = None
    nesterov: bool = False
    optimizer: LocalOptimizer | optax.GradientTransformation | None = None
    weight_decay: ArrayLike | None = None
    trust_coefficient: ArrayLike | None = None
    gradient_clip: ArrayLike | None = None
    optimizer_state: OptimizerState = "fresh"
    num_clients: int | None = None
    num_classes: int | None = None
    loss_fn: LossFn = cross_entropy
    local_epochs: float = 4
    local_steps: int | None = None
    batch_size: int = 32
    participation: float = 1.0
    cohort_sampling: CohortSampling = "fixed"
    client_map: ClientMap | None = None
    compact_form: Form | None = None
    faults: Faults | None = None
    attack: Attack | None = None
    clip_norm: ArrayLike | None = None
    privacy: Privacy | ExamplePrivacy | None = None
    server_ema: ArrayLike | None = None
    server_lookahead: ArrayLike | None = None
    powerprop: ArrayLike | None = None
    powerprop_average: PowerpropAverage = "theta"
    gradient_point: GradientPoint = "none"
    gradient_radius: ArrayLike | None = None
    wire_values: WireValues = "float32"
    upload_compression: UploadCompression = "none"
    topk_fraction: ArrayLike | None = None
    error_feedback: bool | None = None
    keep_messages: bool = False


def resolve(options: EngineOptions) -> Options:
    """Returns the options with defaults for those not given.

    Raises:
      ValueError: for a value out of range.

    Example:
      >>> resolve({"batch_size": 8}).batch_size, resolve({}).batch_size
      (8, 32)
    """
    resolved = Options(**options)
    if resolved.optimizer_state not in get_args(OptimizerState):
        raise ValueError(
            f"unknown optimizer_state {resolved.optimizer_state!r}: fresh or kept"
        )
    _check_sampling(resolved)
    if resolved.num_clients is not None:
        cohort_size(
            resolved.num_clients, resolved.participation, resolved.cohort_sampling
        )  # complain early
    if resolved.faults is not None:
        faults.check(resolved.faults)
    clipping.check_norm("clip_norm", resolved.clip_norm)
    clipping.check_norm("gradient_clip", resolved.gradient_clip)
    _check_powerprop(resolved)
    _check_privacy(resolved)
    _check_point(resolved)
    resolved = _with_optimizer(resolved)
    if resolved.wire_values not in get_args(WireValues):
        raise ValueError(
            f"unknown wire_values {resolved.wire_values!r}: "
            f"{', '.join(get_args(WireValues))}"
        )
    compression_of(
        resolved.upload_compression, resolved.topk_fraction, resolved.error_feedback
    )
    return resolved


def _check_sampling(o: Options) -> None:
    if o.cohort_sampling not in get_args(CohortSampling):
        raise ValueError(
            f"unknown cohort_sampling {o.cohort_sampling!r}: "
            f"{', '.join(get_args(CohortSampling))}"
        )
    if o.cohort_sampling != "representative":
        return
    if o.num_classes is None:
        raise ValueError(
            "num_classes is not given: representative cohorts need to know how many "
            "classes there are"
        )
    if o.privacy is not None:
        raise ValueError(
            "cohort_sampling representative does not go with privacy: it looks at the "
            "clients' labels, and no noise hides what it saw"
        )


def _check_powerprop(o: Options) -> None:
    check_alpha(o.powerprop)
    if o.powerprop_average not in get_args(PowerpropAverage):
        raise ValueError(
            f"unknown powerprop_average {o.powerprop_average!r}: theta or weights"
        )
    if o.powerprop is not None and o.wire_values == "float16":
        raise ValueError(
            "powerprop does not go with wire_values float16, in which small weights "
            "become zero and would stay zero: use bfloat16"
        )


def _check_privacy(o: Options) -> None:
    if not isinstance(o.privacy, Privacy) or o.powerprop in (None, 1):
        return
    if o.powerprop_average == "theta":
        raise ValueError(
            "privacy does not go with powerprop_average theta: no noise is known for "
            "a mean of roots: use weights"
        )


def _check_point(o: Options) -> None:
    if o.gradient_point not in get_args(GradientPoint):
        raise ValueError(
            f"unknown gradient_point {o.gradient_point!r}: "
            f"{', '.join(get_args(GradientPoint))}"
        )
    radius = o.gradient_radius
    if radius is not None and o.gradient_point == "none":
        raise ValueError(
            "gradient_radius goes with a gradient_point: past, fresh, noise or sam"
        )
    if isinstance(radius, int | float) and not 0 <= radius < float("inf"):
        raise ValueError(
            f"gradient_radius is {radius}: it must be at least 0 and finite"
        )


def _with_optimizer(o: Options) -> Options:
    """Returns the options with None for the optimizer that is meant without one."""
    if isinstance(o.optimizer, str) and o.optimizer not in get_args(LocalOptimizer):
        raise ValueError(f"unknown optimizer {o.optimizer!r}: sgd or lars")
    numbers = {
        "weight_decay": o.weight_decay,
        "trust_coefficient": o.trust_coefficient,
    }
    for name, number in numbers.items():
        if number is not None and o.optimizer != "lars":
            raise ValueError(f"{name} goes with the optimizer lars")
        if isinstance(number, int | float) and not 0 <= number < float("inf"):
            raise ValueError(f"{name} is {number}: it must be at least 0 and finite")
    return o._replace(optimizer=None) if o.optimizer == "sgd" else o
