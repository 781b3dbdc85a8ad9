"""Parts of methods that `plus_search` combines: hooks of a `Method`, one idea each.

``h`` are a trial's settings, see `plus_search.DEFAULTS`; their numbers may be traced.
All of them keep what they need in one dictionary on the server, ``context.server``.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.lib.geometry import dot
from fedsparsify_jax import masks
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import adjustment
from fedsparsify_jax.method import (
    Aggregate,
    GradientTransform,
    Upload,
    Uploader,
    no_state,
)
from fedsparsify_jax.pruning import prune
from fedsparsify_jax.training.distillation import divergence, soft_labels
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.training.losses import cross_entropy

SENT, AGREED, VOTES = "gradients", "agreement", "votes"
_FAR = -1e9


def ahead(h: dict[str, Any]) -> Any:
    """Starts clients beside the model: where it is heading, or nearer to its average.

    w + lambda (w - w_before) + mu (a - w), the first two terms being FedACG's; with
    ``adaptive`` lambda grows with the agreement of the moves so far, down to below 0.
    """

    def receive(context: Any, client: Any) -> Any:
        return start_of(h, context), context.masks

    return receive


def start_of(h: dict[str, Any], context: Any) -> Any:
    """Returns the model that the clients of a round start from."""
    server, w = context.server, context.variables["params"]
    seen = h["adaptive"] * (server["agreement"] - h["agreement_from"])
    agreed = jnp.clip(seen, -h["damping"], 1)
    factor = h["lookahead"] * jnp.where(h["adaptive"] > 0, agreed, 1)
    factor = jnp.where(h["hyper"] > 0, server["agreement"], factor)

    def start(now: Any, move: Any, average: Any) -> Any:
        return now + factor * move + h["pull"] * (average - now)

    start = jax.tree.map(start, w, direction(h, context), server["average"])
    start = masks.apply(context.masks["params"], start)
    return context.variables | {"params": start}


def direction(h: dict[str, Any], context: Any) -> Any:
    """Returns the way ahead: the last move, or the average of moves."""
    server = context.server

    def way(now: Any, before: Any, trend: Any) -> Any:
        move = jnp.where(h["steady"] > 0, trend, now - before)
        return jnp.where((h["gate"] > 0) & (move * trend <= 0), 0.0, move)

    w = context.variables["params"]
    return jax.tree.map(way, w, server["before"], server["trend"])


def comparing(h: dict[str, Any]) -> Aggregate:
    """Builds FedAvg's mean, and how far the moves of a round's clients agree.

    |mean_k d_k|^2 / mean_k |d_k|^2 for the moves d_k: 1 if all are the same, 1/K if
    they have nothing in common.
    """
    models = aggregate("mean")

    def moves(variables: Any, context: Any) -> Any:
        start = start_of(h, context)["params"]
        return jax.tree.map(jnp.subtract, variables["params"], start)

    def sums(uploads: Any, context: Any) -> Any:
        of_client = jax.vmap(lambda sent: dot(*[moves(sent, context)] * 2))
        squares = of_client(uploads.variables) * uploads.shares
        return models.sums(uploads, context), jnp.sum(squares)

    def merge(added: Any, uploads: Any, context: Any) -> Any:
        variables, kept = models.merge(added[0], uploads, context)
        together = dot(*[moves(variables, context)] * 2)
        return variables | {AGREED: together / (added[1] + 1e-12)}, kept

    return Aggregate(sums=sums, merge=merge)


def voting(h: dict[str, Any]) -> Aggregate:
    """Builds FedAvg's mean, and the share of clients that would keep each weight.

    Every client's own model is purged to the round's sparsity by the importance of the
    trial. The server has these models, so nobody sends anything for it.
    """
    models = aggregate("mean")

    def sums(uploads: Any, context: Any) -> Any:
        def own(variables: Any) -> Any:
            scores = importances(h, variables["params"], context.server["first"])
            kept = prune(scores, context.sparsity, within=context.masks["params"])
            return jax.tree.map(jnp.float32, kept)

        votes = means.sums(jax.vmap(own)(uploads.variables), uploads.shares)
        return models.sums(uploads, context), votes

    def merge(added: Any, uploads: Any, context: Any) -> Any:
        variables, kept = models.merge(added[0], uploads, context)
        votes = means.mean(added[1], like=context.variables["params"])
        return variables | {VOTES: votes}, kept

    return Aggregate(sums=sums, merge=merge)


def importances(h: dict[str, Any], params: Any, first: Any) -> Any:
    """Returns powers of |w| times powers of |w - w_0|, as the trial has them."""

    def score(w: Any, w_0: Any) -> Any:
        return jnp.abs(w) ** h["magnitude"] * jnp.abs(w - w_0) ** h["movement"]

    return jax.tree.map(score, params, first)


def _without(labels: jax.Array, outputs: jax.Array) -> jax.Array:
    """Returns logits in which the class of the label has no share."""
    own = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    return jnp.where(own, _FAR, outputs)


def teaching(apply_fn: Any, h: dict[str, Any], teacher: str, others: bool) -> Any:
    """Adds the distance from a teacher's answers to the loss.

    ``received`` is the model the round started from, ``kept`` the one that the server
    froze; with ``others`` the label's own class is left out (FedNTD).
    """

    def of_batch(loss: Any, variables: Any, batch: Any, key: Any, context: Any) -> Any:
        value, changed = loss(variables, batch, key)
        if teacher == "received":
            guide, weight = context.variables["params"], h["distil"]
        else:
            guide = context.server["teacher"]
            weight = h["distil"] * (context.round > h["teacher_at"] * h["rounds"])
        answers = apply_fn({"params": guide}, batch.x)[0] / h["temperature"]
        outputs = apply_fn(variables, batch.x)[0] / h["temperature"]
        if others:
            answers, outputs = _without(batch.y, answers), _without(batch.y, outputs)
        distances = divergence(soft_labels(answers), outputs)
        mean = jnp.mean(distances, where=batch.valid)
        return value + weight * jnp.square(h["temperature"]) * mean, changed

    return of_batch


def class_counts(data: Any, classes: int) -> jax.Array:
    """Counts a client's examples of each class: float32 ``[C]``."""
    real = jnp.arange(data.y.shape[0]) < data.sizes
    return jnp.sum(jax.nn.one_hot(data.y, classes) * real[:, None], axis=0)


