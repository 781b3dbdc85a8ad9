"""Run directories in every state: what is there is read, what is missing is said."""

import json

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.report.reading import read, read_run


def test_a_finished_run_misses_nothing(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.missing == () and run.finished and run.metric == "accuracy"
    assert [record["round"] for record in run.records] == list(range(1, 11))
    assert run.sizes == {"params/Dense_0/kernel": 800, "params/Dense_0/bias": 200}
    assert run.options["rounds"] == 10 and run.evaluated.iloc[-1] == pytest.approx(0.9)


def test_an_unfinished_run_says_how_far_it_is(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "run", played=4))
    assert run.missing == (
        "not finished: 4 of 10 rounds are there, and no summary.json",
    )
    # Without a model, the dense first round knows the sizes.
    assert run.sizes == {"params/Dense_0/kernel": 800, "params/Dense_0/bias": 200}


def test_sizes_are_not_guessed_from_a_sparse_round(write_run, change, tmp_path):
    path = write_run(tmp_path / "run", played=4)
    change(path / "metrics.jsonl", lambda text: "".join(text.splitlines(True)[1:]))
    assert read_run(path).sizes == {}


DAMAGES = {
    "torn": lambda text: text[:-40],
    "garbage": lambda text: text.replace('"round": 3,', "round 3", 1),
    "not an object": lambda text: text.replace(text.splitlines()[4], "[1, 2]"),
    "twice": lambda text: text + text.splitlines(True)[0],
    "round is text": lambda text: text.replace('"round": 5,', '"round": "5",'),
    "deep": lambda text: text + "[" * 100_000 + "\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_lines_are_left_out_and_counted(damage, write_run, change, tmp_path):
    path = write_run(tmp_path / "run")
    change(path / "metrics.jsonl", DAMAGES[damage])
    run = read_run(path)
    (said,) = run.missing
    assert said == "1 line of metrics.jsonl cannot be read and is left out"
    rounds = [record["round"] for record in run.records]
    assert len(rounds) >= 9 and rounds == sorted(set(rounds))


def test_values_of_the_wrong_kind_are_missing(write_run, tmp_path):
    path = write_run(tmp_path / "run", played=1)
    line = {"round": 2, "test_accuracy": "high", "sparsity": float("nan")}
    line |= {"train_loss": 10**400, "kept": {"a": [], "b": 1}, "bytes_up": True}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    last = read_run(path).records[-1]
    assert last == {
        "round": 2,
        "test_accuracy": None,
        "sparsity": None,
        "train_loss": None,
        "bytes_up": None,
        "kept": {"b": 1},
    }


@pytest.mark.parametrize("content", ["", "[]", '{"options": 3}', "{", "\xff"])
def test_an_unreadable_configuration_is_missing(content, write_run, tmp_path):
    path = write_run(tmp_path / "run")
    (path / "config.json").write_bytes(content.encode("latin-1"))
    run = read_run(path)
    assert run.options == {} and "config.json is missing" in run.missing[0]
    assert len(run.records) == 10


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_damaged_model_costs_nothing_but_itself(content, write_run, tmp_path):
    path = write_run(tmp_path / "run")
    (path / "model" / "model.safetensors").write_bytes(content)
    assert read_run(path).sizes["params/Dense_0/kernel"] == 800  # of the dense round


def test_paths_stand_for_runs(write_run, write_sweep, tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    assert len(read([sweep])) == 8
    one = write_run(tmp_path / "one")
    assert [run.name for run in read([one, one, tmp_path / "one"])] == ["one"]
    # The same name twice is told apart by the path.
    other = write_run(tmp_path / "elsewhere" / "one")
    assert [run.name for run in read([one, other])] == [str(one), str(other)]


def test_what_is_no_run_is_one_clear_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "sweep.json").write_text("{}")
    for name, message in {
        "none": f"no directory {tmp_path}/none",
        "file": f"{tmp_path}/file is a file",
        "empty": f"{tmp_path}/empty is no run and no sweep",
        "new": f"the sweep {tmp_path}/new has no run yet",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read([tmp_path / name])
        assert "\n" not in str(caught.value)
