"""Rounds and sweeps on whatever accelerator is here, in one command.

    pip install -c requirements.txt '.[hub]' 'jax[cuda12]'      # or jax[tpu]
    python benchmarks/accelerator.py --out results-accelerator.json

What it times, medians over ``--rounds`` after one that compiles:

    models      a Global round of every model at paper scale, clients of a device run by
                each strategy (vmap, map, chunks), in every precision that this version
                of the library has
    cells       1 to 64 cells (learning rates) of the mlp as one program
    pfl-cifar10, flute-*   the tasks of pfl-research's CIFAR-10 benchmark and of FLUTE,
                FedAvg with their clients, batches and learning rates

All data are synthetic, of the stated shapes, unless ``--cifar10 DIR`` names the real
images for pfl's task; the results say which. Models that the registry lacks are named
and left out. Results are written case by case to ``--out``; what is there is not run
again, and a case that fails (out of memory, say) is recorded with its reason.

Utilisation is the FLOPs of training (matrix products and convolutions, as `metrics`
counts them) over the device's peak: ``--peak TFLOPS``, or the table `PEAKS`.

    python benchmarks/accelerator.py --smoke       # seconds, on any CPU
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import paper_rounds
from common import provenance
from paper_rounds import Work

from fedsparsify_jax import data, models
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.metrics import layer_flops, training_flops
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    algorithm_of,
    assemble,
    load,
)
from fedsparsify_jax.runner.programs.placement import client_map_of_trial, trial_map
from fedsparsify_jax.types import Examples

PEAKS = {
    # kind of device: {precision: TFLOP/s}, and where that is from. GPUs multiply
    # float32 as TF32 where JAX's precision is the default.
    "NVIDIA A100": ({"float32": 156, "bf16": 312}, "NVIDIA A100 datasheet, dense"),
    "NVIDIA H100": ({"float32": 494, "bf16": 989}, "NVIDIA H100 SXM datasheet, dense"),
    "NVIDIA H200": ({"float32": 494, "bf16": 989}, "NVIDIA H200 datasheet, dense"),
    "TPU v4": ({"bf16": 275}, "cloud.google.com/tpu/docs/v4"),
    "TPU v5 lite": ({"bf16": 197}, "cloud.google.com/tpu/docs/v5e"),
    "TPU v6 lite": ({"bf16": 918}, "cloud.google.com/tpu/docs/v6e"),
}
"""Peak rates by the beginning of a device's kind. TPUs multiply float32 in passes of
bfloat16, one of them by JAX's default, so both precisions have the one peak there."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "vmap": {"cohort": "vmap"},
    "map": {"cohort": "map"},
    "chunks": {"cohort": "map", "chunk_size": 4},
}
CELLS = (1, 4, 16, 64)
PFL = (("batch_size", 10), ("learning_rate", 0.1), ("momentum", None))
FLUTE = (("batch_size", 20), ("learning_rate", 0.1), ("momentum", None))
TASKS = {
    "pfl-cifar10": Work(
        "cnn_pfl",
        (32, 32, 3),
        10,
        clients=1000,
        examples=50,
        cohort=50,
        epochs=1,
        settings=PFL,
        source="pfl-research benchmarks, CIFAR-10 IID",
    ),
    "flute-femnist": Work(
        "femnist_cnn",
        (28, 28),
        62,
        clients=3400,
        examples=198,  # 671,585 of the federated EMNIST's 3,400 writers, rounded
        cohort=10,
        epochs=1,
        settings=FLUTE,
        source="FLUTE, FEMNIST CNN",
    ),
    "flute-cifar100": Work(
        "resnet18_gn",
        (24, 24, 3),
        100,
        clients=500,
        examples=100,
        cohort=10,
        epochs=1,
        settings=FLUTE,
        source="FLUTE, fed-CIFAR-100",
    ),
}


class Case(NamedTuple):
    """One measurement: its name, its work, and the options beside those of the work."""

    name: str
    work: Work
    options: dict[str, Any]
    cells: int = 0  # of a sweep; 0 for a single run
    real: Path | None = None  # directory of the real images


def precisions() -> list[str]:
    """Those that this version's configuration has."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    return ["float32", "bf16"] if "precision" in fields else ["float32"]


def known(works: dict[str, Work]) -> tuple[dict[str, Work], list[str]]:
    """Works whose models are in the registry, and the names of the others' models."""
    missing = sorted({work.model for work in works.values()} - set(models.NAMES))
    return {n: w for n, w in works.items() if w.model not in missing}, missing


