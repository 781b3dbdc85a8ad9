"""Trials behind FedSparsify-Plus: variants of FedSparsify-Global on a validation split.

Claim: none of its own; docs/fedsparsify_plus.md reads its lines. Every trial trains the
MLP on FashionMNIST, 100 clients at 10 %, T = 100 rounds, seed 0, with 600 training
images of each class held out, and reports the accuracy on those of the model and of its
moving average.

    python -m experiments.studies.plus_trials iid '{"momentum": 0.9}' ... \\
        --out experiments/results/fedsparsify_plus_trials.jsonl

A trial takes 25 to 40 s of one core. All numbers but those of `_STATIC` are traced, so
trials that agree in these share a program.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedsparsify_jax import data, masks, models, schedules, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.algorithms.fedopt import server_step
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import (
    GradientTransform,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    chain,
    no_state,
)
from fedsparsify_jax.metrics import evaluate
from fedsparsify_jax.pruning import prune
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import Examples

ROUNDS, CLIENTS, COHORT, CLASSES = 100, 100, 10, 10
DEFAULTS: dict[str, Any] = {
    "final_sparsity": 0.95,
    "exponent": 3.0,
    "purge_until": 1.0,  # share of the rounds
    "scope": "global",
    "learning_rate": 0.02,
    "learning_rate_at_end": 1.0,  # share of it that is left in round T, linearly
    "momentum": 0.0,  # of the clients
    "mu": 0.0,  # proximal term
    "server_momentum": 0.0,
    "server_learning_rate": 1.0,
    "server_ema": 0.9,
    "scores_of_average": 0.0,  # 1: magnitudes of the averaged model decide
    "movement": 0.0,  # power of |w - w_0| in the scores
    "moves": 0.0,  # power of the root mean square of recent moves in the scores
    "moves_decay": 0.9,
    "calibration": 0.0,  # of the clients' logits by their own class frequencies
    "calibration_smoothing": 1.0,  # examples added to every class for it
    "variance_reduction": 0.0,  # FedVARP: 1 replaces absent clients by their last move
}
_STATIC = ("scope", "momentum", "mu", "server_momentum", "variance_reduction")
_TINY = 1e-8


def held_out(seed: int) -> tuple[Examples, Examples]:
    """Training and validation examples: 600 of each class are held out."""
    train = data.load("fashion_mnist").train
    rng = np.random.default_rng([seed, 7])
    rows = [rng.permutation(np.flatnonzero(train.y == c))[:600] for c in range(CLASSES)]
    held = np.concatenate(rows)
    rest = np.setdiff1d(np.arange(len(train.y)), held)
    first, second = (Examples(train.x[part], train.y[part]) for part in (rest, held))
    return first, second


def _without_prior(tree: Any) -> Any:
    return {name: leaf for name, leaf in tree.items() if name != "prior"}


def _zeros(variables: Any, masks: Any = None) -> Any:
    return jax.tree.map(jnp.zeros_like, variables["params"])


def _prior_of_classes(h: dict[str, Any]) -> Any:
    """Gives every client the logits of its own class frequencies."""

    def receive(context: Any, client: Any) -> Any:
        real = jnp.arange(len(client.data.y)) < client.data.sizes
        n = jnp.sum(jax.nn.one_hot(client.data.y, CLASSES) * real[:, None], axis=0)
        smoothed = n + h["calibration_smoothing"]
        logits = h["calibration"] * jnp.log(smoothed / jnp.sum(smoothed))
        variables = context.variables | {"prior": {"logits": logits}}
        ones = jnp.ones(CLASSES, bool)
        return variables, context.masks | {"prior": {"logits": ones}}

    return receive


def _falling_rate(h: dict[str, Any]) -> GradientTransform:
    """Scales gradients down linearly over the rounds."""

    def update(grad_fn: Any, variables: Any, memory: Any, context: Any) -> Any:
        value, gradients = grad_fn(variables)
        past = (context.round - 1) / (ROUNDS - 1)
        factor = 1 - (1 - h["learning_rate_at_end"]) * past
        return value, jax.tree.map(lambda g: g * factor, gradients), memory

    return GradientTransform(lambda variables: (), update)


def _upload(remembers: bool) -> Uploader:
    """Sends the model; the client's last move is kept for FedVARP."""

    def send(key: Any, local: Any, context: Any, client: Any) -> Any:
        sent, kept = _without_prior(local.variables), client.state
        if remembers:
            start = context.variables["params"]
            kept = jax.tree.map(jnp.subtract, sent["params"], start)
        return Upload(sent, _without_prior(local.masks)), kept

    return Uploader(_zeros if remembers else no_state, send)


