"""HeteroFL and FedRolex: clients train narrower networks, cut out of the server's.

Diao, Ding and Tarokh, *HeteroFL: Computation and Communication Efficient Federated
Learning for Heterogeneous Clients*, ICLR 2021, arXiv 2010.01264; Alam, Liu, Yan and
Zhang, *FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model
Extraction*, NeurIPS 2022, arXiv 2212.01548.

Client k has the width r_k, by its number in turn from a list. Of the C units or
channels of every layer but the last one it has ceil(r_k C), in a row: from the first
one on (HeteroFL), or from number (t - 1) mod C in round t (FedRolex), around the end
to the start. With the mask m_k of the weights between its units, in round t:

    tune    w_k <- E local epochs from m_k * w; in training steps, what a layer but the
            last one gives, before its norm, is divided by r_k
    merge   v   <- sum_k n_k m_k
            w   <- sum_k n_k m_k w_k / v, where v > 0; elsewhere w stays

As in the code of both, the gradient of a step is clipped at norm 1; without that
networks that have no norms diverge. With ``mask_classes``, outputs of classes that a
client has no example of are 0 in its training, and their weights are not among those
that it sends. Evaluated is the whole network. Messages are counted as what a client
has, both ways.

Deviations: the papers average over clients, here they count by their examples. Running
statistics are averaged as the weights are, where HeteroFL asks all clients for new ones
after training. Layers must feed one another in a row, so there are no residual
networks, on which both papers have results. FedRolex's first round starts at unit 0.

Checked against: diaoenmao/HeteroFL and AIoT-MLSys-Lab/FedRolex by reading their scaler,
masks of classes and steps, not by running them; whole rounds against NumPy, with
networks that are really narrower, in tests/algorithms/test_heterofl.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.algorithms._shared.chain import chain_of, unit_masks
from fedsparsify_jax.algorithms._shared.holders import over_holders
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import (
    Client,
    Context,
    Local,
    Method,
    Upload,
    Uploader,
    no_state,
)
from fedsparsify_jax.metrics.communication import kept_bytes
from fedsparsify_jax.training.compact.structure import Stage, entry
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    PyTree,
    Variables,
)

WIDTHS = (1.0, 0.5, 0.25, 0.125, 0.0625)
CLIP = 1.0
"""Largest norm of a step's gradient, as in the code of both."""
COLLECTION = "client"
"""What a client knows of itself, beside the parameters of the network it trains."""


def window(units: int, widths: Sequence[float], level: Any, start: Any) -> jax.Array:
    """Returns the units of a layer that clients of a level have: bool ``[units]``.

    Args:
      units: C.
      widths: the widths of all levels.
      level: which of them; may be traced.
      start: the first unit, any whole number; may be traced.

    Example:
      >>> window(4, (1.0, 0.5), 1, 3).tolist()
      [True, False, False, True]
    """
    counts = [max(1, math.ceil(width * units - 1e-9)) for width in widths]
    return (jnp.arange(units) - start) % units < jnp.array(counts)[level]


class Cut(NamedTuple):
    """The rule by which sub-models are cut out."""

    apply_fn: ApplyFn
    widths: tuple[float, ...]
    rolling: bool
    mask_classes: bool

    def stages(self, context: Context, client: Client) -> tuple[Stage, ...]:
        """Returns the layers, which the shape of an example is needed for."""
        shapes = jax.tree.map(_shape, context.variables)
        return chain_of(self.apply_fn, shapes, _shape(client.data.x[:1]))

    def masks(
        self, stages: tuple[Stage, ...], context: Context, level: int | jax.Array
    ) -> Masks:
        """Returns the masks of the clients of a level."""
        start = context.round - 1 if self.rolling else 0
        kept = [window(s.outputs, self.widths, level, start) for s in stages[:-1]]
        last = jnp.ones(stages[-1].outputs, bool)
        return unit_masks(stages, context.variables, [*kept, last])


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _held_classes(client: Client, number: int) -> jax.Array:
    """Returns the classes that a client has an example of: bool ``[number]``."""
    y = client.data.y
    real = jnp.arange(y.shape[0]) < client.data.sizes
    held = (y[:, None] == jnp.arange(number)[None]) & real[:, None]
    return jnp.any(held, axis=0)


