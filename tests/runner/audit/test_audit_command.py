"""The command: what it measures, writes and prints, and what it refuses."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax.cli import main

SERVER = ["--threat", "server", "--client", "1", "--shadow-runs", "4"]
FEW = ["--algorithm", "fedavg", "--train-subset", "40", "--num-clients", "2"]


@pytest.fixture(scope="module")
def overfit(tmp_path_factory):
    """A run that has seen 40 images for 40 rounds."""
    path = tmp_path_factory.mktemp("runs") / "overfit"
    assert main(["train", *FEW, "--rounds", "40", "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(overfit, tmp_path):
    return Path(shutil.copytree(overfit, tmp_path / "run"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def results(directory):
    return json.loads((directory / "audit.json").read_text())


def test_a_run_that_overfits_is_told_from_strangers(run, capsys):
    assert main(["audit", str(run), "--shadow-runs", "8"]) == 0
    shown = capsys.readouterr().out
    content = results(run / "audit")
    auc = {name: attack["auc"] for name, attack in content["attacks"].items()}
    assert list(auc) == ["loss", "gradient", "layer", "lira-online", "lira-offline"]
    for name in ("loss", "gradient", "lira-online", "lira-offline"):
        assert auc[name]["low"] > 0.6, name
        assert f"{name} " in shown
    # Comparing with shadow models tells more than one threshold for all.
    assert auc["lira-online"]["estimate"] > auc["loss"]["estimate"]
    # Everything that decides the figures is written down.
    assert content["pool"] == {"members": 40, "others": 40}
    assert content["shadows"]["examples"] == 40
    assert content["options"]["shadow_runs"] == 8 and content["seed"] == 0
    assert content["versions"]["jax"] and "commit" in content
    assert "needs at least 1,000 non-members" in shown
    with np.load(run / "audit" / "roc.npz") as arrays:
        assert arrays["loss/tpr"][-1] == 1.0 and len(arrays.files) == 10
    assert "(roc.svg)" in (run / "audit" / "audit.md").read_text()
    assert (run / "audit" / "roc.svg").read_text().startswith("<svg")
    # Shadow runs are not trained twice.
    again = ["--shadow-runs", "8", "--attacks", "lira-online"]
    assert main(["audit", str(run), *again]) == 0
    assert "8 are there already" in capsys.readouterr().out
    assert results(run / "audit")["attacks"] == {
        "lira-online": content["attacks"]["lira-online"]
    }


def test_the_commands_of_the_page_do_what_it_says(capsys):
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    (commands,) = (block for block in blocks if "fedsparsify audit" in block)
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        assert program == "fedsparsify" and main(words) == 0
    shown = capsys.readouterr().out
    said = re.findall(r"^([a-z-]+) +(0\.\d{3}) \[", page, re.M)
    assert len(said) == 5
    for name, auc in said:
        first = re.search(rf"^{name} +(0\.\d{{3}}) ", shown, re.M)
        assert abs(float(first[1]) - float(auc)) < 0.03, name
    assert (Path("runs/small/audit/client-1") / "audit.json").is_file()


def test_a_run_that_has_learnt_nothing_tells_nothing():
    small = ["--train-subset", "400", "--rounds", "1", "--learning-rate", "1e-6"]
    assert main(["train", "--algorithm", "fedavg", *small, "--out", "run"]) == 0
    assert main(["audit", "run"]) == 0
    for name, attack in results(Path("run/audit"))["attacks"].items():
        assert attack["auc"]["low"] < 0.5 < attack["auc"]["high"], name


def test_a_curious_server_tells_a_client_s_examples(run):
    options = ["--threat", "server", "--client", "1", "--shadow-runs", "16"]
    assert main(["audit", str(run), *options]) == 0
    content = results(run / "audit" / "client-1")
    assert content["pool"] == {"members": 20, "others": 20}
    assert content["attacks"]["loss"]["auc"]["low"] > 0.5
    assert content["attacks"]["lira-online"]["auc"]["low"] > 0.5
    assert not (run / "audit" / "audit.json").exists()


def arrays_of_numbers(examples, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * examples, 5)).astype(np.float32)
    y = rng.normal(size=2 * examples).astype(np.float32)
    return {
        "x_train": x[:examples],
        "y_train": y[:examples],
        "x_test": x[examples:],
        "y_test": y[examples:],
    }


@pytest.fixture
def regression():
    """A regression of noise, and the file of its data."""
    np.savez("mine.npz", **arrays_of_numbers(30))
    data = ["--dataset", "npz", "--data-dir", "mine.npz", "--num-clients", "2"]
    options = ["--rounds", "30", "--algorithm", "fedavg", "--learning-rate", "0.05"]
    assert main(["train", *data, *options, "--out", "reg"]) == 0
    return Path("reg")


def test_a_regression_is_attacked_by_its_losses(regression, capsys):
    assert main(["audit", "reg", "--shadow-runs", "4"]) == 0
    score = "LiRA's score in a regression: minus the logarithm of the loss"
    assert score in capsys.readouterr().out
    attacks = results(regression / "audit")["attacks"]
    assert attacks["loss"]["auc"]["low"] > 0.6
    assert attacks["lira-online"]["auc"]["low"] > 0.6


def refused(words, capsys):
    assert main(["audit", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    return shown.err


def test_data_that_are_gone_or_changed_are_refused(regression, capsys):
    Path("mine.npz").rename("moved.npz")
    error = refused(["reg"], capsys)
    assert "cannot be loaded again: no file mine.npz (--data-dir says where" in error
    assert main(["audit", "reg", "--data-dir", "moved.npz", "--attacks", "loss"]) == 0
    before = results(regression / "audit")
    np.savez("mine.npz", **arrays_of_numbers(30, seed=1))
    capsys.readouterr()
    assert "the data set of the run reg changed since" in refused(["reg"], capsys)
    assert results(regression / "audit") == before


def edited(run, **options):
    """Changes the options that a run says it had."""
    path = run / "config.json"
    content = json.loads(path.read_text())
    content.pop("digest", None)
    content["options"] |= options
    path.write_text(json.dumps(content))
    return content


def test_runs_that_cannot_be_audited_are_refused(run, capsys):
    assert "takes one run: got none" in refused([], capsys)
    assert "no directory nowhere" in refused(["nowhere"], capsys)
    (run / "file").touch()
    out = ["--out", str(run / "file")]
    assert "is a file: name a directory" in refused([str(run), *out], capsys)
    edited(run, loss="contrastive", algorithm="slimmable")
    assert "learnt without labels" in refused([str(run)], capsys)
    edited(run, loss="supervised", colour="blue")
    assert "an option 'colour', which this version" in refused([str(run)], capsys)
    (run / "summary.json").unlink()
    assert "is not finished" in refused([str(run)], capsys)


def test_a_run_of_a_sweep_has_neither_fingerprints_nor_checkpoints(run, capsys):
    content = edited(run)
    content["fingerprints"] = {}
    (run / "config.json").write_text(json.dumps(content))
    shutil.rmtree(run / "checkpoints")
    assert main(["audit", str(run), "--attacks", "loss"]) == 0
    assert "keeps no fingerprints of its data" in capsys.readouterr().out
    error = refused([str(run), "--threat", "server"], capsys)
    assert "has no whole checkpoint of its last round" in error


def test_natural_clients_have_no_shadow_runs(capsys):
    owners = {"site_train": np.arange(30) % 3}
    np.savez("mine.npz", **arrays_of_numbers(30) | owners)
    data = ["--dataset", "npz", "--data-dir", "mine.npz", "--client-column", "site"]
    assert main(["train", *data, "--rounds", "1", "--out", "run"]) == 0
    assert main(["audit", "run", "--attacks", "loss"]) == 0
    assert results(Path("run/audit"))["pool"] == {"members": 30, "others": 30}
    capsys.readouterr()
    error = refused(["run", "--shadow-runs", "4"], capsys)
    assert "come with the data (--partition natural)" in error
    assert "leave --shadow-runs and LiRA out, or take --threat server" in error
    # One client's examples are all that a server's shadow models are made of.
    assert main(["audit", "run", *SERVER]) == 0
    assert results(Path("run/audit/client-1"))["pool"] == {"members": 10, "others": 10}


@pytest.fixture
def on_disk():
    """A run of 40 images at three clients, which it keeps in a store."""
    words = [*FEW[:4], "--num-clients", "3", "--rounds", "1", "--client-data", "disk"]
    assert main(["train", *words, "--out", "disk"]) == 0
    return Path("disk")


def test_clients_that_a_run_keeps_on_disk_are_those_of_its_data(on_disk):
    """The store is a copy: everything that is possible in memory is here."""
    assert main(["audit", "disk", "--shadow-runs", "4"]) == 0
    content = results(on_disk / "audit")
    assert content["pool"] == {"members": 40, "others": 40}
    assert "lira-online" in content["attacks"]


def test_a_store_has_audits_but_no_shadow_runs(on_disk, capsys):
    store = ["--dataset", "store", "--data-dir", "disk/clients", "--rounds", "1"]
    disk = ["--algorithm", "fedavg", "--client-data", "disk"]
    assert main(["train", *store, *disk, "--out", "run"]) == 0
    assert main(["audit", "run", "--attacks", "loss"]) == 0
    content = results(Path("run/audit"))
    assert content["pool"] == {"members": 40, "others": 40}
    capsys.readouterr()
    error = refused(["run", "--shadow-runs", "4"], capsys)
    assert "come with the data (--dataset store)" in error
    assert main(["audit", "run", *SERVER, "--non-members", "clients"]) == 0
    content = results(Path("run/audit/client-1"))
    sizes = json.loads(Path("disk/partition.json").read_text())["sizes"]
    assert content["pool"] == {"members": sizes[1], "others": sizes[1]}
    capsys.readouterr()
    # A store that was moved is found, another one is told from it.
    on_disk.rename("moved")
    assert "cannot be loaded again: no directory" in refused(["run"], capsys)
    moved = ["--data-dir", "moved/clients", "--attacks", "loss"]
    assert main(["audit", "run", *moved]) == 0
    capsys.readouterr()
    other = ["--num-clients", "3", "--rounds", "1", "--client-data", "disk"]
    assert main(["train", *FEW[:2], "--train-subset", "50", *other, "--out", "x"]) == 0
    capsys.readouterr()
    error = refused(["run", "--data-dir", "x/clients"], capsys)
    assert "the data set and the partition of the run run changed" in error
