"""The look inside the second edition: it changes nothing, and its page shows all."""

import json
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import pytest

from experiments.lib.results import path_of
from experiments.studies import second_why, second_why_page
from fedsparsify_jax.runner import train

TINY = {
    "dataset": "digits",
    "num_clients": 10,
    "participation": 0.3,
    "local_epochs": 1,
    "rounds": 11,
    "final_sparsity": 0.8,
}
OFTEN = {"turn", "together", "still", "loss", "accuracy"}
SELDOM = {"overlap", "flow", "flow_pruned", "barrier", "clients_loss", "merged_loss"}


@pytest.fixture(scope="module")
def line():
    config = second_why.configuration("second", "label-shards", 0, **TINY)
    return second_why.observe(config, "second")


def test_every_measure_has_its_rounds(line):
    curves = line["curves"]
    for name in OFTEN:
        assert None not in curves[name] and len(curves[name]) == 11
    for name in SELDOM:
        there = [t for t, value in enumerate(curves[name], 1) if value is not None]
        assert there == [10, 11]
    assert curves["turn"][0] == 0  # no move comes before the first
    for name, low, high in [("turn", -1, 1), ("together", 0, 1), ("overlap", 0, 1)]:
        assert all(low <= v <= high for v in curves[name] if v is not None)


def test_the_kept_weights_are_those_of_the_target(line):
    sizes, curves = line["sizes"], line["curves"]
    kept = sum(curves[f"kept {name}"][-1] for name in sizes)
    total = sum(sizes.values())
    assert kept == total - int(0.8 * total)


def test_looking_on_changes_nothing(line, tmp_path):
    config = second_why.configuration(
        "second", "label-shards", 0, **TINY, out=tmp_path / "run"
    )
    summary = train(config)
    wanted = summary["validation_accuracy"]
    assert line["average_accuracy"] == pytest.approx(wanted, abs=5e-5)


def test_own_masks_keep_half_of_what_is_kept():
    kept = {"params": {"w": jnp.array([True, True, True, True, False])}}
    uploads = {"params": {"w": jnp.array([[1.0, 2, 3, 4, 9], [4.0, 3, 2, 1, 9]])}}
    absolute = lambda variables: {"params": {"w": jnp.abs(variables["params"]["w"])}}
    own = second_why._own_masks(absolute, uploads, kept)["w"]
    assert own.tolist() == [
        [False, False, True, True, False],
        [True, True, False, False, False],
    ]


def test_what_has_not_left_its_start():
    w, start = jnp.array([1.0, 1.0, 0.0, 5.0]), jnp.array([1.05, 0.5, 0.0, 5.0])
    kept = jnp.array([True, True, False, False])
    share = second_why._still({"w": w}, {"w": start}, {"w": kept})
    assert float(share) == 0.5


def test_what_is_missing_is_run_once(tmp_path, monkeypatch, capsys, line):
    runs = []

    def observe(config, method):
        runs.append((method, config.partition, config.seed))
        return line | {
            "method": method,
            "partition": config.partition,
            "seed": config.seed,
        }

    monkeypatch.setattr(second_why, "observe", observe)
    for _ in range(2):
        assert second_why.main(["--seeds", "0", "1", "--results", str(tmp_path)]) == 0
    assert len(runs) == len(set(runs)) == 20
    report = second_why_page.report(root=tmp_path)
    assert set(report.blocks) == {"accuracy", *report.figures}
    for name, (_, text) in report.blocks.items():
        assert text.count("\n") == (6 if name == "accuracy" else 11)
        assert "nan" not in text
    for svg in report.figures.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def test_gaps_are_shown_as_gaps(tmp_path, line):
    empty = second_why_page.report(root=tmp_path)
    assert not empty.figures
    assert all(text == "Not measured yet." for _, text in empty.blocks.values())
    path_of("second_why", "paper", tmp_path).write_text(json.dumps(line) + "\n")
    one = second_why_page.report(root=tmp_path)
    lines = {name: text.count("\n") for name, (_, text) in one.blocks.items()}
    assert lines.pop("accuracy") == 6 and set(lines.values()) == {2}
