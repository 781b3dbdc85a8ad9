"""Several rounds as one program, and what is not evaluated in between."""

import json

import pytest

from fedsparsify_jax.cli import main

OPTIONS = ["train", "--rounds", "5", "--num-clients", "4", "--local-epochs", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same five rounds: evaluated one by one, and every two."""
    folder = tmp_path_factory.mktemp("evaluate")
    found = []
    for every in (1, 2):
        out = folder / str(every)
        options = ["--evaluate-every", str(every), "--checkpoint-every", "3"]
        assert main([*OPTIONS, *options, "--out", str(out)]) == 0
        lines = (out / "metrics.jsonl").read_text().splitlines()
        found.append((out, [json.loads(line) for line in lines]))
    return found


def test_the_rounds_are_the_same(runs):
    (_, single), (_, several) = runs
    assert [record["round"] for record in several] == [1, 2, 3, 4, 5]
    for one, other in zip(single, several, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
        assert other["kept"] == one["kept"]
        assert other["bytes_up"] == pytest.approx(one["bytes_up"], rel=1e-3)


def test_only_every_second_is_evaluated_and_the_last(runs):
    (_, single), (out, several) = runs
    for one, other in zip(single, several, strict=True):
        if other["round"] in (2, 4, 5):
            assert other["test_loss"] == pytest.approx(one["test_loss"], abs=1e-4)
            assert other["test_accuracy"] == pytest.approx(
                one["test_accuracy"], abs=0.006
            )
        else:
            assert other["test_loss"] is None and other["test_accuracy"] is None
    summary = json.loads((out / "summary.json").read_text())
    assert summary["test_accuracy"] == several[-1]["test_accuracy"]


def test_checkpoints_are_where_programs_end(runs):
    saved = sorted(path.name for path in (runs[1][0] / "checkpoints").iterdir())
    assert saved == ["4", "5"]
