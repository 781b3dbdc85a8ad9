"""A whole run with --sparse-training against the same run without."""

import io
import json

import numpy as np
from rich.console import Console

from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs import compact
from fedsparsify_jax.runner.train import train


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
    forms = []
    look = compact.SparseTraining.look

    def watched(self, masks, rounds_left):
        changed = look(self, masks, rounds_left)
        forms.append(self.form)
        return changed

    monkeypatch.setattr(compact, "COMPILATION", 0.0)
    monkeypatch.setattr(compact.SparseTraining, "look", watched)
    expected, _ = run(tmp_path / "full", algorithm="fedsparsify_global")
    assert not forms
    found, said = run(
        tmp_path / "small", algorithm="fedsparsify_global", sparse_training="auto"
    )
    assert forms[0] is None
    assert forms[-1] is not None
    assert "in full" not in said
    for a, b in zip(found, expected, strict=True):
        assert a["kept"] == b["kept"]
        for name in ("train_loss", "test_loss", "test_accuracy"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5)


def test_a_method_that_needs_full_shapes_is_named(tmp_path):
    _, said = run(tmp_path, algorithm="fedprox", sparse_training="auto")
    assert "note: clients train in full: the method's hook 'objective'" in said
