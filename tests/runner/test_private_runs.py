"""``--dp-clip`` and its companions from the command line."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import chex
import pytest

from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory

RUN = ["train", "--num-clients", "10", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off"]
DP = ["--dp-clip", "0.5", "--dp-noise", "2", "--delta", "0.01"]


@pytest.fixture(autouse=True)
def dp():
    package = pytest.importorskip("dp_accounting")
    pytest.importorskip("dp_accounting.rdp")
    return package


def records_of(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def play(out, *options):
    """The records and the summary of a run."""
    assert main([*RUN, "--out", str(out), *options]) == 0
    return records_of(out), json.loads((out / "summary.json").read_text())


def timeless(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def fixed_epsilon(dp, z, size, clients, rounds, delta):
    """Of fixed cohorts, whose replaced client moves the sum by twice the norm."""
    accountant = dp.rdp.RdpAccountant(
        neighboring_relation=dp.NeighboringRelation.REPLACE_ONE
    )
    event = dp.SampledWithoutReplacementDpEvent(
        clients, size, dp.GaussianDpEvent(z / 2)
    )
    accountant.compose(event, rounds)
    return accountant.get_epsilon(delta)


def test_every_round_says_the_epsilon_of_dp_accounting(dp, tmp_path, capsys):
    records, summary = play(
        tmp_path / "run", "--rounds", "3", "--participation", "0.4", *DP
    )
    expected = [fixed_epsilon(dp, 2.0, 4, 10, t, 0.01) for t in (1, 2, 3)]
    assert [r["epsilon"] for r in records] == pytest.approx(expected, rel=1e-12)
    assert summary["epsilon"] == records[-1]["epsilon"]
    assert summary["privacy"] == {
        "delta": 0.01,
        "noise_multiplier": 2.0,
        "clip_norm": 0.5,
        "neighbours": "replace one",
        "clients": 10,
        "cohort": 4,
    }
    shown = capsys.readouterr().out
    assert f"epsilon {expected[-1]:.4g} at delta 0.01 (replace one client)" in shown


def test_all_clients_of_a_round_are_a_fixed_cohort_of_all(dp, tmp_path, capsys):
    records, _ = play(tmp_path / "run", "--rounds", "1", *DP)
    expected = fixed_epsilon(dp, 2.0, 10, 10, 1, 0.01)
    assert records[0]["epsilon"] == pytest.approx(expected, rel=1e-12)
    assert expected >= dp.get_epsilon_gaussian(1.0, 0.01)  # the exact one of z = 2
    capsys.readouterr()


def test_a_promise_is_kept_by_the_smallest_noise(dp, tmp_path, capsys):
    promise = ["--dp-clip", "0.5", "--epsilon", "8", "--delta", "0.01"]
    records, summary = play(tmp_path / "run", "--rounds", "3", *promise)
    assert 8 - 1e-3 < records[-1]["epsilon"] <= 8
    z = summary["privacy"]["noise_multiplier"]
    assert fixed_epsilon(dp, z, 10, 10, 3, 0.01) <= 8
    assert fixed_epsilon(dp, z - 1e-4, 10, 10, 3, 0.01) > 8
    capsys.readouterr()


def test_the_sparsity_is_exactly_that_of_the_run_without_noise(tmp_path, capsys):
    plain, _ = play(tmp_path / "plain", "--rounds", "3")
    noisy, _ = play(tmp_path / "noisy", "--rounds", "3", *DP)
    for field in ("sparsity", "target_sparsity", "merged"):
        assert [r[field] for r in noisy] == [r[field] for r in plain]
    assert [r["sparsity"] for r in noisy][-1] == pytest.approx(0.9, abs=1e-4)
    # And so are the bytes: noise makes no weight non-zero that was purged.
    bytes_down = [[r["bytes_down"] for r in run[1:]] for run in (noisy, plain)]
    assert bytes_down[0] == bytes_down[1]
    assert "epsilon" not in plain[0]
    capsys.readouterr()


def test_a_resumed_run_goes_on_with_its_noise_and_its_accountant(tmp_path, capsys):
    """Dense, as a schedule would depend on the last round."""
    late = ["--final-sparsity", "0", "--participation", "0.5", *DP]
    straight = play(tmp_path / "straight", *late, "--rounds", "4")
    play(tmp_path / "half", *late, "--rounds", "2")
    again = play(
        tmp_path / "half", *late, "--rounds", "4", "--resume", "--allow-changes"
    )
    assert timeless(again[0]) == timeless(straight[0])
    assert again[1]["epsilon"] == straight[1]["epsilon"]
    epsilons = [r["epsilon"] for r in again[0]]
    assert epsilons == sorted(set(epsilons)) and len(epsilons) == 4
    models = [
        load_model(RunDirectory(tmp_path / name).model)[0]
        for name in ("straight", "half")
    ]
    chex.assert_trees_all_equal(*models)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (["--participation", "0.5"], "--participation 1.0 -> 0.5"),
        (["--dp-noise", "3"], "--dp-noise 2.0 -> 3.0"),
        (["--delta", "0.02"], "--delta 0.01 -> 0.02"),
    ],
)
def test_a_resumed_run_keeps_to_its_promise(changed, line, private_run, capsys):
    options = [*RUN, "--rounds", "2", *DP, *changed, "--out", str(private_run)]
    assert main([*options, "--resume", "--allow-changes"]) == 2
    error = capsys.readouterr().err
    assert f"cannot go on with {line}" in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def private_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("private") / "run"
    play(out, "--rounds", "2", *DP)
    return out


def test_a_promise_for_so_many_rounds_is_not_one_for_more(tmp_path, capsys):
    promise = ["--dp-clip", "0.5", "--epsilon", "8", "--delta", "0.01"]
    out = tmp_path / "run"
    play(out, "--rounds", "1", *promise)
    more = [*RUN, "--rounds", "2", *promise, "--out", str(out)]
    assert main([*more, "--resume", "--allow-changes"]) == 2
    error = capsys.readouterr().err
    assert "cannot go on with --rounds 1 -> 2" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--dp-noise", "1"], "--dp-noise needs --dp-clip: the norm that"),
        (["--epsilon", "1", "--delta", "0.01"], "--epsilon needs --dp-clip: the norm"),
        (["--dp-clip", "1", "--dp-noise", "1"], "--dp-clip needs --delta: the prob"),
        (["--dp-clip", "1", "--delta", "0.01"], "needs one of --dp-noise Z and --eps"),
        ([*DP, "--epsilon", "1"], "needs one of --dp-noise Z and --epsilon E"),
        (["--dp-clip", "0"], "--dp-clip is 0.0: it must be above 0"),
        (["--dp-noise", "0"], "--dp-noise is 0.0: it must be above 0"),
        (["--delta", "1"], "--delta is 1.0: it must be above 0 and below 1"),
        ([*DP[:4], "--delta", "0.1"], "--delta is 0.1: it must be below 1 / N = 0.1"),
        (
            ["--dp-clip", "1", "--epsilon", "1e-6", "--delta", "1e-5"],
            "--epsilon 1e-06 after 2 rounds needs noise of more than 1,000 times",
        ),
        ([*DP, "--loss", "contrastive"], "does not go with --loss contrastive"),
        (
            [*DP, "--algorithm", "fedsparsify-local"],
            "fedsparsify-local: --dp-clip does not go with this method: its clients "
            "choose masks from their data, which the server counts",
        ),
        ([*DP, "--merge", "median"], "its merge looks at single uploads"),
        ([*DP, "--algorithm", "unipts"], "after the last round it looks at clients'"),
        ([*DP, "--powerprop", "2"], "--dp-clip does not go with --powerprop-average"),
        ([*DP, "--model", "resnet56"], "as well: use a network without running"),
    ],
)
def test_what_cannot_be_promised_is_one_line(options, line, capsys, tmp_path):
    plain = [*RUN, "--rounds", "2", "--out", str(tmp_path / "run")]
    assert main([*plain, *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


def test_private_trainings_of_the_page_keep_what_they_promise(
    tmp_path, capsys, monkeypatch
):
    """Both commands, shortened; ``tests/runner/audit`` plays those of audits."""
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    private = [block for block in blocks if "--dp-clip" in block]
    assert len(private) == 2 and len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(private):
        program, *words = shlex.split(block.replace("\\\n", ""))
        assert program == "fedsparsify"
        out = Path(f"run-{number}")
        shorter = ["--rounds", "2", "--local-epochs", "1", "--out", str(out)]
        assert main([*words, *shorter]) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert 7.9 < summary["epsilon"] <= 8
        assert summary["privacy"]["delta"] == float(words[words.index("--delta") + 1])
    capsys.readouterr()


UNBOUNDED = (
    *("fedsparsify-local", "snip", "grasp", "prunefl", "feddst", "rigl", "feddip"),
    *("flash", "sparsyfed", "halo", "ste", "heterofl", "fedrolex", "lotteryfl"),
    *("dispfl", "ssfl", "fedtiny", "fedrts", "unipts"),
)
"""Methods that release more than a bounded sum."""


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_method_without_a_bounded_sum_is_named(name, capsys, tmp_path):
    words = [*RUN, *DP, "--rounds", "1", "--train-subset", "60"]
    out = tmp_path / "run"
    assert main([*words, "--algorithm", name, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f" --algorithm {name}: --dp-clip does not go with " in error
    assert error.count("\n") == 1 and not out.exists()


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert main([*RUN, *DP, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "fedsparsify_jax[privacy]" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_poisson_cohorts_have_the_epsilon_of_their_sampling(dp, tmp_path, capsys):
    options = ["--participation", "0.3", "--cohort-sampling", "poisson", *DP]
    records, summary = play(tmp_path / "run", "--rounds", "4", *options)
    accountant = dp.rdp.RdpAccountant()
    event = dp.PoissonSampledDpEvent(0.3, dp.GaussianDpEvent(2.0))
    for record in records:
        accountant.compose(event)
        expected = accountant.get_epsilon(0.01)
        assert record["epsilon"] == pytest.approx(expected, rel=1e-9)
    assert summary["privacy"]["neighbours"] == "add or remove one"
    assert summary["privacy"]["cohort"] == pytest.approx(3.0)
    # Numbers of clients vary from round to round; bytes are of those who came.
    merged = [r["merged"] for r in records]
    assert len(set(merged)) > 1 and all(r["dropped"] == 0 for r in records)
    dense = summary["bytes_dense"] / sum(merged)
    assert [r["bytes_dense"] for r in records] == [m * dense for m in merged]
    capsys.readouterr()


def test_poisson_cohorts_from_disk_are_those_from_memory(tmp_path, capsys):
    options = ["--participation", "0.3", "--cohort-sampling", "poisson", *DP]
    options += ["--rounds", "3", "--measure-bytes"]
    memory, _ = play(tmp_path / "memory", *options)
    disk, _ = play(tmp_path / "disk", *options, "--client-data", "disk")
    assert timeless(disk) == timeless(memory)
    sent = [r["message_bytes_down"] for r in memory if r["merged"] == 0]
    assert sent == [0] * len(sent)
    capsys.readouterr()


def test_a_sweep_over_noise_is_one_program_of_runs_as_alone(dp, tmp_path, capsys):
    options = ["--rounds", "2", *DP[:2], "--delta", "0.01", "--num-clients", "10"]
    options += ["--local-epochs", "1", "--compilation-cache", "off"]
    sweep = ["sweep", *options, "--dp-noise", "2,4", "--out", str(tmp_path / "sweep")]
    assert main(sweep) == 0
    assert "2 to train as 1 program" in capsys.readouterr().out
    for z in (2.0, 4.0):
        records = records_of(tmp_path / "sweep" / f"dp_noise={z}")
        expected = [fixed_epsilon(dp, z, 10, 10, t, 0.01) for t in (1, 2)]
        assert [r["epsilon"] for r in records] == pytest.approx(expected, rel=1e-12)
        alone, _ = play(
            tmp_path / f"{z}", "--rounds", "2", *DP[:2], "--dp-noise", str(z), *DP[4:]
        )
        losses = [r["test_loss"] for r in records]
        assert losses == pytest.approx([r["test_loss"] for r in alone], rel=1e-4)
    capsys.readouterr()


def test_the_report_shows_epsilon(private_run, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", str(private_run), "--out", str(page)]) == 0
    assert "Epsilon over rounds" in page.read_text()
    other = tmp_path / "other"
    shutil.copytree(private_run, other)
    config = json.loads((other / "config.json").read_text())
    config["options"]["dp_noise"] = 3.0
    (other / "config.json").write_text(json.dumps(config))
    assert main(["report", str(private_run), str(other), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Epsilon" in text and "Epsilon over rounds" not in text
    capsys.readouterr()


def test_growing_networks_are_private_stage_by_stage(tmp_path, capsys):
    """Nearly no noise and a norm that no update has: nearly the plain run."""
    grow = ["--algorithm", "progfed", "--rounds", "3", "--stages", "2"]
    plain, _ = play(tmp_path / "plain", *grow)
    hidden = ["--dp-clip", "1000", "--dp-noise", "1e-7", "--delta", "0.01"]
    same, _ = play(tmp_path / "same", *grow, *hidden)
    for field in ("test_loss", "train_loss"):
        # Clients of 143 and 144 examples count alike.
        ours, theirs = ([r[field] for r in run] for run in (same, plain))
        assert ours == pytest.approx(theirs, rel=0.02)
    capsys.readouterr()
