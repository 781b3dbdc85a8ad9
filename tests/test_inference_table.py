"""The tables of inference times in benchmarks/README.md are those of the results."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def inference_table():
    path = BENCHMARKS / "inference_table.py"
    spec = importlib.util.spec_from_file_location("inference_table_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results():
    results = json.loads((BENCHMARKS / "results-inference.json").read_text())
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- inference -->", "<!-- end of inference -->"
    assert results["cases"]
    found = page.split(begin)[1].split(end)[0].strip()
    assert found == inference_table().table(results).strip()


def test_multiply_adds_count_the_places_of_a_convolution():
    case = {"layers": {"Conv_2": [10, 100], "Dense_0": [40, 400]}}
    full, kept = inference_table().millions(case)
    assert full == (100 * 196 + 400) / 1e6
    assert kept == (10 * 196 + 40) / 1e6