def training_apply(apply_fn: ApplyFn) -> ApplyFn:
    """Returns the forward pass with the scaling, and classes masked, in training."""

    def apply(
        variables: Variables, x: jax.Array, *, train: bool = False, **flags: Any
    ) -> tuple[jax.Array, Variables]:
        known = variables.get(COLLECTION, {})
        inner = {n: tree for n, tree in variables.items() if n != COLLECTION}
        if train and known:
            inner["params"] = _divided(inner["params"], known["widths"])
        outputs, changed = apply_fn(inner, x, train=train, **flags)
        if train and "classes" in known:
            outputs = jnp.where(known["classes"][None], outputs, 0.0)
        return outputs, changed

    return apply


def _divided(params: PyTree, widths: dict[str, jax.Array]) -> PyTree:
    """Divides weights and biases of layers, which divides what the layers give."""
    params = jax.tree.map(lambda leaf: leaf, params)  # dicts of its own
    for name, width in widths.items():
        layer = entry(params, tuple(name.split("/")))
        layer |= {k: (leaf / width).astype(leaf.dtype) for k, leaf in layer.items()}
    return params


def _sub_models(cut: Cut, options: EngineOptions) -> FederatedAlgorithm:
    """Builds the algorithm whose clients train what is cut out for them."""
    for width in cut.widths or (0.0,):
        if not 0 < width <= 1:
            raise ValueError(
                f"widths are {cut.widths}: expected one or more, above 0 and at most 1"
            )

    def cut_out(context: Context, client: Client) -> tuple[Masks, PyTree]:
        """Returns a client's masks, and what it knows of itself."""
        stages = cut.stages(context, client)
        level = client.id % len(cut.widths)
        width = jnp.array(cut.widths, jnp.float32)[level]
        known: dict[str, Any] = {
            "widths": {"/".join(stage.path): width for stage in stages[:-1]}
        }
        if cut.mask_classes:
            known["classes"] = _held_classes(client, stages[-1].outputs)
        return cut.masks(stages, context, level), known

    def receive(context: Context, client: Client) -> tuple[Variables, Masks]:
        masks, known = cut_out(context, client)
        start = mask_algebra.apply(masks, context.variables)
        everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), known)
        return start | {COLLECTION: known}, masks | {COLLECTION: everything}

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        del key
        masks = {name: local.masks[name] for name in context.variables}
        variables = {name: local.variables[name] for name in context.variables}
        if cut.mask_classes:
            held = local.variables[COLLECTION]["classes"]
            last = cut.stages(context, client)[-1]
            masks = masks | {"params": _of_classes(masks["params"], last, held)}
            variables = mask_algebra.apply(masks, variables)
        return Upload(variables, masks), client.state

    method = Method(
        aggregate=over_holders(),
        receive=receive,
        received_bytes=lambda context, client: kept_bytes(cut_out(context, client)[0]),
        upload=Uploader(no_state, send),
        masks_travel=True,
    )
    options.setdefault("gradient_clip", CLIP)
    return engine(training_apply(cut.apply_fn), method, **options)


def _of_classes(masks: PyTree, last: Stage, held: jax.Array) -> PyTree:
    """Returns masks without the weights of classes that a client does not hold."""
    masks = jax.tree.map(lambda leaf: leaf, masks)  # dicts of its own
    layer = entry(masks, last.path)
    layer |= {
        name: mask & jnp.broadcast_to(held, mask.shape) for name, mask in layer.items()
    }
    return masks


def heterofl(
    apply_fn: ApplyFn,
    *,
    widths: Sequence[float] = WIDTHS,
    mask_classes: bool = False,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds HeteroFL.

    Args:
      apply_fn: the forward pass of a network whose layers feed one another in a row.
      widths: r, shares of the units; client k has that of number k modulo their count.
      mask_classes: whether clients train without the classes that they do not hold.
      **options: see `engine.options.Options`; ``gradient_clip`` is 1 by default.

    Raises:
      ValueError: for a width out of range; when the round is traced, for a network that
        no units can be cut out of.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = heterofl(model.apply, widths=(1, 0.5))
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> bool(info.bytes_up[1] < 0.5 * info.bytes_up[0])
      True
    """
    return _sub_models(Cut(apply_fn, tuple(widths), False, mask_classes), options)


def fedrolex(
    apply_fn: ApplyFn,
    *,
    widths: Sequence[float] = WIDTHS,
    mask_classes: bool = False,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedRolex: `heterofl` with units that move on by one in every round.

    Args:
      apply_fn: as for `heterofl`.
      widths: as for `heterofl`.
      mask_classes: as for `heterofl`.
      **options: see `engine.options.Options`; ``gradient_clip`` is 1 by default.

    Raises:
      ValueError: as for `heterofl`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedrolex(model.apply, widths=(0.5,))
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> int(state.round)
      1
    """
    return _sub_models(Cut(apply_fn, tuple(widths), True, mask_classes), options)
