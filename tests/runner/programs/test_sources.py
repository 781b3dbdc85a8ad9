"""Training from files: the same run as from memory, through the real command line."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.programs import federation
from fedsparsify_jax.runner.programs.program import RoundProgram

COMMON = ["train", "--local-epochs", "1", "--model", "mlp", "--learning-rate", "0.1"]
COMMON += ["--compilation-cache", "off"]
TRAIN = [*COMMON, "--rounds", "4", "--participation", "0.5", "--evaluate-every", "2"]
SIX = ["--num-clients", "6"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in a directory with a small data set."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 4)).astype(np.float32)
    x[np.arange(90), y] += 2
    np.savez("toy.npz", x_train=x[:70], y_train=y[:70], x_test=x[70:], y_test=y[70:])


TOY = ["--dataset", "npz", "--data-dir", "toy.npz", "--partition", "quantity-skew"]


def metrics(run):
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": None} for line in lines]


def model(run):
    return Path(run, "model", "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "fedsparsify-local", "--evaluate-every", "1"],
        ["--algorithm", "fedprox", "--momentum", "0.9", "--optimizer-state", "kept"],
        ["--algorithm", "snip", "--source", "cohort"],
    ],
)
def test_disk_and_memory_make_the_same_run(options):
    for where in ("memory", "disk"):
        words = [*TRAIN, *TOY, *SIX, *options, "--client-data", where, "--out", where]
        assert main(words) == 0
    assert metrics("disk") == metrics("memory") and len(metrics("disk")) == 4
    assert model("disk") == model("memory")
    assert data.open_population("disk/clients").num_clients == 6
    assert not Path("memory/clients").exists()


def test_the_store_that_a_run_leaves_is_a_data_set():
    words = [*TRAIN, "--algorithm", "fedavg"]
    assert main([*words, *TOY, *SIX, "--client-data", "disk", "--out", "run"]) == 0
    store = ["--dataset", "store", "--data-dir", "run/clients"]
    for out, chosen in (("disk", []), ("memory", ["--client-data", "memory"])):
        assert main([*words, *store, *chosen, "--out", out]) == 0
        assert metrics(out) == metrics("run")
        config = json.loads(Path(out, "config.json").read_text())["options"]
        assert config["num_clients"] == 6 and config["partition"] == "stored"
        assert config["client_data"] == out
    assert not Path("disk/clients").exists()


def test_an_interrupted_run_ends_its_thread_and_resumes(monkeypatch):
    words = [*TRAIN, *TOY, *SIX, "--client-data", "disk", "--checkpoint-every", "2"]
    assert main([*words, "--out", "whole"]) == 0
    call = RoundProgram.__call__

    def interrupted(self, state, rounds, data):
        if int(state.round) == 2:
            raise KeyboardInterrupt
        return call(self, state, rounds, data)

    with monkeypatch.context() as patch:
        patch.setattr(RoundProgram, "__call__", interrupted)
        assert main([*words, "--out", "run"]) == 130
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("prefetch")]
    assert len(metrics("run")) == 2
    Path("run/clients/population.json").unlink()  # as if killed inside the writing
    assert main([*words, "--out", "run", "--resume"]) == 0
    assert metrics("run") == metrics("whole")


def test_what_goes_wrong_in_the_thread_is_what_is_raised(monkeypatch):
    def broken(self, ids):
        raise OSError("the disk is gone")

    words = [*TRAIN, *TOY, *SIX, "--client-data", "disk", "--out", "run"]
    monkeypatch.setattr(data.Population, "gather", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "store"], "needs --data-dir"),
        (["--dataset", "store", "--data-dir", "nowhere"], "no directory nowhere"),
        (["--dataset", "store", "--data-dir", "."], "has no population.json"),
        (["--dataset", "store", "--partition", "dirichlet"], "dirichlet does not go"),
        (["--partition", "stored"], "stored does not go with --dataset digits"),
        (["--dataset", "store", "--train-subset", "9"], "--train-subset does not go"),
        (["--client-data", "tape"], "unknown client data 'tape'"),
    ],
)
def test_bad_options_are_refused_in_a_line(words, message, capsys):
    assert main(["train", *words, "--out", "run"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1
    assert not Path("run").exists()


def test_a_store_settles_how_many_clients_there_are(capsys):
    toy = data.load("npz", "toy.npz")
    data.write_population("clients", toy, data.iid(toy.train.y, 6))
    store = ["--dataset", "store", "--data-dir", "clients", "--num-clients", "5"]
    assert main([*TRAIN, *store, "--out", "run"]) == 2
    assert "--num-clients is 5: the store clients has 6 clients" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"finish": lambda key, state, clients: state},  # all clients at the end
        {"cohorts": None},
    ],
)
def test_algorithms_that_need_all_clients_are_refused(changes, monkeypatch, capsys):
    build = federation.build_algorithm
    monkeypatch.setattr(
        federation, "build_algorithm", lambda *args: build(*args)._replace(**changes)
    )
    words = [*TRAIN, *TOY, *SIX, "--algorithm", "fedavg", "--out", "run"]
    assert main([*words, "--client-data", "disk"]) == 2
    assert "needs the data of all clients" in capsys.readouterr().err
    assert not Path("run").exists()
