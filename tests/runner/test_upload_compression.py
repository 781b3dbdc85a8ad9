"""``--upload-compression`` and its options: refusals, resuming, sweeps, the summary."""

import contextlib
import io
import json
import shutil

import pytest

from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import compression, resolve
from fedsparsify_jax.runner.options.sweep_grid import program_groups, trials

OPTIONS = ["train", "--rounds", "4", "--num-clients", "6", "--participation", "0.5"]
OPTIONS += ["--local-epochs", "1", "--compilation-cache", "off"]
TOP_K = ["--upload-compression", "topk"]
# Fields of a round that have nothing to do with time.
FIELDS = ("round", "test_loss", "train_loss", "bytes_up", "message_bytes_up")


def run(out, *options):
    """The rounds of a run, its summary, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([*OPTIONS, *options, "--out", str(out)]) == 0
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    summary = json.loads((out / "summary.json").read_text())
    return [[r[f] for f in FIELDS if f in r] for r in rows], summary, shown.getvalue()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"topk_fraction": 0.1},
            "--topk-fraction goes with the --upload-compression t",
        ),
        (
            {"upload_compression": "int8", "topk_fraction": 0.1},
            "--topk-fraction goes with the --upload-compression topk, not with int8",
        ),
        (
            {"upload_compression": "topk", "topk_fraction": float("nan")},
            "--topk-fraction is nan: it must be above 0 and at most 1",
        ),
        (
            {"upload_compression": "topk", "topk_fraction": 0.0},
            "--topk-fraction is 0.0: it must be above 0",
        ),
        (
            {"error_feedback": "on"},
            "--error-feedback is about what a compression leave",
        ),
        ({"upload_compression": "int2"}, "unknown upload compression 'int2'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, line):
    with pytest.raises(InputError, match=line):
        resolve(TrainConfig(**options))


def test_a_refusal_ends_the_command_with_one_line(tmp_path, capsys):
    assert main([*OPTIONS, "--topk-fraction", "0.1", "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_switch_says_whether_there_is_feedback():
    for word, expected in (("on", True), ("off", False), (None, True)):
        options = {"upload_compression": "topk", "error_feedback": word}
        assert compression(resolve(TrainConfig(**options))).error_feedback is expected


def test_a_resumed_run_has_the_residuals(tmp_path):
    options = [*TOP_K, "--measure-bytes", "--checkpoint-every", "2", "--seed", "3"]
    whole, summary, shown = run(tmp_path / "whole", *options)
    assert "uploads: sent entries x 32 bit and their positions; dense" in shown
    assert summary["bytes_up"] < 0.2 * summary["bytes_dense"] / 2
    again = tmp_path / "again"
    run(again, *options)
    # As a kill after round 2 would leave it.
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "summary.json").unlink()
    resumed, _, _ = run(again, *options, "--resume")
    assert resumed == whole
    # What is left out matters: without it the run is another one.
    plain, _, _ = run(tmp_path / "plain", *options, "--error-feedback", "off")
    assert plain != whole


def test_sixteen_bits_and_compression_go_together(tmp_path):
    options = [*TOP_K, "--measure-bytes"]
    _, wide, _ = run(tmp_path / "wide", *options)
    _, narrow, _ = run(tmp_path / "narrow", *options, "--wire-values", "float16")
    for way in ("up", "down"):
        field = f"message_bytes_{way}"
        assert 0.45 < narrow[field] / wide[field] < 0.75
    options = ["--upload-compression", "int4", "--measure-bytes"]
    _, coarse, _ = run(tmp_path / "int4", *options)
    assert coarse["message_bytes_up"] < 0.17 * wide["message_bytes_down"]


def test_fractions_of_a_sweep_share_a_program():
    axes = {
        "upload_compression": ["topk"],
        "topk_fraction": [0.1, 0.5],
        "seed": [0, 1],
    }
    assert [len(group) for group in program_groups(trials(axes))] == [4]


def test_a_sweep_does_what_train_does(tmp_path):
    sweep = ["sweep", *OPTIONS[1:], *TOP_K, "--topk-fraction", "0.1,0.5"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*sweep, "--out", str(tmp_path / "sweep")]) == 0
    summaries = sorted((tmp_path / "sweep").rglob("summary.json"))
    assert len(summaries) == 2
    for path, fraction in zip(summaries, ("0.1", "0.5"), strict=True):
        swept = json.loads(path.read_text())
        _, alone, _ = run(tmp_path / fraction, *TOP_K, "--topk-fraction", fraction)
        assert swept["bytes_up"] == alone["bytes_up"]
        assert swept["bytes_formula"] == alone["bytes_formula"]
        assert swept["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-4)
