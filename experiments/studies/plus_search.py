"""Search for the second FedSparsify-Plus, on validation splits alone.

Claim: none of its own; experiments/search.md reads its lines. A trial trains the MLP on
FashionMNIST, 100 clients at 10 %, with 600 training images of each class held out, and
reports the accuracy on those of the model and of its moving average, mean of the last
ten rounds.

    python -m experiments.studies.plus_search iid '{"final_sparsity": 0.99}' ... \\
        --seeds 0 1 --rounds 100 --out experiments/results/plus_search.jsonl

A trial of 100 rounds takes 40 s of one core. All numbers but those of `STATIC` are
traced, so trials that agree in these share a program.
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

from experiments.studies import plus_parts as parts
from experiments.studies import plus_server
from experiments.studies.plus_trials import CLIENTS, COHORT, held_out, mix
from fedsparsify_jax import data, models, schedules
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.sampling import class_counts, sample_representative
from fedsparsify_jax.method import Method
from fedsparsify_jax.metrics import evaluate
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import Examples

DEFAULTS: dict[str, Any] = {
    "final_sparsity": 0.95,
    "exponent": 3.0,
    "purge_until": 0.7,  # share of the rounds
    "purge_every": 1,
    "by_loss": 0.0,  # share by which good rounds hasten the schedule, and others delay
    "scope": "global",
    "magnitude": 1.0,  # powers of |w| and of |w - w_0| in the importance
    "movement": 1.0,
    "lamp": 0,  # 1: importance relative to the layer's more important weights (LAMP)
    "first_layer": 1.0,  # factor on the importance in the first layer
    "learning_rate": 0.02,
    "learning_rate_at_end": 1.0,  # share of it in round T, linearly from the last purge
    "momentum": 0.9,  # of the clients
    "kept": 0,  # whether they keep it between rounds
    "mu": 0.0,  # proximal term
    "point": "none",  # where gradients are taken, `sam` for one
    "radius": 0.05,
    "powerprop": 1.0,  # Powerpropagation's exponent; the server merges weights
    "votes": 0,  # 1: purge what the fewest clients would keep
    "server_ema": 0.9,
    "server_optimizer": "sgd",  # or FedOpt's "adam" or "yogi"
    "server_rate": 1.0,  # its learning rate; at 1 the first goes to the clients' mean
    "lookahead": 0.0,  # FedACG's lambda
    "adaptive": 0.0,  # factor of the moves' agreement in it; 0: always all of it
    "agreement_from": 0.0,  # agreement that counts as none
    "within": 0,  # 1: the agreement of one round's clients, not of rounds
    "damping": 0.0,  # how far below 0 it may fall, as a share of lambda
    "steady": 0.0,  # 1: ahead by the average of moves, not the last one
    "hyper": 0.0,  # rate of the look-ahead's hypergradient, in place of `lookahead`
    "least": 0.0,
    "most": 0.8,
    "gate": 0.0,  # 1: only weights whose last move goes the average's way
    "trend_decay": 0.7,  # of that average
    "calibrate": 0.0,  # strength of logits calibrated by each client's classes (FedLC)
    "smoothing": 1.0,  # examples added to every class for it
    "pull": 0.0,  # of the clients' start towards the average
    "head_rate": 1.0,  # share of the learning rate for the last layer
    "global_momentum": 0.0,  # FedCM's, as a momentum
    "distil": 0.0,  # weight of a teacher's answers
    "teacher": "received",  # or "kept": the average model of round `teacher_at` T
    "others": 0,  # 1: without the label's own class (FedNTD)
    "temperature": 1.0,
    "teacher_at": 0.3,
    "regrow": 0.0,  # share of the kept weights that one growth replaces
    "regrow_every": 10,
    "regrow_from": 0.0,
    "regrow_until": 0.7,
    "fade": 0.0,  # share that weights lose a round which are the next to go
    "fade_ahead": 0.1,  # share of the kept ones that are the next
    "epochs": 4,
    "cohorts": "random",  # or "reshuffled", "balanced", "representative"
}
STATIC = (
    "lamp",
    "scope",
    "purge_every",
    "momentum",
    "kept",
    "mu",
    "point",
    "powerprop",
    "teacher",
    "others",
    "regrow_every",
    "within",
    "votes",
    "epochs",
    "cohorts",
    "server_optimizer",
)
SWITCHES = (
    "lookahead",
    "pull",
    "global_momentum",
    "distil",
    "regrow",
    "fade",
    "hyper",
    "calibrate",
    "slower",
    "by_loss",
)


def static_of(chosen: dict[str, Any]) -> dict[str, Any]:
    """Returns what decides a trial's program: names, sizes, and what is used at all."""
    static = {name: chosen[name] for name in STATIC}
    rates = chosen["learning_rate_at_end"], chosen["head_rate"]
    used = chosen | {"slower": rates != (1, 1)}
    return static | {name: bool(used[name]) for name in SWITCHES}


