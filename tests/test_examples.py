"""Every example runs as a user would start it, and prints what its docstring says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# The last lines of what each prints.
PRINTS = {
    "round_by_hand": r"""
(client \d: loss \d\.\d{3}, 1044\d\d bytes
){4}50% pruned, the bits of step: True
""",
    "vmapped_sweep": r"""
target 50%  reached 50\.00%  accuracy 9\d\.\d \+- \d\.\d %
target 90%  reached 90\.00%  accuracy 9\d\.\d \+- \d\.\d %
target 97%  reached 97\.00%  accuracy [89]\d\.\d \+- \d\.\d %
""",
    "your_own_method": r"""
90% pruned, accuracy 9\d %
""",
}


def test_every_example_is_listed():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example(name):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    run = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(PRINTS[name].lstrip(), run.stdout), run.stdout