def _varp(strength: Any) -> ServerTransform:
    """Replaces absent clients by their last move (FedVARP); the mean move is kept."""

    def update(key: Any, variables: Any, kept: Any, uploads: Any, context: Any) -> Any:
        start, mean = context.variables["params"], context.server
        move = jax.tree.map(jnp.subtract, variables["params"], start)
        last = trees.take(context.clients, uploads.ids)
        stale = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), last)
        new = jax.tree.map(
            lambda w, d, o, y: w + d - strength * (o - y), start, move, stale, mean
        )
        mean = jax.tree.map(
            lambda y, d, o: y + (d - o) * COHORT / CLIENTS, mean, move, stale
        )
        return variables | {"params": new}, kept, mean

    return ServerTransform(_zeros, update)


def _scored_purge(h: dict[str, Any], scope: str) -> ServerTransform:
    """Purges by magnitudes, distances from the first model and recent moves."""

    def init(variables: Any, kept: Any) -> dict[str, Any]:
        first = variables["params"]
        return {"average": first, "first": first, "squares": _zeros(variables)}

    def score(average: Any, w: Any, first: Any, squares: Any) -> Any:
        mixed = h["scores_of_average"] * average + (1 - h["scores_of_average"]) * w
        moved = (jnp.abs(w - first) + _TINY) ** h["movement"]
        return jnp.abs(mixed) * moved * (jnp.sqrt(squares) + _TINY) ** h["moves"]

    def update(key: Any, variables: Any, kept: Any, uploads: Any, context: Any) -> Any:
        server, w = context.server, variables["params"]
        squares = jax.tree.map(
            lambda v, new, old: mix(h["moves_decay"], v, (new - old) ** 2),
            server["squares"],
            w,
            context.variables["params"],
        )
        average = jax.tree.map(partial(mix, h["server_ema"]), server["average"], w)
        scores = jax.tree.map(score, average, w, server["first"], squares)
        kept = prune({"params": scores}, context.sparsity, scope=scope, within=kept)
        alive = kept["params"]
        average = masks.apply(alive, average)
        server = server | {"average": average, "squares": squares}
        return variables | {"params": masks.apply(alive, w)}, kept, server

    return ServerTransform(init, update)


def mix(decay: Any, old: Any, new: Any) -> Any:
    """Takes one step of a moving average."""
    return decay * old + (1 - decay) * new


def _method(h: dict[str, Any], static: dict[str, Any]) -> Method:
    """Builds the method of a variant; ``h`` may be traced."""
    optimizer = optax.sgd(h["server_learning_rate"], momentum=h["server_momentum"])
    links = [server_step(optimizer), _scored_purge(h, static["scope"])]
    if static["variance_reduction"]:
        links.insert(0, _varp(h["variance_reduction"]))
    method = Method(
        aggregate=aggregate("mean"),
        schedule=schedules.polynomial(
            h["final_sparsity"], end=h["purge_until"] * ROUNDS, exponent=h["exponent"]
        ),
        receive=_prior_of_classes(h),
        gradient=_falling_rate(h),
        upload=_upload(static["variance_reduction"] > 0),
        server=chain(*links),
    )
    if static["mu"]:
        method = method._replace(objective=proximal(h["mu"]))
    return method


