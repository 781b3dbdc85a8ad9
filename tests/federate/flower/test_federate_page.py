"""docs/federate.md and the README of a project: every command of them runs."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import federation_nodes as nodes
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: see tools/federate_env.sh")
pytest.importorskip("tenseal", reason="tenseal is not installed")
pytest.importorskip("nibabel", reason="nibabel is not installed")

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r'^```(sh|python)(?: title="(.+?)")?\n(.*?)^```', re.M | re.S)
STAYS = ", stays open\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory to work in, and the environment of its commands."""
    tools, work = (tmp_path_factory.mktemp(name) for name in ("bin", "work"))
    for name, words in {"python": "", "fedsparsify": "-m fedsparsify_jax"}.items():
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), "/usr/bin"])
    more = {"PATH": f"{path}:/bin", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return work, os.environ | more | {"HOME": str(work)}


def done(text, directory, environment):
    finished = subprocess.run(
        ["bash", "-e"],
        input=text,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, f"{text}{finished.stdout}{finished.stderr}"


def test_every_block_of_the_page_runs(place):
    work, environment = place
    page = (ROOT / "docs" / "federate.md").read_text(encoding="utf-8")
    commands = 0
    for language, title, text in BLOCK.findall(page):
        if language == "python":
            (work / title).write_text(text, encoding="utf-8")
            continue
        commands += text.count("fedsparsify ")
        done(text, work, environment)
    assert commands == 6
    assert len(nodes.records(work / "runs" / "brain-age")) == 2
    assert nodes.same_models(
        work / "runs" / "sealed", work / "runs" / "sealed-simulated", atol=1e-5
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_readme_of_a_project_leads_to_a_trained_model(place):
    work, environment = place
    project = work / "hospitals"
    assert project.is_dir(), "the page's test makes it"
    for client in range(2):
        path = project / "nodes" / f"{client}.json"
        settings = json.loads(path.read_text())
        settings["data"]["data_dir"] = str(work / f"client-{client}.npz")
        settings["state"] = str(work / f"state-{client}")
        path.write_text(json.dumps(settings))
    readme = (project / "README.md").read_text(encoding="utf-8")
    readme = readme.replace("HOST", "localhost").replace("0.0.0.0", "127.0.0.1")
    readme = readme.replace("8000", str(free_port()))
    exports, *blocks = [text for _, _, text in BLOCK.findall(readme)]
    started = []
    try:
        for text in blocks:
            for own in of_both(text):
                if STAYS in own:
                    started.append(staying(exports + own, project, environment))
                    time.sleep(5)
                else:
                    done(exports + own, project, environment)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
    rows = nodes.records(project / "run")
    assert [row["merged"] for row in rows] == [2] * 5
    assert rows[-1]["sparsity"] == pytest.approx(0.9, abs=1e-3)


def of_both(text):
    """A block, and the same for client 1 if it is for client 0."""
    if "# node 0" in text:
        other = text.replace("node 0", "node 1").replace("node-0", "node-1")
        other = other.replace("socket-0", "socket-1").replace("nodes/0", "nodes/1")
        return [text, other.replace("9100", str(free_port()))]
    line = "flwr supernode register keys/node-0.pub federation\n"
    return [text + line.replace("node-0", "node-1") if line in text else text]


def staying(text, directory, environment):
    """A process that goes on while others run."""
    log = (directory / f"log-{time.monotonic_ns()}.txt").open("w")
    with log:
        return subprocess.Popen(
            ["bash", "-c", text.replace("\nflower", "\nexec flower")],
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=log,
        )