def smaller(work: Work) -> Work:
    """The same work in seconds of a CPU: few and short clients."""
    small = {"mlp": (("hidden", (8,)),), "cnn": (("widths", (2,)), ("hidden", 4))}
    examples = min(work.examples, 8)
    return work._replace(
        clients=min(work.clients, 4),
        cohort=None if work.cohort is None else 2,
        examples=examples,
        epochs=1,
        network=small.get(work.model, ()),
        shape=(8, 8) if work.model in small else work.shape,
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All that is to be measured, in order."""
    rounds, _ = known(paper_rounds.ROUNDS)
    tasks, _ = known(TASKS)
    if arguments.smoke:
        rounds = {name: smaller(rounds[name]) for name in ("mlp", "cnn")}
        # A task is tried as well, with a model that is small enough.
        of_mlp = TASKS["pfl-cifar10"]._replace(model="mlp")
        tasks = {"pfl-cifar10, mlp": smaller(of_mlp)}
    wanted = arguments.models.split(",") if arguments.models else list(rounds)
    for name in (name for name in wanted if name in rounds):
        strategies = STRATEGIES
        if arguments.smoke and name != "mlp":
            strategies = {"map": STRATEGIES["map"]}
        for strategy, chosen in strategies.items():
            for precision in precisions():
                options = chosen | _precision(precision)
                yield Case(f"{name} {strategy} {precision}", rounds[name], options)
    for cells in arguments.cells:
        yield Case(f"mlp {cells} cells float32", rounds["mlp"], {}, cells=cells)
    for name, work in tasks.items():
        real = arguments.cifar10 if name == "pfl-cifar10" else None
        options = {"algorithm": "fedavg", "cohort": "auto"}
        yield Case(f"{name} float32", work, options, real=real)


def _precision(name: str) -> dict[str, Any]:
    return {} if name == "float32" else {"precision": name}


def federation_of(case: Case) -> Federation:
    """What `fedsparsify train` would train: strategies and precision are its own."""
    work = case.work
    settings = paper_rounds.options(work)
    config = TrainConfig(
        dataset="digits" if case.real is None else "cifar10",
        data_dir=case.real,
        model=work.model,
        num_clients=work.clients,
        participation=settings.get("participation", 1.0),
        local_epochs=work.epochs,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        momentum=settings["momentum"] or 0.0,
        rounds=200,
        **case.options,
    )
    config = resolve(config)
    dataset = dataset_of(work) if case.real is None else load(config)
    return assemble(config, jax.local_devices(), dataset)


def dataset_of(work: Work) -> Dataset:
    """Synthetic examples, as many as the clients have."""
    clients = paper_rounds.synthetic(work)
    x = clients.x.reshape(-1, *work.shape)
    y = clients.y.reshape(-1)
    scaled = data.Normalization(0.0, 256.0)
    plain = data.Normalization()
    return Dataset(
        "synthetic",
        train=Examples(x, y),
        test=Examples(x[:1], y[:1]),
        num_classes=work.classes,
        normalization=scaled if work.dtype == np.uint8 else plain,
        task=paper_rounds.task_of(work),
    )


def flops_of(case: Case, federation: Federation) -> int:
    """FLOPs of training in a round, of all cells."""
    work, model = case.work, federation.model
    variables = jax.eval_shape(model.init, jax.random.key(0))
    layers = layer_flops(model.apply, variables, (1, *work.shape), work.dtype)
    clients = work.cohort or work.clients
    examples = sum(map(len, federation.parts)) / len(federation.parts)
    once = int(training_flops(layers) * clients * examples * work.epochs)
    return once * max(case.cells, 1)


def player(case: Case, federation: Federation) -> Callable[[int], None]:
    """A function that plays the round of a number and waits for its end."""
    placement, algorithm = federation.placement, federation.algorithm
    clients = placement.put_clients(federation.clients)
    if case.cells:
        return _sweep(case, federation, clients)
    keys = jax.random.split(jax.random.key(0))
    state = placement.put_state(algorithm.init(keys[0], federation.model.init(keys[1])))
    everywhere = placement.everywhere
    step = jax.jit(
        algorithm.step,
        donate_argnums=1,
        out_shardings=(placement.of_state(state), everywhere),
    )

    def play(number: int) -> None:
        nonlocal state
        key = placement.repeat(jax.random.fold_in(jax.random.key(1), number))
        state, info = step(key, state, clients)
        jax.block_until_ready((state, info))

    return play


def _sweep(case: Case, federation: Federation, clients: Any) -> Callable[[int], None]:
    """Rounds of cells with learning rates of their own, run as `sweep` runs them.

    Every cell has a state of its own and all share the clients' data.
    """
    devices = list(federation.placement.mesh.devices.flat)
    fields = {"model": case.work.model, "cohort": "auto", "chunk_size": None}
    config = resolve(
        TrainConfig(num_clients=case.work.clients, model=case.work.model, rounds=200)
    )
    options = dataclasses.asdict(config) | fields
    inner = client_map_of_trial(options, federation.model, devices)
    trials = trial_map(devices, None)
    rates = jnp.linspace(0.01, 0.1, case.cells)
    settings = paper_rounds.options(case.work)

    def algorithm_at(rate: Any) -> Any:
        changed = {"batch_size": settings["batch_size"], "learning_rate": rate}
        dataset, model = federation.dataset, federation.model
        return algorithm_of(config, model, dataset, inner, **changed)

    def one(shared: Any, cell: Any) -> Any:
        rate, key, state = cell
        return algorithm_at(rate).step(key, state, shared)

    keys = jax.random.split(jax.random.key(0), case.cells)
    init = lambda rate, key: algorithm_at(rate).init(key, federation.model.init(key))
    states = jax.vmap(init)(rates, keys)
    step = jax.jit(lambda shared, cells: trials(one, shared, cells)[1])

    def play(number: int) -> None:
        nonlocal states
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        states, info = step(clients, (rates, now, states))
        jax.block_until_ready((states, info))

    return play


def peak_of(kind: str, precision: str, given: float | None) -> tuple[float, str] | None:
    """TFLOP/s of a device, and who says so; None where nobody does."""
    if given is not None:
        return given, "--peak"
    for beginning, (rates, source) in PEAKS.items():
        if kind.startswith(beginning):
            return rates.get(precision, rates["bf16"]), source
    return None


def measure(case: Case, rounds: int, given: float | None) -> dict[str, Any]:
    """Seconds of rounds, their median, and the share of the device's peak."""
    federation = federation_of(case)
    play = player(case, federation)
    start = time.perf_counter()
    play(0)
    first = time.perf_counter() - start
    seconds = []
    for number in range(1, rounds + 1):
        start = time.perf_counter()
        play(number)
        seconds.append(time.perf_counter() - start)
    median, flops = statistics.median(seconds), flops_of(case, federation)
    devices = federation.placement.mesh.devices
    found: dict[str, Any] = {
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "first_s": first,
        "flops": flops,
        "tflops": flops / median / 1e12,
        "data": "synthetic" if case.real is None else str(case.real),
        "source": case.work.source or "paper",
    }
    precision = case.options.get("precision", "float32")
    peak = peak_of(devices.flat[0].device_kind, precision, given)
    if peak is not None:
        rate, found["peak_source"] = peak
        found["utilisation"] = found["tflops"] / (rate * devices.size)
    return found


def line(name: str, found: dict[str, Any]) -> str:
    """A line for people."""
    if "failed" in found:
        return f"{name:32} failed: {found['failed']}"
    used = found.get("utilisation")
    share = "" if used is None else f"  {used:.1%} of peak"
    speed = f"{found['median_s']:9.4f} s  {found['tflops']:8.3f} TFLOP/s"
    return f"{name:32} {speed}{share}  {found['data']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="of paper_rounds.ROUNDS; default all")
    parser.add_argument("--cells", type=_numbers, help="default 1,4,16,64; '' for none")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds each")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device")
    parser.add_argument("--cifar10", type=Path, help="directory of the real images")
    parser.add_argument("--smoke", action="store_true", help="tiny, for any CPU")
    parser.add_argument("--out", type=Path, help="write the results as JSON here")
    arguments = parser.parse_args()
    if arguments.cells is None:
        arguments.cells = (2,) if arguments.smoke else CELLS
    rounds = 1 if arguments.smoke else arguments.rounds
    device = jax.local_devices()[0]
    _, missing = known(paper_rounds.ROUNDS | TASKS)
    print(f"{jax.local_device_count()} x {device.device_kind} ({device.platform})")
    print(f"not in this registry: {', '.join(missing) or 'none'}", flush=True)
    results: dict[str, Any] = {"cases": {}}
    if arguments.out and arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    results |= provenance() | {
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "missing": missing,
        "smoke": arguments.smoke,
    }
    for case in cases(arguments):
        if "median_s" not in results["cases"].get(case.name, {}):
            try:
                results["cases"][case.name] = measure(case, rounds, arguments.peak)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                why = str(error).splitlines()[0][:300]
                results["cases"][case.name] = {"failed": why}
        print(line(case.name, results["cases"][case.name]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


if __name__ == "__main__":
    main()
