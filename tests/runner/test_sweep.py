"""``fedsparsify sweep`` in process: what it writes, shows, refuses and never redoes."""

import contextlib
import importlib
import io
import json
import re
import shutil
import signal
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.display.sweep_progress import (
    Grid,
    results,
    sweep_reporter,
)
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.grammars import EPOCHS
from fedsparsify_jax.runner.options.listing import NOT_COMPARED
from fedsparsify_jax.runner.options.sweep_config import OPTIONS, SweepConfig, values
from fedsparsify_jax.runner.options.sweep_grid import program_groups, traced, trials
from fedsparsify_jax.runner.storage.lock import locked
from fedsparsify_jax.runner.storage.model_files import load_model

# The package has the function `sweep` by this name.
sweep = importlib.import_module("fedsparsify_jax.runner.sweep")

SMALL = ["--rounds", "2", "--local-epochs", "1", "--num-clients", "4"]
METRICS = "metrics.jsonl"
GRID = ["--final-sparsity", "0.5,0.8", "--seeds", "2", "--compilation-cache", "off"]
SWEEP = ["sweep", *SMALL, *GRID, "--out", "grid"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def spying():
    """Yields the groups that are compiled meanwhile, as lists of trials."""
    compiled = []

    class Spy(sweep.GroupProgram):
        def __init__(self, federation, group, devices):
            compiled.append(list(group))
            super().__init__(federation, group, devices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "GroupProgram", Spy)
        yield compiled


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def content(path):
    return json.loads(Path(path).read_text())


NAME = "final_sparsity=0.8_seed=1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep and one of its trials by `train`: groups, output and directory."""
    with pytest.MonkeyPatch.context() as patch, spying() as groups:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            assert main(SWEEP) == 0
        options = ["--final-sparsity", "0.8", "--seed", "1", "--devices", "1"]
        off = ["--compilation-cache", "off"]
        assert main(["train", *SMALL, *options, *off, "--out", "one"]) == 0
        return groups, shown.getvalue().splitlines(), Path.cwd()


@pytest.fixture
def copied(finished):
    """The same files in the directory of the test."""
    shutil.copytree(finished[2], ".", dirs_exist_ok=True)


def test_a_sweep_shows_means_and_spreads(finished):
    groups, shown, _ = finished
    assert [len(group) for group in groups] == [4]
    assert "4 to train as 1 program on 2 devices" in shown[0]
    table = next(n for n, line in enumerate(shown) if line.startswith("options"))
    assert "accuracy %" in shown[table] and "bytes moved" in shown[table]
    rows = shown[table + 1 : table + 3]
    assert [row.split()[:3] for row in rows] == [
        ["--final-sparsity", "0.5", "2"],
        ["--final-sparsity", "0.8", "2"],
    ]
    assert all(row.count("+-") == 3 for row in rows)


def test_a_sweep_writes_what_train_writes(copied):
    run = Path("grid", NAME)
    for record, expected in zip(
        lines(run / METRICS), lines(f"one/{METRICS}"), strict=True
    ):
        assert record.keys() == expected.keys()
        del record["seconds"], expected["seconds"]
        assert record.pop("kept") == expected.pop("kept")
        assert record == pytest.approx(expected, abs=1e-5)
    summary = content(run / "summary.json")
    assert summary.keys() == content("one/summary.json").keys()
    assert load_model(run / "model")[1].keys() == load_model("one/model")[1].keys()
    config, other = (
        content(path / "config.json")["options"] for path in (run, Path("one"))
    )
    assert config.keys() == other.keys()
    assert all(config[key] == other[key] for key in config if key not in NOT_COMPARED)
    partition = (run / "partition.json").read_text()
    assert partition == Path("one/partition.json").read_text()
    table = lines("grid/sweep.jsonl")
    assert [(row["final_sparsity"], row["seed"]) for row in table] == [
        (0.5, 0),
        (0.5, 1),
        (0.8, 0),
        (0.8, 1),
    ]
    assert table[3] == {"run": NAME, "final_sparsity": 0.8, "seed": 1, **summary}


def test_a_sweep_started_again_does_what_is_unfinished(copied):
    """Started again after a kill: no other file changes."""

    def contents():
        paths = [path for path in Path("grid").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in paths}

    Path("grid", NAME, "summary.json").unlink()
    before = contents()
    with spying() as groups:
        assert main(SWEEP) == 0
    assert [[trial.name for trial in group] for group in groups] == [[NAME]]
    after = contents()
    others = [path for path in before if path.parts[1].startswith("final")]
    others = [path for path in others if path.parts[1] != NAME]
    assert others and all(after[path] == before[path] for path in others)
    # Alone it has both devices for its clients, and the same numbers.
    again = lines(f"grid/{NAME}/{METRICS}")
    for record, expected in zip(again, lines(f"one/{METRICS}"), strict=True):
        for key in ("test_accuracy", "test_loss", "train_loss", "sparsity"):
            assert record[key] == pytest.approx(expected[key], abs=1e-5)


def test_finished_trials_are_recognized_among_more(copied, capsys):
    """With another seed: the four are known by what they are."""
    with spying() as groups:
        assert main([*SWEEP, "--seeds", "3"]) == 0
        assert [trial.config.seed for trial in groups[0]] == [2, 2]
        assert "4 are finished already" in capsys.readouterr().out
        assert main([*SWEEP, "--seeds", "3"]) == 0
    assert len(groups) == 1


def test_words_become_values():
    given = values(
        SweepConfig(
            final_sparsity=("0.9, 0.95",),
            client_sizes=("3,2", "skewed"),
            data_dir=("a,b",),
            seed=("3", "1"),
        )
    )
    assert given == {
        "data_dir": [Path("a,b")],
        "client_sizes": ["3,2", "skewed"],
        "final_sparsity": [0.9, 0.95],
        "seed": [3, 1],
    }
    for field, option in OPTIONS.items():
        default = getattr(TrainConfig(), field)
        kind = int if EPOCHS in option.rules else option.kind  # whole ones
        assert default is None or type(default) is kind


def test_cells_leave_out_what_their_algorithm_has_no_use_for():
    grid = {"algorithm": ["fedavg", "snip"], "final_sparsity": [0.5, 0.8]}
    found = trials(grid | {"seed": [0, 1]})
    assert [cell.name for cell in found] == [
        "algorithm=fedavg_seed=0",
        "algorithm=fedavg_seed=1",
        "algorithm=snip_final_sparsity=0.5_seed=0",
        "algorithm=snip_final_sparsity=0.5_seed=1",
        "algorithm=snip_final_sparsity=0.8_seed=0",
        "algorithm=snip_final_sparsity=0.8_seed=1",
    ]
    together = program_groups(found)
    assert [len(group) for group in together] == [2, 4]
    assert traced(together[0]) == {}
    assert traced(together[1]) == {"final_sparsity": [0.5, 0.5, 0.8, 0.8]}


def test_names_are_fit_for_a_file_system():
    grid = {"data_dir": [Path("a/b"), Path("a-b"), Path("c" * 150, "d" * 150)]}
    names = [cell.name for cell in trials(grid | {"dataset": ["npz"]})]
    assert len(set(names)) == 3
    assert names[1] == "data_dir=a-b" and names[0].startswith("data_dir=a-b-")
    assert max(map(len, names)) < 250


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        ({"learning_rate": [0.1, 0.2], "exponent": [1.0, 3.0]}, [4]),
        ({"momentum": [0.0, 0.5, 0.9]}, [1, 2]),
        ({"algorithm": ["fedprox"], "mu": [0.0, 0.1, 1.0]}, [1, 2]),
        ({"batch_size": [16, 32], "seed": [0, 1]}, [2, 2]),
        ({"rounds": [5, 6]}, [1, 1]),
        ({"partition": ["iid", "label-shards"]}, [1, 1]),
        ({"train_subset": [100], "seed": [0, 1]}, [1, 1]),
    ],
)
def test_groups_are_what_shares_a_program(grid, sizes):
    assert [len(group) for group in program_groups(trials(grid))] == sizes


