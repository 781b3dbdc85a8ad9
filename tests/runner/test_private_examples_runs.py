"""``--dp-unit example`` from the command line."""

import dataclasses
import json
import math

import chex
import pytest

from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import encrypting
from fedsparsify_jax.runner.options import privacy
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.storage.model_files import load_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory

RUN = ["train", "--num-clients", "4", "--local-epochs", "1", "--train-subset", "120"]
RUN += ["--compilation-cache", "off"]
NORM = ["--dp-unit", "example", "--dp-clip", "0.5", "--delta", "0.001"]
DP = [*NORM, "--dp-noise", "2"]


@pytest.fixture(autouse=True)
def dp():
    return pytest.importorskip("dp_accounting")


def play(out, *options):
    """The records and the summary of a run."""
    assert main([*RUN, "--out", str(out), *options]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return records, json.loads((out / "summary.json").read_text())


def model_of(out):
    return load_model(RunDirectory(out).model)[0]


def test_every_round_says_the_epsilon_of_all_passes_so_far(dp, tmp_path, capsys):
    """Local's clients train 1 epoch and 2 after their purge; half of them a round."""
    local = ["--algorithm", "fedsparsify-local", "--fine-tune-epochs", "2"]
    local += ["--sparse-training", "auto"]  # whose compact models are left out
    records, summary = play(
        tmp_path / "run", *DP, *local, "--rounds", "2", "--participation", "0.5"
    )
    expected = [dp.get_epsilon_gaussian(2.0 / math.sqrt(3 * t), 0.001) for t in (1, 2)]
    assert [r["epsilon"] for r in records] == pytest.approx(expected, rel=1e-12)
    assert summary["epsilon"] == records[-1]["epsilon"]
    assert summary["privacy"] == {
        "delta": 0.001,
        "noise_multiplier": 2.0,
        "clip_norm": 0.5,
        "neighbours": "zero out one",
        "unit": "example",
        "passes": 3,
    }
    shown = capsys.readouterr().out
    assert f"epsilon {expected[-1]:.4g} at delta 0.001 (zero out one example)" in shown
    assert "examples' gradients are clipped in full shapes" in shown


def test_a_resumed_run_goes_on_with_its_noise_and_its_accountant(dp, tmp_path, capsys):
    dense = ["--final-sparsity", "0", *DP]
    straight, _ = play(tmp_path / "straight", *dense, "--rounds", "2")
    play(tmp_path / "half", *dense, "--rounds", "1")
    more = ["--rounds", "2", "--resume", "--allow-changes"]
    records, _ = play(tmp_path / "half", *dense, *more)
    assert [r["epsilon"] for r in records] == [r["epsilon"] for r in straight]
    assert [r["test_loss"] for r in records] == [r["test_loss"] for r in straight]
    chex.assert_trees_all_equal(
        model_of(tmp_path / "half"), model_of(tmp_path / "straight")
    )
    for change in (["--local-epochs", "2"], ["--dp-unit", "client"]):
        options = [*RUN, *dense, *more, *change, "--out", str(tmp_path / "half")]
        assert main(options) == 2
        error = capsys.readouterr().err
        assert f"cannot go on with {change[0]} " in error and error.count("\n") == 1


def test_a_sweep_over_noise_is_one_program(dp, tmp_path, capsys):
    options = [*RUN[1:], *NORM, "--rounds", "1", "--out", str(tmp_path / "sweep")]
    assert main(["sweep", *options, "--dp-noise", "2,4"]) == 0
    assert "2 to train as 1 program" in capsys.readouterr().out
    for z in (2.0, 4.0):
        lines = (tmp_path / "sweep" / f"dp_noise={z}" / "metrics.jsonl").read_text()
        expected = dp.get_epsilon_gaussian(z, 0.001)
        assert json.loads(lines)["epsilon"] == pytest.approx(expected, rel=1e-12)


def test_a_promise_is_kept_by_the_smallest_noise(dp):
    """2 rounds of 1.5 epochs, of which both may have an example once."""
    options = {"dp_clip": 0.5, "epsilon": 4.0, "delta": 1e-3, "dp_unit": "example"}
    config = TrainConfig(**options, rounds=2, local_epochs=1.5, num_clients=4)
    promise = privacy.described(dataclasses.asdict(resolve(config)))
    z = promise["privacy"]["noise_multiplier"]
    assert 4 - 1e-6 < promise["epsilon"] <= 4
    assert z == pytest.approx(dp.get_sigma_gaussian(4.0, 0.001) * 2, rel=1e-8)


def test_encrypted_sums_are_of_noisy_models(dp):
    """The server clips no update, as it does for the privacy of clients."""
    options = {"dp_clip": 0.5, "dp_noise": 1.0, "delta": 1e-3, "num_clients": 4}
    encrypting.check_options(resolve(TrainConfig(**options, dp_unit="example")))
    with pytest.raises(InputError, match="does not go with --dp-clip"):
        encrypting.check_options(resolve(TrainConfig(**options)))


FIRST_MASKS, GROWTH = ("snip", "grasp", "flash", "ssfl"), ("prunefl",)
TRACED = (
    *("feddst", "rigl", "heterofl", "fedrolex", "lotteryfl", "dispfl", "fedtiny"),
    *("fedrts", "slimmable"),
)
"""Methods whose hooks are found to read examples when a round is traced."""


@pytest.mark.parametrize("name", [*FIRST_MASKS, *GROWTH, *TRACED, "unipts"])
def test_a_method_that_looks_at_examples_is_named(name, capsys, tmp_path):
    words = [*RUN, *DP, "--rounds", "1", "--train-subset", "40"]
    out = tmp_path / "run"
    assert main([*words, "--algorithm", name, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f" --algorithm {name}: --dp-clip " in error and "this method: " in error
    assert error.count("\n") == 1 and not out.exists()


def test_a_sweep_and_a_run_from_disk_name_the_method_too(capsys, tmp_path):
    """Their programs are of other parts of an algorithm than a run's in memory."""
    words = [*RUN[1:], *DP, "--rounds", "1", "--algorithm", "rigl"]
    for command in (["sweep"], ["train", "--client-data", "disk"]):
        out = ["--out", str(tmp_path / command[0])]
        assert main([*command, *words, *out]) == 2
        error = capsys.readouterr().err
        assert " --algorithm rigl: --dp-clip of examples does not go with" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--dp-unit", "example"], "--dp-unit example needs --dp-clip, --delta, and"),
        ([*DP, "--delta", "0.01"], "--delta is 0.01: it must be below 1 / 120"),
        ([*DP, "--local-steps", "3"], "does not go with --local-steps: how often"),
        ([*DP, "--gradient-point", "sam"], "--gradient-point sam, whose steps take"),
        ([*DP, "--algorithm", "snip"], "its first masks come from clients' data"),
        ([*DP, "--algorithm", "feddst"], "its choice of clients' masks looks at"),
        ([*DP, "--algorithm", "unipts"], "after the last round it looks at clients'"),
        ([*DP, "--loss", "contrastive"], "does not go with --loss contrastive"),
        ([*DP, "--model", "resnet56"], "as well: use a network without running"),
        ([*DP, "--dp-unit", "batch"], "--dp-unit"),
    ],
)
def test_what_cannot_be_promised_is_one_line(options, line, capsys, tmp_path):
    plain = [*RUN, "--rounds", "2", "--out", str(tmp_path / "run")]
    assert main([*plain, *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()
