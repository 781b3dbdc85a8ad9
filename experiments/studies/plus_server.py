"""The server's step of a trial of `plus_search`, and what it keeps for it.

All of that is in one dictionary, ``context.server``; ``h`` are a trial's settings.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.lib.geometry import dot
from experiments.studies.plus_parts import (
    AGREED,
    SENT,
    VOTES,
    direction,
    grows_in,
    importances,
    start_of,
)
from experiments.studies.plus_trials import mix
from fedsparsify_jax import masks, trees
from fedsparsify_jax.engine.wrappers.ema import moving_average
from fedsparsify_jax.method import ServerTransform
from fedsparsify_jax.pruning import prune
from fedsparsify_jax.pruning.regrowth import drop_and_grow
from fedsparsify_jax.pruning.selection import magnitude, share_counts

_OPTIMIZERS = {
    # FedOpt's tau and decays; unlike there, Optax corrects the bias of the moments.
    "sgd": optax.sgd,
    "adam": partial(optax.adam, b1=0.9, b2=0.99, eps=1e-3),
    "yogi": partial(optax.yogi, b1=0.9, b2=0.99, eps=1e-3),
}


def server_step(h: dict[str, Any], static: dict[str, Any]) -> ServerTransform:
    """Builds the server's step: purge, growth, fading, average and teacher."""
    optimizer = _OPTIMIZERS[static["server_optimizer"]](h["server_rate"])

    def init(variables: Any, kept: Any) -> dict[str, Any]:
        names = ("average", "first", "before", "teacher", "trend")
        copies = [jax.tree.map(jnp.copy, variables["params"]) for _ in names]
        server = dict(zip(names, copies, strict=True))
        server["trend"] = jax.tree.map(jnp.zeros_like, server["trend"])
        numbers = dict.fromkeys(("agreement", "progress", "loss"), jnp.float32(0))
        return server | numbers | {"optimizer": optimizer.init(variables["params"])}

    def update(key: Any, variables: Any, kept: Any, uploads: Any, context: Any) -> Any:
        server, before = context.server, context.variables["params"]
        gradients = jax.tree.map(jnp.subtract, before, variables["params"])
        steps, moments = optimizer.update(gradients, server["optimizer"])
        w = optax.apply_updates(before, steps)
        if static["server_optimizer"] == "sgd":  # without a rounding, at rate 1
            mean = variables["params"]
            w = jax.tree.map(
                lambda new, to: jnp.where(h["server_rate"] == 1, to, new), w, mean
            )
        progress = _progress(h, context)
        sparsity = context.sparsity
        if static["by_loss"]:
            sparsity = h["final_sparsity"] * (1 - (1 - progress) ** h["exponent"])
        w, alive, first = _purged(h, static, sparsity, w, kept, variables, context)
        average = server["average"]
        average = moving_average(average, w, h["server_ema"], context.round)
        stay = context.round > h["teacher_at"] * h["rounds"]
        of_params = {
            "average": average,
            "before": before,
            "trend": jax.tree.map(
                lambda old, new, now: mix(h["trend_decay"], old, new - now),
                server["trend"],
                w,
                before,
            ),
        }
        of_params = {name: masks.apply(alive, of) for name, of in of_params.items()}
        teacher = trees.where(stay, server["teacher"], of_params["average"])
        return (
            {"params": w},
            {"params": alive},
            server
            | of_params
            | {
                "first": first,
                "teacher": teacher,
                "agreement": _agreed(h, static, variables, context),
                "progress": progress,
                "optimizer": moments,
            },
        )

    return ServerTransform(init, update)


def _purged(
    h: dict[str, Any],
    static: dict[str, Any],
    sparsity: Any,
    w: Any,
    kept: Any,
    variables: Any,
    context: Any,
) -> tuple[Any, Any, Any]:
    """Returns weights, masks and starts of the weights after purge and growth."""
    first, alive = context.server["first"], kept["params"]
    scores = importances(h, w, first)
    if static["votes"]:
        scores = _by_votes(variables[VOTES], scores)
    if static["lamp"]:
        scores = jax.tree.map(_lamp, scores)
    layer = min(scores)  # layers are named in their order
    more = jax.tree.map(lambda s: s * h["first_layer"], scores[layer])
    scores = scores | {layer: more}
    select = partial(prune, scope=static["scope"])
    alive = select(scores, sparsity, within=alive)
    if static["regrow"]:
        share = grows_in(h, int(static["regrow_every"]), context.round)
        alive, first = _grown(share, alive, scores, first, variables[SENT])
    if static["fade"]:
        later = 1 - (1 - sparsity) * (1 - h["fade_ahead"])
        goes = jax.tree.map(lambda now, then: now & ~then, alive, select(scores, later))
        w = jax.tree.map(lambda g, a: jnp.where(g, a * (1 - h["fade"]), a), goes, w)
    return masks.apply(alive, w), alive, first


