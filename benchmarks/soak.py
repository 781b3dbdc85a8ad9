"""What can be thrown at the library: kills, bad options, damaged files, messages.

Claim: a run that is killed 30 times at random moments ends with the same bits as one
that is left alone (`soak_kills`); 10,000 bad configurations, damaged files and damaged
messages each are refused in one line or do no harm (`soak_inputs`).

    python benchmarks/soak.py                        # all of it, about ten minutes
    python benchmarks/soak.py --table                # the last results as Markdown

Results go to results-soak_kills.json and results-soak_inputs.json beside this script;
docs/robustness.md has the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = ("soak_kills", "soak_inputs")


def _result(part: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((HERE / f"results-{part}.json").read_text())
    return read


def table() -> str:
    """The last results as a Markdown table."""
    kills, inputs = (_result(part) for part in PARTS)
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
        "configurations": "bad configurations",
        "files": "damaged files",
        "messages": "damaged messages",
    }
    for kind, name in names.items():
        if kind not in inputs:  # results from before there were messages
            continue
        found = inputs[kind]
        outcome = (
            f"{found['refused']:,} refused in a line, {found['accepted']:,} accepted "
            f"and usable, {found['wrong']:,} wrong, {found['hung']:,} hung"
        )
        rows.append((f"{inputs['count']:,} {name}", outcome, inputs["commit"]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Runs both parts, or prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only print the results")
    if not parser.parse_args().table:
        for part in PARTS:
            out = str(HERE / f"results-{part}.json")
            command = [sys.executable, str(HERE / f"{part}.py"), "--out", out]
            if part == "soak_inputs":
                command += ["--jobs", "2"]
            subprocess.run(command, check=True)
    print(table())


if __name__ == "__main__":
    main()
