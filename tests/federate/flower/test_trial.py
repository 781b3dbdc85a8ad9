"""``fedsparsify federate local``: real processes, beside the simulation."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import federation_nodes as nodes
import flower_processes
import pytest
from rich.console import Console

pytest.importorskip("flwr", reason="flwr is not installed: see tools/federate_env.sh")

from fedsparsify_jax.federate import trial
from fedsparsify_jax.federate.options import LocalConfig
from fedsparsify_jax.runner import TrainConfig, train

OPTIONS = "--rounds 4 --local-epochs 1 --train-subset 90 --final-sparsity 0.8"
ALONE = "--cohort map --chunk-size 1 --devices 1 --compilation-cache off"


def config(out, **options):
    fixed = {"rounds": 4, "local_epochs": 1, "train_subset": 90, "final_sparsity": 0.8}
    return LocalConfig(nodes=3, out=out, **fixed | options)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with flower_processes.surroundings(tmp_path_factory.mktemp("user")):
        yield


def command(line):
    return [sys.executable, "-m", "fedsparsify_jax", *shlex.split(line)]


def test_the_command_trains_what_train_does_over_loopback_alone(tmp_path):
    line = f"federate local --nodes 3 {OPTIONS} --out {tmp_path}/run"
    printed = tmp_path / "printed.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(command(line), stdout=file, stderr=file)
    strangers, most = set(), 0
    while process.poll() is None:
        family = flower_processes.family(tmp_path / "run.federation")
        other, sockets = flower_processes.remote_addresses(family)
        strangers |= other
        most = max(most, sockets)
        time.sleep(0.1)
    output = printed.read_text()
    assert process.returncode == 0, output
    assert "round 4/4" in output and "run directory" in output
    assert most and not strangers
    assert not flower_processes.family(tmp_path / "run.federation")

    alone = f"train --num-clients 3 {OPTIONS} {ALONE} --measure-bytes"
    subprocess.run(
        command(f"{alone} --out {tmp_path}/alone"), check=True, capture_output=True
    )
    pairs = zip(
        nodes.records(tmp_path / "alone"), nodes.records(tmp_path / "run"), strict=True
    )
    for one, other in pairs:
        assert nodes.without(one, "test_loss") == nodes.without(other, "test_loss")
        for way in ("message_bytes_up", "message_bytes_down"):
            assert one[way] <= other[way] <= one[way] + 3 * 600
    assert nodes.same_models(tmp_path / "alone", tmp_path / "run", atol=1e-6)


def test_a_killed_node_drops_out_and_comes_back(tmp_path):
    killed = []

    def meanwhile(federation):
        path = tmp_path / "run" / "metrics.jsonl"
        rounds = len(path.read_text().splitlines()) if path.exists() else 0
        if rounds == 2 and not killed:
            federation.nodes[1].kill()
            killed.append(time.monotonic())
            federation.nodes[1].start()

    options = {"rounds": 12, "momentum": 0.9, "optimizer_state": "kept"}
    trial.train(
        config(tmp_path / "run", round_timeout=20.0, **options),
        Console(quiet=True),
        meanwhile,
    )
    rows = nodes.records(tmp_path / "run")
    assert [row["round"] for row in rows] == list(range(1, 13))
    merged = [row["merged"] for row in rows]
    assert min(merged) >= 2 and merged[-1] == 3


def test_encrypted_and_secure_rounds_have_the_masks_of_train(tmp_path):
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    quiet = Console(quiet=True)
    trial.train(config(tmp_path / "run", encrypted=True, secure=True), quiet)
    fixed = {"rounds": 4, "local_epochs": 1, "train_subset": 90, "final_sparsity": 0.8}
    train(TrainConfig(num_clients=3, out=tmp_path / "alone", **fixed), quiet)
    assert nodes.same_models(tmp_path / "run", tmp_path / "alone", atol=1e-5)
    secret = tmp_path / "run.federation" / "secret" / "secret.key"
    assert secret.stat().st_mode & 0o077 == 0


def test_an_interrupt_ends_everything_and_the_run_goes_on(tmp_path):
    line = f"federate local --nodes 2 {OPTIONS} --rounds 30 --checkpoint-every 1"
    process = subprocess.Popen(
        command(f"{line} --out {tmp_path}/run"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "to go on:" in errors
    assert not flower_processes.family(tmp_path / "run.federation")
    again = command(f"{line} --rounds 6 --allow-changes --resume --out {tmp_path}/run")
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    if "has completed" not in done.stderr:  # it may have had time for more rounds
        assert done.returncode == 0, done.stderr
        assert len(nodes.records(tmp_path / "run")) == 6


def test_bad_input_is_one_line(tmp_path):
    for line in (
        f"federate local --nodes 2 --algorithm snip --out {tmp_path}/a",
        f"federate local --nodes 2 --num-clients 5 --out {tmp_path}/b",
        f"federate init {tmp_path}/c",
    ):
        done = subprocess.run(
            command(line),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert done.returncode == 2, (line, done.stdout)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("fedsparsify: error: ")
        assert "Traceback" not in done.stderr


def test_a_project_is_written_whole_with_keys_of_every_node(tmp_path):
    line = (
        f"federate init {tmp_path}/project --num-clients 2 --secure north.example.org "
        "--dataset npz --data-dir server.npz --model mlp --rounds 5 --batch-size 8 "
        "--learning-rate 0.1"
    )
    done = subprocess.run(command(line), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {
        path.relative_to(tmp_path / "project").as_posix()
        for path in (tmp_path / "project").rglob("*")
        if path.is_file()
    }
    assert {
        "README.md",
        "pyproject.toml",
        "federation.json",
        "nodes/0.json",
        "nodes/1.json",
        "tls/ca.crt",
        "keys/node-1.pub",
    } <= names
    content = json.loads((tmp_path / "project" / "federation.json").read_text())
    assert content["server"]["own_data"] is True
    assert content["options"]["num_clients"] == 2
