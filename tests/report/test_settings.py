"""Which runs are repetitions, what sets the others apart, and their means."""

import pytest

from fedsparsify_jax.report.reading import read
from fedsparsify_jax.report.settings import common_options, group


def test_seeds_are_repetitions(write_sweep, tmp_path):
    settings = group(read([write_sweep(tmp_path / "sweep", seeds=3)]))
    assert [(s.label, len(s.runs)) for s in settings] == [
        ("fedavg", 3),  # which has no use for a final sparsity
        ("one-shot · final sparsity 0.8", 3),
        ("one-shot · final sparsity 0.9", 3),
        ("one-shot · final sparsity 0.95", 3),
    ]
    assert settings[0].values == {"algorithm": "fedavg", "final_sparsity": None}


def test_what_runs_share_and_where_they_differ(write_run, tmp_path):
    for n, rate in enumerate((0.1, 0.2)):
        write_run(tmp_path / f"{n}", learning_rate=rate, seed=n, verbose=n == 0)
    same, differ = common_options(read([tmp_path]))
    assert same["dataset"] == "digits" and "learning_rate" not in same
    assert differ == ["learning_rate", "seed"]  # verbose is no difference


def test_a_seed_twice_is_a_setting_of_its_own(write_run, tmp_path):
    paths = [
        write_run(tmp_path / name, shift=shift)
        for name, shift in {"a": 0.0, "b": 0.05}.items()
    ]
    assert [s.label for s in group(read(paths))] == ["a", "b"]


def test_an_older_run_without_an_option_has_its_default(write_run, change, tmp_path):
    write_run(tmp_path / "new")
    old = write_run(tmp_path / "old", seed=1)
    change(old / "config.json", lambda text: text.replace('"evaluate_every": 1,', ""))
    (setting,) = group(read([tmp_path]))
    assert len(setting.runs) == 2


def test_numbers_are_in_order_of_size(write_run, tmp_path):
    for sparsity in (0.9, 0.95, 0.5):
        write_run(tmp_path / f"{sparsity}", final_sparsity=sparsity)
    found = [s.values["final_sparsity"] for s in group(read([tmp_path]))]
    assert found == [0.5, 0.9, 0.95]


def test_a_curve_is_the_mean_of_its_runs_and_their_range(write_run, tmp_path):
    write_run(tmp_path / "0", rounds=4)
    write_run(tmp_path / "1", rounds=4, shift=0.1, seed=1)
    (setting,) = group(read([tmp_path]))
    curve = setting.results.curve("test_accuracy")
    assert list(curve.index) == [1, 2, 3, 4]
    assert list(curve["mean"]) == pytest.approx([0.65, 0.75, 0.85, 0.95])
    assert tuple(curve[["low", "high"]].iloc[0]) == pytest.approx((0.6, 0.7))


def last(setting):
    """The last point of a setting's accuracy."""
    return setting.results.path("round", "test_accuracy")[-1]


def test_means_are_of_finished_runs_if_there_are_any(write_run, tmp_path):
    write_run(tmp_path / "0", rounds=4)
    write_run(tmp_path / "1", rounds=4, shift=0.1, seed=1, played=2)
    (setting,) = group(read([tmp_path]))
    assert last(setting) == pytest.approx((4, 0.9))
    (tmp_path / "0" / "summary.json").unlink()
    (setting,) = group(read([tmp_path]))  # now up to where both are
    assert last(setting) == pytest.approx((2, 0.75))
