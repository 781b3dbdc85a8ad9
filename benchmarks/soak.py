"""What can be thrown at the library: kills, bad options, damaged files, messages.

Claim: a run that is killed 30 times at random moments ends with the same bits as one
that is left alone (`soak_kills`); 10,000 bad configurations, 10,000 damaged files,
100,000 damaged model files and 100,000 damaged messages are refused in one line or do
no harm (`soak_inputs`).

    python benchmarks/soak.py                        # all of it, about twenty minutes
    python benchmarks/soak.py --table                # the last results as Markdown

Results go to results-soak_*.json beside this script; docs/robustness.md has the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = {
    "soak_kills": "soak_kills.py",
    "soak_inputs": "soak_inputs.py --jobs 2 --kinds configurations files",
    "soak_models": "soak_inputs.py --jobs 2 --kinds models --count 100000",
    "soak_messages": "soak_inputs.py --jobs 2 --kinds messages --count 100000",
}


def _result(part: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((HERE / f"results-{part}.json").read_text())
    return read


def table() -> str:
    """The last results as a Markdown table."""
    kills, inputs, models, messages = (_result(part) for part in PARTS)
    where = ", ".join(f"{n} in {moment}" for moment, n in kills["interrupted"].items())
    same = kills["records_identical"] and kills["model_identical"]
    rows = [
        ("thrown at it", "outcome", "commit"),
        (":--", ":--", ":--"),
        (
            f"{kills['kills']} kills of one run ({where})",
            "records and model bit-identical to the run that was left alone"
            if same
            else "**the run ended differently**",
            kills["commit"],
        ),
    ]
    names = {
        "configurations": ("bad configurations", inputs),
        "files": ("damaged files", inputs),
        "models": ("damaged model files", models),
        "messages": ("damaged messages", messages),
    }
    for kind, (name, result) in names.items():
        found = result[kind]
        outcome = (
            f"{found['refused']:,} refused in a line, {found['accepted']:,} accepted "
            f"and usable, {found['wrong']:,} wrong, {found['hung']:,} hung"
        )
        rows.append((f"{result['count']:,} {name}", outcome, result["commit"]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Runs all parts, or prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only print the results")
    if not parser.parse_args().table:
        for part, command_line in PARTS.items():
            script, *words = command_line.split()
            out = str(HERE / f"results-{part}.json")
            command = [sys.executable, str(HERE / script), *words, "--out", out]
            subprocess.run(command, check=True)
    print(table())


if __name__ == "__main__":
    main()
