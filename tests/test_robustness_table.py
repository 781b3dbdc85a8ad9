"""The table of docs/robustness.md is what the committed measurements say."""

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results-robustness.json"


def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / "robustness.py"
    spec = importlib.util.spec_from_file_location("robustness_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_results(monkeypatch):
    module = benchmark(monkeypatch)
    cells = json.loads(RESULTS.read_text())["cells"]
    known = set(module.wanted())
    assert cells and {tuple(entry["cell"]) for entry in cells} <= known
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    begin = "<!-- table: benchmarks/results-robustness.json -->"
    shown = page.split(begin)[1].split("<!-- end of table -->")[0].strip()
    assert shown == module.table(cells).strip()
