"""What compiled rounds move between devices and how much memory they take."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fedsparsify_jax import client_map

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def small(rounds, **changed):
    return rounds.Work("mlp", (4, 4), 3, 4, 32, epochs=1)._replace(**changed)


def test_only_sums_of_one_model_travel_between_devices(bench):
    work = small(bench("paper_rounds"), clients=8)
    lowered = bench("global_round").lower(
        work, jax.devices()[:2], client_map.chunked(2)
    )
    found = bench("compiled").collectives(lowered.program.compile().as_text())
    # Gathered is at most a number a client, of its key.
    assert found.pop("all-gather", found["all-reduce"]._replace(bytes=0)).bytes <= 64
    assert set(found) == {"all-reduce"}
    model = bench("paper_rounds").bytes_of(lowered.variables)
    # Beside the model there are sums of weights and losses, a few numbers.
    assert model <= found["all-reduce"].bytes <= model + 200
    assert found["all-reduce"].in_loops == 0


def test_collectives_are_read_from_text(bench):
    text = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g = f32[8,2]{1,0} all-gather(%x), dimensions={0}
}
ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[8]) while(%t), condition=%cond, body=%body
  %s = (f32[4]{0}, bf16[2]{0}) all-reduce-start(%a, %b), to_apply=%add
  %d = (f32[4]{0}, bf16[2]{0}) all-reduce-done(%s)
}
"""
    found = bench("compiled").collectives(text)
    assert found["all-gather"] == (1, 64, 1)
    assert found["all-reduce"] == (1, 20, 0)
    assert len(found) == 2


def test_the_predicted_memory_is_that_of_the_compiler(bench):
    work = small(bench("paper_rounds"), shape=(28, 28), clients=16)
    device = jax.devices()[0]
    client = bench("global_round").memory_of_client(work, device)
    lowered = bench("global_round").lower(work, [device], client_map.chunked(8))
    analysed = bench("compiled").memory(lowered.program.compile())
    model = bench("paper_rounds").bytes_of(lowered.variables)
    predicted = importlib.import_module(
        "fedsparsify_jax.runner.programs.client_memory"
    ).round_bytes(client, model, analysed["arguments"], 8)
    assert predicted == pytest.approx(analysed["together"], rel=0.25)


def test_convolutions_of_a_round_are_the_platforms(bench):
    network = (("widths", (2,)), ("hidden", 3))
    rounds = bench("paper_rounds")
    work = small(rounds, model="cnn", network=network, shape=(8, 8))
    texts = bench("global_round").lowered_texts(
        work, ("cpu", "cuda", "tpu"), client_map.chunked(1)
    )
    own = {name: "stablehlo.convolution" in text for name, text in texts.items()}
    assert own == {"cpu": False, "cuda": True, "tpu": True}


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (benchmarks/compile_for.py says how)",
)
def test_the_mlp_compiles_for_four_chips_that_are_not_there():
    command = [sys.executable, BENCHMARKS / "compile_case.py", "mlp", "v5e:2x2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    case = json.loads(done.stdout.splitlines()[-1])
    assert case["devices"] == 4
    assert set(case["collectives"]) == {"all-reduce"}
    reduced = case["collectives"]["all-reduce"]
    assert case["model_bytes"] <= reduced["bytes"] <= 1.01 * case["model_bytes"]
    assert reduced["in_loops"] == 0
    assert case["memory"]["together"] < case["memory_of_device"]


def test_cases_that_are_there_are_not_compiled_again(bench, monkeypatch, tmp_path):
    compile_for, ran = bench("compile_for"), []

    def run_case(model, target, limit):
        ran.append((model, target))
        return {"failed": "on purpose"} if model == "cnn" else {"lines": 1} | counts

    counts = dict.fromkeys(("convolutions", "products", "custom_calls", "lower_s"), 0)
    monkeypatch.setattr(compile_for, "run_case", run_case)
    arguments = ["", "--models", "mlp,cnn", "--targets", "cuda"]
    arguments += ["--out", str(tmp_path / "results.json")]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", arguments)
        compile_for.main()
    # What failed is tried again.
    assert ran == [("mlp", "cuda"), ("cnn", "cuda"), ("cnn", "cuda")]


@pytest.mark.parametrize("name", ["compile_for", "memory_model"])
def test_the_tables_are_those_of_the_results(bench, name):
    results = json.loads((BENCHMARKS / f"results-{name}.json").read_text())
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert results["cases"]
    found = page.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]
    assert found.strip() == bench(name).table(results).strip()


def test_the_command_for_accelerators_runs_here(bench, monkeypatch, tmp_path, capsys):
    accelerator, out = bench("accelerator"), tmp_path / "results.json"
    monkeypatch.setattr(
        accelerator, "STRATEGIES", {"map": accelerator.STRATEGIES["map"]}
    )
    monkeypatch.setattr(accelerator, "precisions", lambda: ["float32"])
    arguments = ["", "--smoke", "--models", "mlp", "--peak", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    accelerator.main()
    results = json.loads(out.read_text())
    names = ["mlp map float32", "mlp 2 cells float32", "pfl-cifar10, mlp float32"]
    assert list(results["cases"]) == names
    for case in results["cases"].values():
        assert case["median_s"] > 0
        share = case["tflops"] / jax.local_device_count()
        assert case["utilisation"] == pytest.approx(share)
    # Two cells train twice as much as one.
    single, double = (results["cases"][name]["flops"] for name in names[:2])
    assert double == 2 * single
    assert "synthetic" in capsys.readouterr().out


def test_models_that_are_not_registered_are_named(bench):
    rounds = bench("paper_rounds")
    works = {"a": small(rounds), "b": small(rounds, model="nobody")}
    assert bench("accelerator").known(works) == ({"a": works["a"]}, ["nobody"])
