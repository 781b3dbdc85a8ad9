"""The tables of docs/robustness.md are what the committed measurements say."""

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results-robustness.json"


def benchmark(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def between(begin, end):
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    return page.split(begin)[1].split(end)[0].strip()


def test_the_table_of_attacks_is_that_of_the_results(monkeypatch):
    module = benchmark("robustness", monkeypatch)
    cells = json.loads(RESULTS.read_text())["cells"]
    known = set(module.wanted())
    assert cells and {tuple(entry["cell"]) for entry in cells} <= known
    begin = "<!-- table: benchmarks/results-robustness.json -->"
    assert between(begin, "<!-- end of table -->") == module.table(cells).strip()


def test_the_table_of_the_soak_is_that_of_the_results(monkeypatch):
    module = benchmark("soak", monkeypatch)
    assert between("<!-- soak -->", "<!-- end of soak -->") == module.table()
