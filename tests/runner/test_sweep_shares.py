"""Sweeps that several processes share: who trains what, kills, refusals, status."""

import errno
import fcntl
import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from processes import MODULE, finished, start

from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.display.sweep_progress import Grid
from fedsparsify_jax.runner.options.sharing import Share, engine_options
from fedsparsify_jax.runner.options.sweep_grid import pieces, program_groups, trials
from fedsparsify_jax.runner.storage.claims import (
    alone,
    at_work,
    claimed,
    in_common,
    taking_part,
)
from fedsparsify_jax.runner.storage.lock import locked

OPTIONS = ["--local-epochs", "1", "--num-clients", "4"]
# Two programs: with momentum and without.
GRID = ["--seeds", "2", "--final-sparsity", "0.5,0.8", "--momentum", "0,0.9"]
SWEEP = ["sweep", "--rounds", "2", *OPTIONS, *GRID, "--out", "grid"]
RUNS = 8


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


def rows(path="grid"):
    lines = Path(path, "sweep.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def rounds(path="grid"):
    """The rounds that are written of every run."""
    return {
        file.parent.name: [json.loads(line)["round"] for line in lines]
        for file in Path(path).glob("*/metrics.jsonl")
        for lines in [file.read_text().splitlines()]
    }


def wait_until(is_true):
    """Waits for two minutes at most."""
    deadline = time.monotonic() + 120
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_true()


def is_training():
    return any(file.stat().st_size for file in Path("grid").glob("*/metrics.jsonl"))


@hypothesis.given(
    number=st.integers(1, 40), momenta=st.integers(1, 5), of=st.integers(1, 12)
)
@hypothesis.settings(max_examples=15)
def test_all_processes_have_the_same_pieces_and_begin_with_others(number, momenta, of):
    axes = {"momentum": [0.0, 0.5, 0.9, 0.95, 0.99][:momenta]}
    every = trials(axes | {"seed": list(range(number))})
    groups = program_groups(every)
    orders = [
        [tuple(t.name for t in piece) for piece in pieces(groups, Share(k, of))]
        for k in range(of)
    ]
    assert len({frozenset(order) for order in orders}) == 1
    names = sorted(name for piece in orders[0] for name in piece)
    assert names == sorted(trial.name for trial in every)
    group_of = {t.name: i for i, group in enumerate(groups) for t in group}
    assert all(len({group_of[name] for name in piece}) == 1 for piece in orders[0])
    firsts = {order[0] for order in orders}
    assert len(firsts) == min(of, len(orders[0]))


def test_no_process_claims_more_than_it_can_have_open():
    groups = program_groups(trials({"seed": list(range(450))}))
    assert [len(piece) for piece in pieces(groups, Share(0, 1))] == [150, 150, 150]


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "0/0", "a/b", "0/99999", "1/2/3"])
def test_what_is_no_share_is_refused(text, capsys):
    with pytest.raises(InputError, match="must be K/N"):
        Share.parse(text)
    assert main([*SWEEP, f"--share={text}"]) == 2
    assert "--share is" in capsys.readouterr().err
    assert not Path("grid").exists()