REFUSED = {
    "--final-sparsity 0.5,x": "--final-sparsity: expected FLOAT, not 'x'",
    "--rounds 2.5": "--rounds: expected INT, not '2.5'",
    "--rounds ,": "--rounds is ',': there is no value before or after",
    "--seeds 2 --seed 1": "--seeds and --seed exclude each other",
    "--seeds 0": "--seeds is 0: it must be at least 1",
    "--final-sparsity 0.5,1": "--final-sparsity is 1.0: it must be at least 0 and",
    "--algorithm fedavg,snipp": "unknown algorithm 'snipp': did you mean 'snip'?",
    "--algorithm fedavg --num-clients 5,1438": "1438 clients for 1437 examples",
    "--fine-tune-rounds 1 --merge mean,men": "men",
    "--cohort vmap,map": "--cohort does not change what is computed: give one value",
    "--dataset digits,store": "--dataset store is for populations",
    "--finals 1": "--finals",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_options_are_one_line_and_leave_no_trace(options, capsys, tmp_path):
    assert main(["sweep", *options.split(), "--out", "new"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert REFUSED[options] in shown.err
    assert list(tmp_path.iterdir()) == []


def test_directories_of_others_are_left_alone(capsys):
    Path("used").mkdir()
    Path("used/config.json").write_text("{}")
    Path("file").touch()
    for out, message in {
        "used": "--out used is not empty and holds no sweep",
        "file": "--out file is a file",
    }.items():
        assert main([*SWEEP[:-1], out]) == 2
        assert message in capsys.readouterr().err


def test_an_interrupted_sweep_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsparsify_jax.cli.sweep", interrupted)
    assert main(["sweep"]) == 130
    shown = capsys.readouterr().err
    assert shown == "fedsparsify: stopped by SIGINT; to go on: fedsparsify sweep\n"


def record(t, accuracy, **more):
    return {"round": t, "test_accuracy": accuracy, "seconds": 0.5} | more


def shown(terminal):
    every = trials({"final_sparsity": [0.5, 0.8], "seed": [0, 1], "rounds": [10]})
    grid = Grid(every, {0: record(10, 0.75)})
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None)
    with sweep_reporter(console, grid) as show:
        grid.update({1: record(4, 0.5), 2: record(4, None)})
        show([1, 2])
    return file.getvalue()


def test_progress_as_lines_and_as_a_grid():
    # 6 + 6 + 10 rounds are left, half a second each.
    line = "1 of 4 runs finished, left 11.0 s: 4/10  50.0 %, 4/10  n/a\n"
    assert shown(terminal=False) == line
    grid = shown(terminal=True)
    for text in ("seed 1", "75.0 %", "4/10  50.0 %", "waiting", "left 11.0 s"):
        assert text in grid


def test_the_table_is_by_hand():
    every = trials({"final_sparsity": [0.5, 0.8], "seed": [0, 1]})
    bytes_ = {"bytes_up": 1_000_000, "bytes_down": 500_000}
    summaries = [
        record(10, accuracy, sparsity=sparsity, **bytes_)
        for accuracy, sparsity in [(0.5, 0.5), (0.75, 0.5), (None, 0.8), (0.5, 0.8)]
    ]
    head, first, second = results(every, summaries).splitlines()
    heads = "options runs accuracy % sparsity % bytes moved, MB"
    assert " ".join(head.split()) == heads
    said = "--final-sparsity 0.5 2 62.50 +- 17.68 50.00 +- 0.00 1.50 +- 0.00"
    assert " ".join(first.split()) == said
    assert second.split()[1:6] == ["0.8", "2", "n/a", "80.00", "+-"]


def test_a_sweep_names_the_runs_that_learnt_nothing(capsys):
    rates = ["--learning-rate", "0.1,1000", "--compilation-cache", "off"]
    with jax.debug_nans(False):
        assert main(["sweep", *SMALL, *rates]) == 0
    output = capsys.readouterr().out.splitlines()
    (warning,) = [line for line in output if line.startswith("warning: ")]
    assert re.match(r"warning: 1 run of 2 \(.*1000.*\): .*--learning-rate", warning)


@pytest.mark.parametrize(
    "options",
    [
        ["--client-data", "disk"],
        ["--sparse-training", "auto"],
        ["--coordinator", "host:1", "--num-processes", "1", "--process-id", "0"],
    ],
)
def test_what_is_for_train_alone_is_refused(options, capsys):
    assert main([*SWEEP, *options]) == 2
    assert f"{options[0]}" in capsys.readouterr().err
    assert not Path("grid").exists()


def test_a_stopped_group_goes_on_where_it_was(monkeypatch, capsys):
    """A signal after the first call; the rest is what the whole sweep gives."""
    compiled, states = [], []
    compile_group, call = sweep.GroupProgram, sweep.GroupProgram.__call__

    def once(*group):
        """Both sweeps have the program that the first one compiles."""
        if not compiled:
            compiled.append(compile_group(*group))
        return compiled[0]

    def stopping(self, state, rounds):
        state, reports = call(self, state, rounds)
        states.append(jax.tree.map(np.array, state))
        if len(states) == 1:
            signal.raise_signal(signal.SIGTERM)
        return state, reports

    monkeypatch.setattr(compile_group, "__call__", stopping)
    monkeypatch.setattr(sweep, "GroupProgram", once)
    command = ["sweep", *SMALL, "--seeds", "2", "--compilation-cache", "off"]
    command += ["--algorithm", "fedavg", "--rounds", "3", "--out", "stopped"]
    assert main(command) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert "stopped by SIGTERM 0 of 2 runs finished; to go on: fedsparsify " in said
    assert [path.name for path in Path("stopped/groups").glob("*/*")] == ["1"]
    with locked(Path("stopped")):
        assert main(command) == 2
    assert "--out stopped is in use by process" in capsys.readouterr().err
    assert main(command) == 0
    assert [int(state.round) for state in states[:2]] == [1, 2]
    assert {path.name for path in Path("stopped").iterdir()} == {
        "seed=0",
        "seed=1",
        "sweep.json",
        "sweep.jsonl",
    }
    program = compiled[0]
    state, reports = call(program, program.init(), 3)
    chex.assert_trees_all_equal(state, states[-1])
    for seed in (0, 1):
        found = [row["train_loss"] for row in lines(f"stopped/seed={seed}/{METRICS}")]
        assert np.array_equal(
            np.float32(found), [report.info.loss for report in reports[seed]]
        )
