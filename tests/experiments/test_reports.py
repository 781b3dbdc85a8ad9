"""What tables say, from made-up lines, and that what is committed says the same."""

import json
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from experiments.lib import claims, figures, markdown, rendering
from experiments.lib.registry import TABLES
from experiments.lib.results import RESULTS, Results, path_of
from experiments.tables.fashion_mnist import TABLE
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.report.results import NOISE, paired

# A preset a table; CIFAR-100 is reported as CIFAR-10 is.
EVERY = {name: next(iter(TABLES[name][0].presets)) for name in TABLES}
EVERY |= {"fashion_mnist": "paper", "brain_age": "paper"}
del EVERY["cifar100"]
PLACE = {"partition": "iid", "final_sparsity": 0.9}


@pytest.fixture
def known(made_up):
    """Global .80, .81, .82 by seed; SNIP a point below; Local as good within noise."""
    root = made_up(TABLE, "paper")
    path = path_of("fashion_mnist", "paper", root)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    shift = {
        "fedsparsify-global": (0.0, 0.0, 0.0),
        "fedavg": (0.01, 0.011, 0.009),
        "snip": (-0.01, -0.011, -0.009),
        "fedsparsify-local": (0.01, -0.01, 0.003),
    }
    for row in rows:
        gaps = shift.get(row["options"]["algorithm"])
        if gaps and row["options"]["momentum"] == 0:
            row["last_5"] = 0.80 + 0.01 * row["seed"] + gaps[row["seed"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Results(TABLE, "paper", root)


@pytest.mark.parametrize(("name", "preset"), EVERY.items())
def test_all_reports_stand_gaps(name, preset, made_up):
    table, report = TABLES[name]
    empty = rendering.table_files(name, preset, made_up(table, preset, share=0.0))
    (page,) = empty.values()
    command = f"experiments.run {name} --preset {preset} --missing --only"
    assert command in page
    part = report(Results(table, preset, made_up(table, preset, share=0.5)))
    assert all(f"\n## {heading}\n" in page for heading, _ in part.blocks.values())
    for heading, text in part.blocks.values():
        assert heading and "nan" not in text
    for svg in part.figures.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def test_federations_of_two_axes_are_told_apart(made_up):
    table, report = TABLES["brain_age"]
    root = made_up(table, "paper")
    path = path_of("brain_age", "paper", root)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    for row in rows:
        skewed = row["options"]["client_sizes"] == "skewed"
        row["last_5"] = 4.25 if skewed else 3.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocks = report(Results(table, "paper", root)).blocks
    for partition in ("iid", "value-skew"):
        for sizes, years in (("uniform", "3.50"), ("skewed", "4.25")):
            heading, text = blocks[f"last_5-{partition}-{sizes}"]
            assert heading.startswith("Mean absolute error in years")
            # FedAvg's one cell, and four of either of the others.
            assert text.count(f"{years} ± 0.00") == 1 + 2 * 4


def test_means_spreads_and_noise(known):
    value = markdown.value(known, "last_5")
    assert value("fedsparsify-global", **PLACE) == ("81.0 ± 1.0")
    assert value("snip", **PLACE) == "80.0 ± 1.1"
    local = value("fedsparsify-local", **PLACE)
    assert local.endswith(NOISE)
    gap = known.difference("snip", "last_5", **PLACE)
    # t(0.975, 2) = 4.3027 and s = 0.001.
    assert gap.mean == pytest.approx(-0.01)
    assert gap.half == pytest.approx(4.3027 * 0.001 / 3**0.5, rel=1e-4)
    assert gap.text() == "-1.0 ± 0.2"


def test_claims_go_by_the_interval(known):
    every = "IID 80, 85, 90, 95, 99 %; non-IID 80, 85, 90, 95, 99 %"
    # Behind dense everywhere, ahead of SNIP everywhere, Local is neither.
    assert f"| FedAvg | nowhere | nowhere | {every} |" in claims.tenth(known)
    assert f"| SNIP | {every} | nowhere | nowhere |" in claims.baselines(known)
    said = claims.local(known)
    assert f"| FedSparsify-Global | nowhere | {every} | nowhere |" in said


def test_the_saving_is_the_schedules(known):
    # 200 rounds of 10 clients and 1,000 parameters, whatever was measured.
    assert "| 95 % | 2.000 x | 3.4" in claims.traffic(known)


def test_missing_seeds_are_counted(known):
    del known.cells("snip", **PLACE)[0]  # a copy: nothing happens
    assert known.missing("snip") == 0
    gap = paired(pd.Series({0: 1.0}), pd.Series({0: 2.0, 1: 3.0}))
    assert gap.text(1.0) == "-1.0 (1 seed)" and not gap.noise
    assert paired(pd.Series({0: 1.0}), pd.Series({1: 3.0})) is None


def test_partial_seeds_are_said(made_up):
    root = made_up(TABLE, "paper")
    path = path_of("fashion_mnist", "paper", root)
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if '"seed": 2, "commit"' not in row))
    results = Results(TABLE, "paper", root)
    shown = markdown.value(results, "last_5")("snip", **PLACE)
    assert "(2 of 3)" in shown
    assert results.missing("snip") == 10


def test_figures_are_the_same_every_time(known):
    first = figures.accuracy_sparsity(known)
    assert first == figures.accuracy_sparsity(known)
    assert "FedSparsify-Global" in first


def test_blocks_of_a_text(made_up):
    root = made_up(TABLE, "paper")
    _, report = rendering.report_of("fashion_mnist", "paper", root)
    known = {"fashion_mnist-paper": report}
    begin = "<!-- begin fashion_mnist-paper {} -->\nold\n<!-- end -->"
    filled = rendering.fill(f"a\n{begin.format('last_5-iid')}\nb", root, known)
    assert filled.startswith("a\n<!-- begin fashion_mnist-paper last_5-iid -->\n| ")
    assert filled.endswith("|\n<!-- end -->\nb") and "old" not in filled
    assert rendering.fill(filled, root, known) == filled
    figure = rendering.fill(begin.format("figure:layers"), root, known, "../there")
    assert "![layers](../there/fashion_mnist-paper-layers.svg)" in figure
    none = begin.replace("fashion_mnist-", "mask_agreement-").format("figure:jaccard")
    assert "Not measured yet." in rendering.fill(none, root)
    agreement = "<!-- begin mask_agreement-paper jaccard -->\n<!-- end -->"
    assert "Not measured yet." in rendering.fill(agreement, root)
    with pytest.raises(InputError, match="no block of"):
        rendering.fill(begin.format("first_10-iid"), root, known)
    with pytest.raises(InputError, match="no such table"):
        rendering.fill(begin.replace("fashion", "passion").format("x"), root)


def test_what_is_committed_is_what_the_lines_say():
    for path, text in rendering.everything().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path} is not what its lines say: python -m experiments.run --render"
        )


def test_results_stay_small():
    files = [path for path in RESULTS.rglob("*") if "-smoke" not in path.name]
    assert sum(path.stat().st_size for path in files) < 8e6
