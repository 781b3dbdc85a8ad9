"""--sparse-training: when clients change to a compact form, and whole runs with it."""

import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs import compact
from fedsparsify_jax.runner.programs.program import evaluate_compact, evaluate_sets
from fedsparsify_jax.runner.train import train
from fedsparsify_jax.training.losses import TASKS
from fedsparsify_jax.types import Examples

MLP = models.build("mlp", input_shape=(300,), num_classes=10, hidden=(128,))


def chooser(model=MLP, build=algorithms.fedsparsify_global, shape=(300,), **changes):
    def with_form(form):
        return build(model.apply, compact_form=form)

    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    options = {"client_steps": 1e4, "platform": "cpu", "rounds": 10**6} | changes
    return compact.CompactTraining(with_form, model, x, **options)


def update(chosen, density, completed=0):
    weights = jax.tree.map(lambda mask: mask.astype(np.float32), masks_of(density))
    return chosen.update(weights, masks_of(density), completed)


def masks_of(density, seed=0):
    """Nested random masks: the same seed keeps less of the same."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(MLP.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.random(leaf.shape) < density, shapes)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"build": algorithms.fedprox}, "hook 'objective'"),
        ({"platform": "gpu"}, "not for gpu"),
        (
            {
                "model": models.build("resnet56", input_shape=(8, 8), num_classes=2),
                "shape": (8, 8),
            },
            "which layer feeds which",
        ),
    ],
)
def test_what_has_no_small_form_says_why(changes, note):
    chosen = chooser(**changes)
    assert note in chosen.note
    assert not update(chosen, 0.01)
    assert chosen.form is None and chosen.summary()["forms"] == []


def test_forms_follow_the_masks_and_are_few():
    chosen = chooser()
    full = chosen.algorithm
    densities = np.geomspace(1.0, 0.002, 40)
    changed = [update(chosen, density) for density in densities]
    assert not changed[0]  # nothing is pruned yet
    assert 2 <= sum(changed) < compact.MOST_PROGRAMS
    assert chosen.algorithm is not full
    assert bool(chosen.form.index(masks_of(densities[-1])).fits)
    first, last = chosen.form.plan.lists[0], chosen.form.plan.units[1]
    assert first is not None or last is not None


def test_a_form_that_cannot_pay_any_more_is_not_compiled():
    assert not update(chooser(), 0.01, completed=10**6 - 1)
    chosen = chooser()
    assert update(chosen, 0.01)
    assert not update(chosen, 0.0095)


def test_no_more_forms_than_allowed(monkeypatch):
    monkeypatch.setattr(compact, "MOST_PROGRAMS", 1)
    assert not update(chooser(), 0.01)


def test_a_form_waits_for_a_better_one_that_the_schedule_promises():
    """A step costs 0.4 s a round in full here, so that few compilations pay."""
    steps, late = (
        {"client_steps": 4e3, "rounds": 50},
        lambda t: 0.95 if t < 8 else 0.998,
    )
    assert update(chooser(**steps), 0.05)
    weights = jax.tree.map(
        lambda mask: np.random.default_rng(1).random(mask.shape) * mask, masks_of(0.05)
    )
    knowing = chooser(**steps, sparsity=late)
    assert not knowing.update(weights, masks_of(0.05), 0)
    assert update(knowing, 0.002, completed=8)
    (form,) = knowing.summary()["forms"]
    assert form["from_round"] == 9 and form["step_cost"] < 0.6
    assert knowing.summary()["work_saved"] == pytest.approx(
        (1 - form["step_cost"]) * 42 / 50, abs=1e-3
    )


def run(out, **changes):
    said = io.StringIO()
    config = TrainConfig(
        dataset="digits",
        num_clients=2,
        train_subset=60,
        rounds=5,
        local_epochs=1,
        exponent=6.0,
        final_sparsity=0.98,
        compilation_cache="off",
        out=out,
        **changes,
    )
    train(config, Console(file=said, width=200))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], said.getvalue()


def test_a_run_goes_over_to_smaller_forms_with_the_same_results(tmp_path, monkeypatch):
    forms, chosen = [], []
    original = compact.CompactTraining.update

    def watched(self, variables, masks, completed):
        changed = original(self, variables, masks, completed)
        forms.append(self.form)
        chosen.append(self)
        return changed

    monkeypatch.setattr(compact, "COMPILATION", 0.0)
    monkeypatch.setattr(compact.CompactTraining, "update", watched)
    expected, _ = run(tmp_path / "full", algorithm="fedsparsify_global")
    assert not forms
    found, said = run(
        tmp_path / "small", algorithm="fedsparsify_global", sparse_training="auto"
    )
    assert forms[0] is None
    assert forms[-1] is not None
    assert chosen[-1].evaluation is not None
    assert "in full" not in said and "smaller forms" in said
    for a, b in zip(found, expected, strict=True):
        assert a["kept"] == b["kept"]
        for name in ("train_loss", "test_loss", "test_accuracy"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fits", [True, False])
def test_what_is_evaluated_is_the_model_whether_it_fits_its_form_or_not(fits):
    """A weight outside the masks, as an average may have one, is in the results."""
    masks = masks_of(1.0)
    first = masks["params"]["Dense_0"]["kernel"]
    first[:, 20:] = False
    masks["params"]["Dense_0"]["bias"][20:] = False
    chosen = chooser(tests=1e6)
    assert chosen.update(masks, masks, 0)
    form = chosen.evaluation
    assert form.plan.units[1] < 128 and not any(form.plan.lists)

    weights = MLP.init(jax.random.key(0))
    weights = jax.tree.map(lambda leaf, mask: np.array(leaf) * mask, weights, masks)
    if not fits:
        weights["params"]["Dense_0"]["kernel"][:, 127] = 1.0
    rng = np.random.default_rng(0)
    x, y = rng.random((50, 300), np.float32), rng.integers(0, 10, 50)
    sets = {"test": Examples(x, y)}
    federation = SimpleNamespace(model=MLP, task=TASKS["classification"])
    full = evaluate_sets(federation, (MLP.apply, weights), sets, chunked(1))
    small = evaluate_compact(
        federation, form, masks, (MLP.apply, weights), sets, chunked(1)
    )
    np.testing.assert_allclose(small["test"], full["test"], rtol=1e-5)
    alone = evaluate_sets(
        federation,
        (form.apply(form.index(masks)), form.compact(form.index(masks), weights)),
        sets,
        chunked(1),
    )
    assert (abs(alone["test"].loss - full["test"].loss) < 1e-4) == fits


def test_forms_that_save_little_are_not_compiled_for_evaluation():
    chosen = chooser(tests=1e-3)
    assert update(chosen, 0.01) and chosen.form is not None
    assert chosen.evaluation is None


def test_a_method_that_needs_full_shapes_is_named(tmp_path):
    _, said = run(tmp_path, algorithm="fedprox", sparse_training="auto")
    assert "note: clients train in full: the method's hook 'objective'" in said