def _calibrated(model: models.Model) -> Any:
    """The model whose training outputs are shifted by the client's prior."""

    def apply(variables: Any, x: Any, *, train: bool = False, **more: Any) -> Any:
        outputs, changed = model.apply(
            _without_prior(variables), x, train=train, **more
        )
        shift = variables["prior"]["logits"] if train else jnp.zeros(CLASSES)
        return outputs + shift[None], changed

    return apply


def _program(model: models.Model, static: dict[str, Any]) -> Any:
    """All rounds of a trial as one function of what is traced."""

    def algorithm(h: dict[str, Any]) -> Any:
        return engine(
            _calibrated(model),
            _method(h, static),
            learning_rate=h["learning_rate"],
            momentum=static["momentum"] or None,
            num_clients=CLIENTS,
            participation=COHORT / CLIENTS,
            client_map=chunked(1),
        )

    def run(h: Any, keys: Any, start: Any, clients: Any, validation: Any) -> Any:
        made = algorithm(h)

        def accuracy(params: Any) -> Any:
            seen = evaluate(model.apply, cross_entropy, {"params": params}, validation)
            return seen.metric

        def one(state: Any, t: Any) -> Any:
            state, info = made.step(jax.random.fold_in(keys[1], t), state, clients)
            both = jax.lax.cond(
                t > ROUNDS - 10,
                lambda: (
                    accuracy(state.variables["params"]),
                    accuracy(state.server[-1]["average"]),
                ),
                lambda: (jnp.float32(0), jnp.float32(0)),
            )
            sent = jnp.sum(info.bytes_up / 1e6) + jnp.sum(info.bytes_down / 1e6)
            return state, (*both, info.sparsity, sent)

        rounds = jnp.arange(1, ROUNDS + 1)
        return jax.lax.scan(one, made.init(keys[0], start), rounds)[1]

    return jax.jit(run)


def main() -> None:
    """Runs the trials of the command line and adds their lines to the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("partition", choices=("iid", "label-shards"))
    parser.add_argument("settings", nargs="+", type=json.loads)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    train, validation = held_out(0)
    if given.partition == "iid":
        parts = data.iid(train.y, CLIENTS, 0)
    else:
        parts = data.label_shards(train.y, CLIENTS, 2, 0)
    clients = data.stack(train, parts)
    shape, norm = train.x.shape[1:], data.load("fashion_mnist").normalization
    model = models.build("mlp", input_shape=shape, num_classes=10, preprocess=norm)
    programs: dict[str, Any] = {}
    for setting in given.settings:
        chosen = DEFAULTS | setting
        if len(chosen) > len(DEFAULTS):
            raise SystemExit(f"unknown settings in {setting}: {', '.join(DEFAULTS)}")
        static = {name: chosen[name] for name in _STATIC}
        key = json.dumps(static)
        run = programs.setdefault(key, _program(model, static))
        h = {n: jnp.float32(v) for n, v in chosen.items() if n != "scope"}
        model_key, *keys = jax.random.split(jax.random.key(0), 3)
        begun = time.process_time()
        plain, average, sparsity, sent = jax.device_get(
            run(h, keys, model.init(model_key), clients, validation)
        )
        record = {
            "partition": given.partition,
            "setting": setting,
            "last": plain[-1],
            "last_10_mean": np.mean(plain[-10:]),
            "last_10_std": np.std(plain[-10:]),
            "average_last": average[-1],
            "average_last_10_mean": np.mean(average[-10:]),
            "sparsity": sparsity[-1],
            "megabytes": np.sum(sent, dtype=np.float64),
            "cpu_seconds": time.process_time() - begun,
        }
        numbers = {n: round(float(v), 4) for n, v in list(record.items())[2:]}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record | numbers) + "\n")


if __name__ == "__main__":
    main()
