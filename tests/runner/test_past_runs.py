"""``--forgetting`` and ``--fusion-every`` from the command line."""

import itertools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import data, models
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "4", "--num-clients", "3", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off", "--final-sparsity", "0.9"]
PAST = ["--validation-fraction", "0.2", "--forgetting", "on", "--fusion-every", "1"]


def play(out, *options):
    """The records and the summary of a run."""
    assert main([*RUN, "--out", str(out), *options]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    summary = json.loads((out / "summary.json").read_text())
    return [json.loads(line) for line in lines], summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("past") / "run"
    return out, *play(out, *PAST)


def timeless(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def test_the_summary_is_what_the_kept_models_say(run):
    out, records, summary = run
    digits = data.hold_out(data.load("digits"), 0.2, 0)
    model = models.build(
        "mlp", input_shape=(8, 8), num_classes=10, preprocess=digits.normalization
    )
    x, y = jnp.asarray(digits.validation.x), np.asarray(digits.validation.y)
    right = []
    for t in range(1, 5):
        outputs, _ = model.apply(load_model(out / "past" / f"round_{t:06}")[0], x)
        right.append(np.argmax(np.asarray(outputs), axis=-1) == y)
    forgetting = summary["forgetting"]
    assert forgetting["rounds"] == [1, 2, 3, 4]
    for t in range(4):
        forgot = np.mean(right[t] & ~right[3])
        learned = np.mean(~right[t] & right[3])
        assert forgetting["forget_fraction"][t] == pytest.approx(forgot, abs=1e-5)
        assert forgetting["learned_fraction"][t] == pytest.approx(learned, abs=1e-5)
        accuracy = records[t]["validation_accuracy"]
        last = records[3]["validation_accuracy"]
        assert last == pytest.approx(accuracy + learned - forgot, abs=1e-5)
    assert len(forgetting["most_forgotten_by_client"]) == 3


def test_every_record_has_what_changed_since_the_one_before(run):
    _, records, _ = run
    assert records[0]["forgotten"] is records[0]["client_forgotten"] is None
    for before, now in itertools.pairwise(records):
        gained = now["learned"] - now["forgotten"]
        raised = now["validation_accuracy"] - before["validation_accuracy"]
        assert gained == pytest.approx(raised, abs=1e-5)
        assert 0 <= now["client_forgotten"] <= 1


def test_fusion_is_no_worse_on_the_validation_set_and_counts_its_models(run):
    _, _, summary = run
    fusion = summary["fusion"]
    assert fusion["checkpoints"] == 3
    assert fusion["validation_accuracy"] >= summary["validation_accuracy"] - 1e-6
    assert fusion["models"] == len(fusion["rounds"]) + 1
    assert fusion["bytes"] == 4 * fusion["nonzeros"] >= 4 * summary["parameters_kept"]
    if not fusion["links"]:
        assert fusion["test_accuracy"] == pytest.approx(summary["test_accuracy"])


def test_only_the_last_model_fused_is_the_last_model(tmp_path, capsys):
    _, summary = play(
        tmp_path / "run", "--validation-fraction", "0.2", "--fusion-every", "4"
    )
    fusion = summary["fusion"]
    assert (fusion["checkpoints"], fusion["models"], fusion["links"]) == (0, 1, [])
    for name in ("test_accuracy", "validation_accuracy"):
        assert fusion[name] == pytest.approx(summary[name], abs=1e-6)
    assert fusion["inference_flops"] == summary["inference_flops"]
    assert "fused" in capsys.readouterr().out


def test_final_masks_make_every_kept_model_as_sparse_as_the_last(tmp_path, capsys):
    _, summary = play(tmp_path / "run", *PAST, "--fusion-masks", "final")
    fusion = summary["fusion"]
    assert fusion["nonzeros"] <= fusion["models"] * summary["parameters_kept"]
    capsys.readouterr()


def test_a_resumed_run_forgets_the_same_and_the_rest_of_the_run_is_unchanged(
    run, tmp_path, capsys
):
    _, records, _ = run
    plain, _ = play(tmp_path / "plain", "--validation-fraction", "0.2")
    fields = ("forgotten", "learned", "client_forgotten")
    without = [{k: v for k, v in r.items() if k not in fields} for r in records]
    assert timeless(plain) == timeless(without)

    # A run of 2 rounds that goes on to 4 has the four rows of one that never
    # stopped; dense, as a schedule would depend on the last round.
    late = [*PAST, "--final-sparsity", "0"]
    play(tmp_path / "half", *late, "--rounds", "2")
    again = play(tmp_path / "half", *late, "--resume", "--allow-changes")
    straight = play(tmp_path / "straight", *late)
    assert timeless(again[0]) == timeless(straight[0])
    for part in ("forgetting", "fusion"):
        assert again[1][part] == straight[1][part]
    capsys.readouterr()


def test_a_run_that_is_over_knows_its_last_model_alone(tmp_path, capsys):
    """What was not observed is not known: only the last model is."""
    split = ["--validation-fraction", "0.2"]
    play(tmp_path / "run", *split)
    _, summary = play(tmp_path / "run", *split, *PAST[2:], "--resume")
    assert summary["forgetting"]["rounds"] == [4]
    assert summary["forgetting"]["forget_fraction"] == [0]
    assert summary["fusion"]["checkpoints"] == 0
    capsys.readouterr()


def test_the_report_shows_forgetting(run, tmp_path, capsys):
    out, _, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    page = tmp_path / "report.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "Forgotten and learned since a round" in page.read_text()
    config = json.loads((copy / "config.json").read_text())
    config["options"]["exponent"] = 2.0
    (copy / "config.json").write_text(json.dumps(config))
    assert main(["report", str(out), str(copy), "--out", str(page)]) == 0
    assert "Forget fraction of clients" in page.read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--forgetting", "on"], "--forgetting on needs a validation set: give"),
        (["--fusion-every", "2"], "--fusion-every needs a validation set: give"),
        (
            [*PAST, "--evaluate-every", "2"],
            "--fusion-every is 1: it must be a multiple of --evaluate-every, 2",
        ),
        (["--fusion-every", "0"], "--fusion-every is 0: it must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


def test_a_regression_has_no_classes_to_forget(capsys, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    y = x.sum(axis=1)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    options = ["--dataset", "npz", "--data-dir", str(tmp_path / "a.npz"), *PAST]
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert "need classes: the targets are numbers" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
