"""The page on deployment: every command and every program of it runs, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^```(sh|python)(?: title="(.+?)")?\n(.*?)^```', re.M | re.S)


def test_every_command_of_the_page_runs(tmp_path):
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in {"python": "", "fedsparsify": "-m fedsparsify_jax"}.items():
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    paths = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    printed, commands = "", 0
    for language, title, text in BLOCK.findall(page):
        if language == "python":
            (work / title).write_text(text, encoding="utf-8")
            continue
        commands += len(text.splitlines())
        done = subprocess.run(
            ["bash", "-e"],
            input=text,
            cwd=work,
            env=os.environ | paths | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{text}{done.stderr}"
        printed += done.stdout
    assert commands == 9
    names = {path.name for path in work.iterdir()}
    assert {"digits.onnx", "digits.safetensors", "answers.npz"} <= names
    with np.load(work / "answers.npz") as answers:
        classes = answers["classes"].tolist()
    # The process that has only NumPy and onnxruntime answers the same.
    assert f"classes {classes}\n" in printed
    assert "fedsparsify-global (20, 10)\n" in printed
    assert re.search(r"digits.safetensors: [\d,]+ bytes, 0.07\d x the dense", printed)
    accuracy = re.search(r"test accuracy +([\d.]+)%\n", printed)
    assert float(accuracy[1]) > 90