def _progress(h: dict[str, Any], context: Any) -> jax.Array:
    """Returns how far the schedule is, in [0, 1], after this round.

    It goes on faster after a round whose loss was below the average of those before
    it, and slower after one above, by the share ``by_loss``. That it ends no later than
    0.85 T is made sure from 0.3 T on.
    """
    server, t = context.server, context.round
    lower = server["loss"] <= 0  # the loss less its average, put here after the round
    pace = jnp.where(lower, 1 + h["by_loss"], 1 - h["by_loss"])
    progress = server["progress"] + pace / (h["purge_until"] * h["rounds"])
    least = (t / h["rounds"] - 0.3) / 0.55
    return jnp.clip(jnp.maximum(progress, least), 0, 1)


def _agreed(
    h: dict[str, Any], static: dict[str, Any], variables: Any, context: Any
) -> jax.Array:
    """Returns the agreement that the look-ahead goes by, or the look-ahead itself."""
    if static["within"]:
        return mix(0.8, context.server["agreement"], variables[AGREED])
    factor = _factor(h, variables["params"], context)
    agreement = _agreement(variables["params"], context)
    return jnp.where(h["hyper"] > 0, factor, agreement)


def _lamp(scores: jax.Array) -> jax.Array:
    """Returns squares over the sum of all squares that are not smaller (LAMP)."""
    squares = jnp.square(scores).ravel()
    order = jnp.argsort(squares)
    up = squares[order]
    rest = jnp.cumsum(up[::-1])[::-1]
    lamp = jnp.zeros_like(up).at[order].set(up / jnp.maximum(rest, 1e-30))
    return lamp.reshape(scores.shape)


def _grown(share: Any, alive: Any, scores: Any, first: Any, gradients: Any) -> Any:
    """Replaces a share of the weakest by those of the largest gradients, layer-wise."""

    def grown() -> Any:
        counts = share_counts(alive, share)
        grow = magnitude(gradients)
        return drop_and_grow(alive, scores, grow, counts, again=False)

    new = jax.lax.cond(share > 0, grown, lambda: alive)
    # A grown weight starts from zero, and so its way is measured from there.
    first = jax.tree.map(lambda n, o, f: jnp.where(n & ~o, 0.0, f), new, alive, first)
    return new, first


def _by_votes(votes: Any, scores: Any) -> Any:
    """Returns votes, and importance where these are the same."""
    largest = jnp.max(jnp.stack([jnp.max(leaf) for leaf in jax.tree.leaves(scores)]))
    return jax.tree.map(lambda v, s: v + 1e-3 * s / (largest + 1e-12), votes, scores)


def _agreement(new: Any, context: Any) -> jax.Array:
    """Averages the cosine between the clients' mean move and the server's before it."""
    server, w = context.server, context.variables["params"]
    last = jax.tree.map(jnp.subtract, w, server["before"])
    move = jax.tree.map(jnp.subtract, new, w)

    cosine = dot(move, last) / jnp.sqrt(dot(move, move) * dot(last, last) + 1e-12)
    return mix(0.8, server["agreement"], cosine)


def _factor(h: dict[str, Any], new: Any, context: Any) -> jax.Array:
    """Moves the look-ahead by its hypergradient: the clients' answer to it.

    lambda + eta cos(merged - start, way ahead), within its bounds.
    """
    start = start_of(h, context)["params"]
    answer, way = jax.tree.map(jnp.subtract, new, start), direction(h, context)
    cosine = dot(answer, way) / jnp.sqrt(dot(answer, answer) * dot(way, way) + 1e-12)
    moved = context.server["agreement"] + h["hyper"] * cosine
    return jnp.clip(moved, h["least"], h["most"])
