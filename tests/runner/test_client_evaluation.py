"""--client-evaluation in runs and sweeps."""

import json

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import assemble

COMMON = ["--rounds", "3", "--num-clients", "5", "--local-epochs", "1"]
COMMON += ["--partition", "label-shards"]
FIELDS = ("client_accuracy_mean", "client_accuracy_worst_decile")


def records(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "one"
    options = ["--client-evaluation", "on", "--evaluate-every", "2"]
    assert main(["train", *COMMON, *options, "--out", str(out)]) == 0
    return out


def test_what_is_recorded_is_what_the_saved_model_reaches(run):
    """The last record against the model file, in NumPy."""
    from safetensors.numpy import load_file

    config = resolve(
        TrainConfig(rounds=3, num_clients=5, partition="label-shards", local_epochs=1)
    )
    federation = assemble(config)
    assert federation.tests is None  # FedSparsify is not personalised
    dataset = federation.dataset
    tests = data.client_tests(dataset.train.y, federation.parts, dataset.test.y)
    file = next((run / "model").glob("*.safetensors"))
    weights = load_file(file)
    x = dataset.test.x / dataset.normalization.std
    h = np.asarray(x, np.float32).reshape(len(x), -1)
    for n in range(3):
        kernel = weights[f"params/Dense_{n}/kernel"]
        h = h @ kernel + weights[f"params/Dense_{n}/bias"]
        h = np.maximum(h, 0) if n < 2 else h
    right = h.argmax(-1) == dataset.test.y
    each = [
        right[rows[:size]].mean()
        for rows, size in zip(tests.rows, tests.sizes, strict=True)
    ]
    last = records(run)[-1]
    assert last["client_accuracy_mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert last["client_accuracy_worst_decile"] == pytest.approx(min(each), abs=1e-6)
    found = [last[f"client_accuracy_tenth_{n}"] for n in range(1, 11)]
    assert found == np.histogram(each, np.linspace(0, 1, 11))[0].tolist()


def test_rounds_without_an_evaluation_have_none(run):
    known = [[r[field] is not None for field in FIELDS] for r in records(run)]
    assert known == [[False] * 2, [True] * 2, [True] * 2]
    summary = json.loads((run / "summary.json").read_text())
    assert all(summary[field] == records(run)[-1][field] for field in FIELDS)


def test_the_report_has_the_clients_columns(run, tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    page = out.read_text()
    assert "Worst tenth" in page and "accuracy over rounds" in page
    assert "Accuracies of clients" in page and "90 to 100 %" in page


def test_it_is_off_by_default(tmp_path):
    out = tmp_path / "off"
    assert main(["train", *COMMON, "--out", str(out)]) == 0
    assert not set(FIELDS) & set(records(out)[-1])


def test_a_sweep_records_what_train_does(run, tmp_path):
    out = tmp_path / "sweep"
    options = ["--client-evaluation", "on", "--evaluate-every", "2", "--seed", "0", "1"]
    assert main(["sweep", *COMMON, *options, "--out", str(out)]) == 0
    runs = {}
    for path in out.rglob("metrics.jsonl"):
        config = json.loads((path.parent / "config.json").read_text())
        runs[config["options"]["seed"]] = path.parent
    assert set(runs) == {0, 1}
    for one, other in zip(records(runs[0]), records(run), strict=True):
        for field in FIELDS:
            assert one[field] == pytest.approx(other[field], abs=0.02)


def test_numbers_are_refused_in_one_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = rng.normal(size=(20, 3)).astype(np.float32)
        arrays[f"y_{part}"] = rng.normal(size=20).astype(np.float32)
    np.savez(tmp_path / "numbers.npz", **arrays)
    command = ["train", "--dataset", "npz", "--data-dir", str(tmp_path / "numbers.npz")]
    options = ["--num-clients", "2", "--rounds", "1", "--client-evaluation", "on"]
    assert main([*command, *options, "--out", str(tmp_path / "out")]) == 2
    assert "--client-evaluation on needs classes" in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ["lotteryfl", "dispfl"])
def test_it_is_on_by_itself_where_clients_have_models_of_their_own(algorithm, tmp_path):
    """Two classes a client: its own model knows them, the model of all does not."""
    out = tmp_path / "own"
    options = ["--algorithm", algorithm, "--final-sparsity", "0.5"]
    assert main(["train", *COMMON, *options, "--out", str(out)]) == 0
    last = records(out)[-1]
    if algorithm == "dispfl":
        assert last["client_accuracy_mean"] > last["test_accuracy"] + 0.1
    assert 0 <= last["client_accuracy_worst_decile"] <= last["client_accuracy_mean"]
    command = ["train", *COMMON, *options, "--client-evaluation", "off"]
    assert main([*command, "--out", str(tmp_path / "off")]) == 0
    off = records(tmp_path / "off")[-1]
    assert not set(FIELDS) & set(off) and off["test_accuracy"] == last["test_accuracy"]