def method(model: models.Model, h: dict[str, Any], static: dict[str, Any]) -> Method:
    """Builds the method of a trial."""
    built = Method(
        aggregate=aggregate("mean"),
        schedule=schedules.polynomial(
            h["final_sparsity"],
            end=h["purge_until"] * h["rounds"],
            exponent=h["exponent"],
            every=static["purge_every"],
        ),
        server=plus_server.server_step(h, static),
    )
    if static["lookahead"] or static["pull"] or static["hyper"]:
        built = built._replace(receive=parts.ahead(h))
    if static["global_momentum"] or static["slower"]:
        steps = static["epochs"] * -(-540 // 32)
        built = built._replace(gradient=parts.guided(h, steps))
    if static["mu"]:
        built = built._replace(objective=proximal(static["mu"]))
    if static["distil"]:
        taught = parts.teaching(
            model.apply, h, static["teacher"], bool(static["others"])
        )
        built = built._replace(objective=taught)
    if static["calibrate"]:
        built = built._replace(objective=parts.calibrated(model.apply, h))
    if static["within"]:
        built = built._replace(aggregate=parts.comparing(h))
    if static["votes"]:
        built = built._replace(aggregate=parts.voting(h))
    if static["regrow"]:
        hooks = parts.sending_gradients(model, h, int(static["regrow_every"]))
        built = built._replace(**hooks, grows=True)
    return built


def program(model: models.Model, static: dict[str, Any], rounds: int) -> Any:
    """Compiles all rounds of a trial as one function of what is traced."""

    drawn = static["cohorts"] == "random"

    def run(
        h: Any,
        keys: Any,
        start: Any,
        clients: Any,
        cohorts: jax.Array,
        validation: Examples,
    ) -> Any:
        h = h | {"rounds": rounds}
        made = engine(
            model.apply,
            method(model, h, static),
            learning_rate=h["learning_rate"],
            momentum=static["momentum"] or None,
            optimizer_state="kept" if static["kept"] else "fresh",
            gradient_point=static["point"],
            powerprop=None if static["powerprop"] == 1 else static["powerprop"],
            powerprop_average="weights",
            gradient_radius=None if static["point"] == "none" else h["radius"],
            local_epochs=static["epochs"],
            num_clients=CLIENTS if drawn else COHORT,
            participation=COHORT / CLIENTS if drawn else 1.0,
            client_map=chunked(1),
        )

        def accuracy(params: Any) -> Any:
            seen = evaluate(model.apply, cross_entropy, {"params": params}, validation)
            return seen.metric

        def one(state: Any, t: Any) -> Any:
            state, usual = state
            part = clients
            if not drawn:
                part = jax.tree.map(lambda leaf: leaf[cohorts[t - 1]], clients)
            state, info = made.step(jax.random.fold_in(keys[1], t), state, part)
            state, usual = _with_loss(state, info, usual)
            both = jax.lax.cond(
                t > rounds - 10,
                lambda: (
                    accuracy(state.variables["params"]),
                    accuracy(state.server["average"]),
                ),
                lambda: (jnp.float32(0), jnp.float32(0)),
            )
            sent = jnp.sum(info.bytes_up / 1e6) + jnp.sum(info.bytes_down / 1e6)
            seen = (*both, info.sparsity, sent, state.server["agreement"])
            return (state, usual), seen

        begin = made.init(keys[0], start), jnp.float32(jnp.inf)
        (state, _), seen = jax.lax.scan(one, begin, jnp.arange(1, rounds + 1))
        return seen, state.masks

    return jax.jit(run)


def _with_loss(state: Any, info: Any, usual: jax.Array) -> tuple[Any, jax.Array]:
    """Tells the server how much a round's loss was above those before it."""
    loss = jnp.mean(info.loss)
    first = jnp.isinf(usual)
    above = jnp.where(first, 0.0, loss - usual)
    usual = jnp.where(first, loss, mix(0.8, usual, loss))
    return state._replace(server=state.server | {"loss": above}), usual


def federation(kind: str, seed: int) -> tuple[Any, Examples]:
    """Returns the clients of a seed and the held-out examples, the same for all."""
    train, validation = held_out(0)
    if kind == "iid":
        places = data.iid(train.y, CLIENTS, seed)
    else:
        places = data.label_shards(train.y, CLIENTS, 2, seed)
    return data.stack(train, places), validation


def cohorts_of(kind: str, clients: Any, rounds: int, seed: int) -> Any:
    """Draws the cohorts of all rounds: ids ``[T, K]``.

    ``reshuffled`` ones have all clients in N/K rounds, ``balanced`` ones these in an
    order that evens out classes, and ``representative`` ones are the engine's.
    """
    if kind == "representative":
        counts = class_counts(clients.y, clients.sizes, 10)
        keys = jax.random.split(jax.random.key(seed + 1000), rounds)
        draw = partial(sample_representative, counts=counts, size=COHORT)
        return jax.jit(jax.vmap(draw))(keys)
    rng = np.random.default_rng([seed, 11])
    turns = []
    for _ in range(-(-rounds * COHORT // CLIENTS)):
        order = rng.permutation(CLIENTS)
        turns.append(_balanced(order, clients) if kind == "balanced" else order)
    return np.concatenate(turns).reshape(-1, COHORT)[:rounds]


def _balanced(order: np.ndarray, clients: Any) -> np.ndarray:
    """Reorders clients: the next of a cohort is the one that evens it out most."""
    counts = np.asarray(class_counts(clients.y, clients.sizes, 10))[order]
    left, new, total = list(range(len(order))), [], np.zeros(10)
    for place in range(len(order)):
        total = total * (place % COHORT > 0)
        spread = [np.sum((total + counts[i]) ** 2) for i in left]
        chosen = left.pop(int(np.argmin(spread)))
        total = total + counts[chosen]
        new.append(order[chosen])
    return np.array(new)


def record(kind: str, setting: Any, seed: int, results: Any, begun: float) -> Any:
    """Returns the line of a trial."""
    (plain, average, sparsity, sent, agreed), kept = results
    layers = [
        int(np.sum(layer["kernel"])) for _, layer in sorted(kept["params"].items())
    ]
    numbers = {
        "last_10": np.mean(plain[-10:]),
        "last_10_std": np.std(plain[-10:]),
        "average_last_10": np.mean(average[-10:]),
        "average_last": average[-1],
        "sparsity": sparsity[-1],
        "agreement": np.mean(agreed),
        "agreement_last": agreed[-1],
        "megabytes": np.sum(sent, dtype=np.float64),
        "cpu_seconds": time.process_time() - begun,
    }
    rounded = {name: round(float(value), 4) for name, value in numbers.items()}
    place = {"partition": kind, "rounds": len(plain), "seed": seed, "setting": setting}
    return place | rounded | {"layers": layers}


def main() -> None:
    """Runs the trials of the command line and adds their lines to the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("partition", choices=("iid", "label-shards"))
    parser.add_argument("settings", nargs="+", type=json.loads)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    federations = {seed: federation(given.partition, seed) for seed in given.seeds}
    norm = data.load("fashion_mnist").normalization
    shape = federations[given.seeds[0]][1].x.shape[1:]
    model = models.build("mlp", input_shape=shape, num_classes=10, preprocess=norm)
    programs: dict[str, Any] = {}
    for setting in given.settings:
        chosen = DEFAULTS | setting
        if strange := sorted(set(setting) - set(DEFAULTS)):
            raise SystemExit(f"unknown settings {strange}: {', '.join(DEFAULTS)}")
        static = static_of(chosen)
        key = json.dumps(static)
        run = programs.setdefault(key, program(model, static, given.rounds))
        h = {n: jnp.float32(v) for n, v in chosen.items() if not isinstance(v, str)}
        for seed, (clients, validation) in federations.items():
            model_key, *keys = jax.random.split(jax.random.key(seed), 3)
            begun = time.process_time()
            start = model.init(model_key)
            ids = cohorts_of(chosen["cohorts"], clients, given.rounds, seed)
            args = (h, keys, start, clients, ids, validation)
            results = jax.device_get(run(*args))
            line = record(given.partition, setting, seed, results, begun)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