def test_options_of_launchers_are_names_and_values():
    with pytest.raises(InputError, match="must be NAME=VALUE"):
        engine_options(("timeout_min",))
    with pytest.raises(InputError, match="twice"):
        engine_options(("a=1", "a=2"))
    assert engine_options(("a=0.5", "b=x=y")) == {"a": 0.5, "b": "x=y"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--launcher", "ray"], "needs --workers"),
        (["--workers", "2"], "need --launcher"),
        (["--launcher", "ray", "--workers", "2", "--share", "0/2"], "exclude"),
        (["--launcher", "dask", "--workers", "2"], "unknown launcher 'dask'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, capsys):
    assert main([*SWEEP, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("grid").exists()


def test_claims_leave_what_another_has(tmp_path):
    a, b, c = runs = [tmp_path / name for name in "abc"]
    with claimed(runs) as mine, claimed(runs) as none:
        assert (mine, none) == (runs, [])
    with locked(b), claimed(runs) as mine:
        assert mine == [a, c]
        with claimed([a, b, c]) as none:
            assert none == []
    with claimed(runs) as mine:
        assert mine == runs


def test_a_sweep_is_of_one_process_or_shared(tmp_path):
    with taking_part(tmp_path, Share(0, 2)):
        assert list(at_work(tmp_path)) == ["0-of-2"]
        with (
            pytest.raises(InputError, match=r"--share 0/2 of .* is taken by process"),
            taking_part(tmp_path, Share(0, 2)),
        ):
            pass
        with (
            pytest.raises(InputError, match="join it with --share"),
            alone(tmp_path),
        ):
            pass
        with taking_part(tmp_path, Share(1, 2)), in_common(tmp_path):
            assert list(at_work(tmp_path)) == ["0-of-2", "1-of-2"]
    assert at_work(tmp_path) == {}
    with alone(tmp_path):
        assert at_work(tmp_path) == {}


def test_what_others_finish_counts():
    grid = Grid(trials({"seed": [0, 1, 2]}), {})
    record = {"round": 50, "test_accuracy": 0.5, "seconds": 2.0}
    grid.update({0: record | {"round": 10}})
    grid.finish_others({1: record})
    assert grid.headline() == "1 of 3 runs finished, left 3:00"
    assert [grid.status(n) for n in range(3)] == ["10/50  50.0 %", "50.0 %", "waiting"]


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with (
        pytest.raises(InputError, match="needs a file system with locks"),
        taking_part(tmp_path, Share(0, 2)),
    ):
        pass


def test_shares_train_every_run_once_and_as_one_process_does(capsys):
    assert main([*SWEEP, "--share", "1/2"]) == 0
    shown = capsys.readouterr().out
    assert "8 to train as 2 pieces" in shown and "this is share 1/2" in shown
    # The second program comes first.
    assert re.search(r"4 of 8 runs finished.*\n.*8 of 8 runs", shown)
    assert f"{RUNS} runs in grid" in shown
    before = {p: p.stat().st_mtime_ns for p in Path("grid").glob("*/summary.json")}
    assert main([*SWEEP, "--share", "0/2"]) == 0  # nothing is left
    assert "8 are finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert main([*SWEEP[:-1], "alone"]) == 0
    for shared, single in zip(rows(), rows("alone"), strict=True):
        assert shared["run"] == single["run"]
        assert shared["test_accuracy"] == pytest.approx(single["test_accuracy"])
    assert not Path("grid/groups").exists()


def test_what_another_process_trains_is_left_to_it(capsys):
    other = Path("grid/momentum=0.0_final_sparsity=0.5_seed=0")
    with locked(other), taking_part(Path("grid"), Share(0, 2)):
        Path("grid/sweep.json").write_text("{}")
        other.mkdir(parents=True, exist_ok=True)
        assert main([*SWEEP, "--share", "1/2"]) == 0
        shown = capsys.readouterr().out
        assert "runs are not finished" in shown and "share 0-of-2: process" in shown
        assert main(["sweep", "--status", "--out", "grid"]) == 0
        status = capsys.readouterr().out
        assert re.search(r"running +round +by\n\S+ +0/2 +process \d+", status)
    assert main(["sweep", "--status", "--out", "grid"]) == 0
    assert "waiting" in capsys.readouterr().out
    assert main([*SWEEP, "--share", "1/2"]) == 0
    assert len(rows()) == RUNS


LONG = ["sweep", "--rounds", "40", *OPTIONS, *GRID, "--out", "grid"]


def test_what_a_killed_process_had_claimed_the_other_trains(tmp_path):
    """The first is killed inside its first piece; the second comes to it by itself."""
    first = start([*LONG, "--share", "0/2"], tmp_path)
    with first:
        wait_until(is_training)
        second = start([*LONG, "--share", "1/2"], tmp_path)
        first.send_signal(signal.SIGKILL)
        first.communicate()
    status, out, err = finished(second)
    assert status == 0, err
    assert "8 of 8 runs finished" in out and "8 runs in grid" in out
    assert len(rows()) == RUNS
    assert set(map(tuple, rounds().values())) == {tuple(range(1, 41))}
    assert not Path("grid/groups").exists()


def test_status_needs_a_sweep(capsys):
    assert main(["sweep", "--status"]) == 2
    assert main(["sweep", "--status", "--out", "nowhere"]) == 2
    assert main([*SWEEP, "--status"]) == 2
    said = capsys.readouterr().err
    assert "--status needs --out" in said and said.count("there is no sweep in") == 2
    assert not list(Path().iterdir())


def commands_of_the_page():
    """Every command of docs/scaling.md, as words."""
    page = Path(__file__).parents[2] / "docs" / "scaling.md"
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if "sweep" in line]


def test_commands_of_the_page(capsys):
    shares, (*_, status) = [], [c for c in commands_of_the_page() if "--status" in c]
    for command in commands_of_the_page():
        if "--share" in command and "digits" in command:
            shares.append(command)
    assert len(shares) == 2
    for command in [*shares, status]:
        assert main(command) == 0
    shown = capsys.readouterr().out
    assert "8 runs in runs/shared" in shown
    assert "sweep of 8 runs in runs/shared: 8 finished" in shown


def test_recipes_of_the_page_are_command_lines(tmp_path):
    Path("sweep.toml").write_text('seeds = 2\nrounds = 3\ndataset = "digits"\n')
    places = {"$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT": "0/1"}
    places |= {"$JOB_COMPLETION_INDEX/4": "3/4", "$SCRATCH/grid": "grid"}
    places |= {"/out/grid": "grid"}
    recipes = [c for c in commands_of_the_page() if "--config" in c]
    assert len(recipes) == 2
    for recipe in recipes:
        assert main([places.get(word, word) for word in recipe]) == 0
    assert len(rows()) == 2


@pytest.mark.parametrize("launcher", ["submitit", "ray"])
def test_a_launcher_starts_the_shares(launcher, tmp_path):
    (command,) = (c for c in commands_of_the_page() if launcher in c)
    status, out, err = finished(start(command, tmp_path, HOME=str(tmp_path)))
    assert status == 0, err
    assert "2 jobs started" in out and "4 of 4 runs finished" in out
    out = Path(command[command.index("--out") + 1])
    assert len(rows(out)) == 4
    jobs = list((out / "jobs").iterdir())
    assert len(jobs) >= 2
    assert main(command) == 0  # finished: no job is started, in this process or others
    assert len(list((out / "jobs").iterdir())) == len(jobs)


def test_a_launched_sweep_that_fails_says_why(tmp_path):
    # There are fewer examples than clients, which only the job finds out.
    options = ["--launcher", "submitit", "--workers", "1", "--num-clients", "40000"]
    process = start([*SWEEP, *options], tmp_path, HOME=str(tmp_path))
    status, _, err = finished(process)
    assert status == 2
    assert re.search(r"1 of 1 job failed; job 0: .*clients.*\(see .*jobs\)", err), err


def test_a_launcher_that_is_not_installed_is_named(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None; from fedsparsify_jax.cli import main; "
        "sys.exit(main())"
    )
    command = [*SWEEP, "--launcher", "ray", "--workers", "2"]
    status, _, err = finished(start(command, tmp_path, [sys.executable, "-c", code]))
    assert (
        status == 2
        and "--launcher ray needs ray: pip install 'fedsparsify_jax[ray]'" in err
    )


def test_a_stopped_launcher_stops_its_jobs(tmp_path):
    command = [*LONG, "--launcher", "submitit", "--workers", "2"]
    command[command.index("40")] = "4000"
    process = start(command, tmp_path, MODULE, HOME=str(tmp_path))
    with process:
        wait_until(is_training)
        process.terminate()
        _, err = process.communicate(timeout=240)
    assert process.returncode == 143 and "0 of 8 runs finished" in err
    wait_until(lambda: not at_work(Path("grid")))
