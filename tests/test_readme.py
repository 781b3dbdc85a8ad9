"""What the README promises is what happens."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_and_reaches_its_sparsity(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert re.fullmatch(r"loss 0\.\d+ at 90\.0% sparsity\n", capsys.readouterr().out)
    assert int(scope["state"].round) == 50


@pytest.mark.parametrize("ending", ["fedsparsify train", "tools/check.sh"])
def test_both_commands_are_one_line_and_start_from_nothing(ending):
    commands = [line for line in README.splitlines() if line.endswith(ending)]
    assert len(commands) == 1
    assert commands[0].startswith("python3.11 -m venv .venv && .venv/bin/pip install")
    assert "-c requirements.txt" in commands[0]


def test_ci_runs_the_readmes_command():
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -m 1 'tools/check.sh' README.md" in script
