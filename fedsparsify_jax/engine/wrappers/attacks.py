"""Hostile clients, to test defences against: what they train on and what they send.

An `Attack` is an option of the engine. Its clients are a share of the federation, the
same in every round; the rest of a round does not know that they are there. Only
parameters are forged: running statistics are sent as they are.

References:
  Blanchard et al., arXiv 1703.02757, and Sun et al., arXiv 1911.07963 (updates turned
  round and scaled up); Tolpegin et al., Data Poisoning Attacks Against Federated
  Learning Systems, arXiv 2007.08432 (labels flipped). Poisoned masks are our own: the
  vote of FedSparsify-Local turned against it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.engine.records import ClientHalf, ClientResult, ClientTask
from fedsparsify_jax.method import Client, Context, Local, Method, Upload
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.types import ClientData, Key, Masks, Prunable, PyTree, Variables

# (upload, what the client started from, its masks then, context) -> upload
Forge = Callable[[Upload, Variables, Masks, Context], Upload]


class Attack(NamedTuple):
    """The behaviour of hostile clients; what is None they do honestly."""

    attackers: ArrayLike  # share of the clients, or bool [N]; see `hostile`
    poison: Callable[[ClientData], ClientData] | None = None  # one client's data
    forge: Forge | None = None  # what it sends


def poisoned(attack: Attack | None, clients: ClientHalf) -> ClientHalf:
    """Poisons the data of hostile clients before their part of the round."""
    if attack is None or attack.poison is None:
        return clients
    poison = attack.poison

    def client_round(context: Context, task: ClientTask) -> ClientResult:
        client = task.client
        is_hostile = hostile(attack.attackers, client.id)
        data = trees.where(is_hostile, poison(client.data), client.data)
        return clients(context, task._replace(client=client._replace(data=data)))

    return client_round


def forging(attack: Attack | None, method: Method) -> Method:
    """Forges the uploads of hostile clients."""
    if attack is None or attack.forge is None:
        return method
    forge = attack.forge

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        upload, state = method.upload.send(key, local, context, client)
        start, masks = method.receive(context, client)
        is_hostile = hostile(attack.attackers, client.id)
        forged = forge(upload, start, masks, context)
        return trees.where(is_hostile, forged, upload), state

    return method._replace(upload=method.upload._replace(send=send))


def hostile(attackers: ArrayLike, id: jax.Array) -> jax.Array:
    """Returns whether a client is hostile: a bool scalar.

    Args:
      attackers: bool ``[N]``; or a share, of which ``floor(share N)`` clients are
        spread evenly over the ids, whatever N is.
      id: of the client.

    >>> [int(i) for i in range(10) if hostile(0.3, i)]
    [3, 6, 9]
    """
    if jnp.ndim(attackers) == 1:
        return jnp.asarray(attackers)[id].astype(bool)
    # The tolerance keeps 0.3 of 10 from being 2 by rounding.
    share, number = jnp.asarray(attackers, jnp.float32), jnp.asarray(id, jnp.float32)
    return jnp.floor((number + 1) * share + 1e-4) > jnp.floor(number * share + 1e-4)


def check_attackers(attackers: ArrayLike) -> None:
    """Refuses a share out of range, where it is a plain number.

    Raises:
      ValueError: saying what is allowed.
    """
    if isinstance(attackers, int | float) and not 0 <= attackers <= 1:
        raise ValueError(f"attackers is {attackers}: it must be between 0 and 1")


def _moved(attackers: ArrayLike, factor: ArrayLike) -> Attack:
    """Multiplies the update by a factor."""
    check_attackers(attackers)

    def forge(
        upload: Upload, start: Variables, masks: Masks, context: Context
    ) -> Upload:
        del masks, context
        kept = upload.masks["params"]
        origin = mask_algebra.apply(kept, start["params"])
        forged = jax.tree.map(
            lambda old, new: old + factor * (new - old),
            origin,
            upload.variables["params"],
        )
        return upload._replace(variables=upload.variables | {"params": forged})

    return Attack(attackers, forge=forge)


def sign_flip(attackers: ArrayLike, *, scale: ArrayLike = 4.0) -> Attack:
    """Sends ``w0 - scale (w - w0)``: the honest update turned round and enlarged."""
    return _moved(attackers, -jnp.asarray(scale, jnp.float32))


def scaling(attackers: ArrayLike, *, scale: ArrayLike = 10.0) -> Attack:
    """Sends ``w0 + scale (w - w0)``: the honest update, far too large."""
    return _moved(attackers, jnp.asarray(scale, jnp.float32))


def label_flip(attackers: ArrayLike, *, num_classes: int) -> Attack:
    """Trains, honestly, on the label ``C - 1 - y`` in place of y.

    >>> data = ClientData(jnp.zeros((2, 1)), jnp.array([0, 7]), jnp.int32(2))
    >>> label_flip(0.3, num_classes=10).poison(data).y
    Array([9, 2], dtype=int32)
    """
    check_attackers(attackers)

    def poison(data: ClientData) -> ClientData:
        if not jnp.issubdtype(data.y.dtype, jnp.integer):
            raise ValueError("label_flip needs classes, the targets are numbers")
        return data._replace(y=(num_classes - 1 - data.y).astype(data.y.dtype))

    return Attack(attackers, poison=poison)


def mask_poisoning(attackers: ArrayLike, *, prunable: Prunable | None = None) -> Attack:
    """Keeps, and votes for, the smallest weights of the model it was sent.

    As many as an honest client keeps at the round's target sparsity, in place of the
    largest; its weights are those of the model it was sent, so that every large one
    counts as zero in a mean.
    """
    check_attackers(attackers)

    def forge(
        upload: Upload, start: Variables, masks: Masks, context: Context
    ) -> Upload:
        smallness = jax.tree.map(lambda w: -jnp.abs(w), start)
        kept = prune(smallness, context.sparsity, within=masks, prunable=prunable)
        kept = upload.masks | {"params": kept["params"]}
        params = mask_algebra.apply(kept["params"], start["params"])
        return upload._replace(
            variables=upload.variables | {"params": params}, masks=kept
        )

    return Attack(attackers, forge=forge)


NAMES = ("sign-flip", "scaling", "label-flip", "mask-poisoning")
"""The attacks that `named` builds."""

SCALED = ("sign-flip", "scaling")
"""The attacks that have a scale."""


def named(
    name: str,
    attackers: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    num_classes: int | None = None,
    prunable: Prunable | None = None,
) -> Attack:
    """Builds an attack by name.

    Args:
      name: one of `NAMES`.
      attackers: share of the clients, or bool ``[N]``.
      scale: of the sign-flip (4 by default) and the scaling (10).
      num_classes: C, which the label-flip needs.
      prunable: what the mask-poisoning may prune.

    Raises:
      ValueError: for an unknown name, or what does not go with it.
    """
    scaled = {} if scale is None else {"scale": scale}
    if scaled and name not in SCALED:
        raise ValueError(f"the attack {name} has no scale: sign-flip and scaling do")
    match name:
        case "sign-flip":
            return sign_flip(attackers, **scaled)
        case "scaling":
            return scaling(attackers, **scaled)
        case "label-flip":
            if num_classes is None or num_classes < 2:
                raise ValueError("the attack label-flip needs classes")
            return label_flip(attackers, num_classes=num_classes)
        case "mask-poisoning":
            return mask_poisoning(attackers, prunable=prunable)
    raise ValueError(f"unknown attack {name!r}: one of {', '.join(NAMES)}")
