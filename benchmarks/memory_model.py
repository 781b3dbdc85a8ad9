"""The memory that `--cohort auto` predicts against the compiler's own analysis.

Goal: the predicted peak of a round is within 25 % of what the compiler says, for the
number of clients at once that ``auto`` chooses and, on the CPU, for every number. The
prediction compiles one step, of one client or of eight, and adds up
(`runner/programs/client_memory.py`); the analysis is of the whole round, compiled for
all devices with two chunks of clients on each. Nothing is run.

    python benchmarks/memory_model.py --target cpu --cases mlp:1,mlp:16,lstm:4
    python benchmarks/memory_model.py --target v5e:2x2 --cases lstm:auto --examples 2500
        # libtpu: see compile_for.py
    python benchmarks/memory_model.py --table             # of the README

Results are written case by case to ``--out``; those that are there are not done again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import paper_rounds
from common import provenance, put_table
from compile_case import clients_at_once
from compiled import memory
from global_round import lower, memory_of_client, tpu_devices

from fedsparsify_jax import client_map
from fedsparsify_jax.runner.programs.client_memory import round_bytes

RESULTS = Path(__file__).resolve().with_name("results-memory_model.json")
CASES = "mlp:1,mlp:4,mlp:64,lstm:1,lstm:4,cnn:1"
GOAL = 0.25


def compare(name: str, number: str, target: str, examples: int) -> dict[str, Any]:
    """Predicts, compiles, and asks the compiler."""
    devices = tpu_devices(target) if ":" in target else jax.devices()[:1]
    work = paper_rounds.ROUNDS[name]._replace(cohort=None, examples=examples)
    client = memory_of_client(work, devices[0])
    chosen = clients_at_once(work, devices[0]) if number == "auto" else number
    at_once = int(chosen)
    work = work._replace(clients=2 * at_once * len(devices))
    lowered = lower(work, devices, client_map.chunked(at_once))
    analysed = memory(lowered.program.compile())
    model = paper_rounds.bytes_of(lowered.variables)
    return {
        "client": client,
        "model": model,
        "examples": examples,
        "at_once": at_once,
        "devices": len(devices),
        "predicted": round_bytes(client, model, analysed["arguments"], at_once),
        "analysed": analysed["together"],
        "memory": analysed,
    }


def at_once_of(name: str, case: dict[str, Any]) -> int:
    """Clients at once of a case, which older results have in their name alone."""
    return int(case.get("at_once") or name.split()[1])


def predict_again(name: str, case: dict[str, Any]) -> dict[str, Any]:
    """The same case with the prediction of this version; the analysis stays."""
    model, _, target = name.split()
    device = tpu_devices(target)[0] if ":" in target else jax.devices()[0]
    work = paper_rounds.ROUNDS[model]._replace(examples=case["examples"])
    client, held = memory_of_client(work, device), case["memory"]["arguments"]
    predicted = round_bytes(client, case["model"], held, at_once_of(name, case))
    return case | {"client": client, "predicted": predicted} | provenance()


def table(results: dict[str, Any]) -> str:
    """The table of the README."""
    lines = [
        "| model | at once | for | examples | MB a client | predicted MB | analysed MB "
        "| predicted / analysed |\n|---|--:|---|" + "--:|" * 5
    ]
    for name, case in results["cases"].items():
        mb = [case[k] / 2**20 for k in ("client", "predicted", "analysed")]
        model, number, target = name.split()
        together = f"{at_once_of(name, case)}{', auto' * (number == 'auto')}"
        sizes = [f"{one:,.1f}" for one in mb]
        cells = [model, together, target, case["examples"], *sizes]
        ratio = case["predicted"] / case["analysed"]
        missed = "" if abs(ratio - 1) <= GOAL else ", **missed**"
        lines.append(f"| {' | '.join(map(str, cells))} | {ratio:.2f} x{missed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", default=CASES, help="MODEL:CLIENTS-AT-ONCE,..., or MODEL:auto"
    )
    parser.add_argument("--target", default="cpu", help="cpu or a TPU topology")
    parser.add_argument("--examples", type=int, default=256, help="of a client")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="predict all cases again")
    parser.add_argument(
        "--table", action="store_true", help="print it, and put it into README.md"
    )
    arguments = parser.parse_args()
    out, results = arguments.out, {"cases": {}}
    if out.exists():
        results = json.loads(out.read_text())
    for name, old in results["cases"].items() if arguments.again else ():
        results["cases"][name] = predict_again(name, old)
        out.write_text(json.dumps(results, indent=1) + "\n")
    for case in (
        [] if arguments.table or arguments.again else arguments.cases.split(",")
    ):
        model, number = case.split(":")
        name = f"{model} {number} {arguments.target}"
        if name in results["cases"]:
            continue
        print(name, "...", flush=True)
        found = compare(model, number, arguments.target, arguments.examples)
        results["cases"][name] = found | provenance()
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    if arguments.table:
        put_table("memory_model", table(results))


if __name__ == "__main__":
    main()