def calibrated(apply_fn: Any, h: dict[str, Any]) -> Any:
    """Adds the logarithm of the client's class frequencies to the logits (FedLC)."""

    def of_batch(loss: Any, variables: Any, batch: Any, key: Any, context: Any) -> Any:
        outputs = apply_fn(variables, batch.x)[0]
        counts = class_counts(context.data, outputs.shape[-1]) + h["smoothing"]
        prior = jnp.log(counts / jnp.sum(counts))
        losses = cross_entropy(outputs + h["calibrate"] * prior[None], batch.y)
        return jnp.mean(losses, where=batch.valid), {}

    return of_batch


def guided(h: dict[str, Any], steps: int) -> GradientTransform:
    """Adds the server's last move to every step (FedCM), and lets the rate fall.

    From the last purge on the rate falls linearly to ``learning_rate_at_end`` of it.
    """

    def update(grad_fn: Any, variables: Any, memory: Any, context: Any) -> Any:
        value, gradients = grad_fn(variables)
        begin = h["purge_until"] * h["rounds"]
        past = (context.round - begin) / jnp.maximum(h["rounds"] - begin, 1)
        factor = 1 - (1 - h["learning_rate_at_end"]) * jnp.clip(past, 0, 1)
        per_step = h["global_momentum"] / (h["learning_rate"] * steps)
        w, before = context.variables["params"], context.server["before"]
        moved = jax.tree.map(lambda new, old: (old - new) * per_step, w, before)
        moved = masks.apply(context.masks["params"], moved)
        pushed = jax.tree.map(lambda g, d: (g + d) * factor, gradients["params"], moved)
        head = max(pushed)  # layers are named in their order
        slower = jax.tree.map(lambda g: g * h["head_rate"], pushed[head])
        pushed = pushed | {head: slower}
        return value, gradients | {"params": pushed}, memory

    return GradientTransform(lambda variables: (), update)


def grows_in(h: dict[str, Any], every: int, t: Any) -> jax.Array:
    """Returns the share of the kept weights that round t replaces: 0 for none."""
    now = (t % every == 0) & (t <= h["regrow_until"] * h["rounds"])
    now = now & (t >= h["regrow_from"] * h["rounds"])
    return jnp.where(now, h["regrow"], 0.0)


def sending_gradients(model: Any, h: dict[str, Any], every: int) -> dict[str, Any]:
    """Builds the hooks that bring the mean gradient of all positions to the server.

    Bytes are those of the largest entries, four times as many as are grown.
    """
    signal = adjustment.dense_gradient(batch_loss(model.apply, cross_entropy), 320)

    def send(key: Any, local: Any, context: Any, client: Any) -> Any:
        share = grows_in(h, every, context.round)
        zeros = jax.tree.map(jnp.zeros_like, local.variables["params"])
        sent = jax.lax.cond(
            share > 0,
            lambda: signal(key, local, client)["params"],
            lambda: zeros,
        )
        kept = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(local.masks))
        size = (32 * share * kept).astype(jnp.uint32)
        upload = Upload(local.variables, local.masks, extra=sent, extra_bytes=size)
        return upload, client.state

    models = aggregate("mean")

    def sums(uploads: Any, context: Any) -> Any:
        gradients = means.sums(uploads.extra, uploads.shares)
        return models.sums(uploads, context), gradients

    def merge(added: Any, uploads: Any, context: Any) -> Any:
        variables, kept = models.merge(added[0], uploads, context)
        mean = means.mean(added[1], like=context.variables["params"])
        return variables | {SENT: mean}, kept

    hooks = Uploader(no_state, send), Aggregate(sums=sums, merge=merge)
    return dict(zip(("upload", "aggregate"), hooks, strict=True))
