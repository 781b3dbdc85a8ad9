"""Many settings in few charts."""

import itertools

import pytest

from fedsparsify_jax.report import tables
from fedsparsify_jax.report.content import compose
from fedsparsify_jax.report.figures_of_run import heat_map, run_charts
from fedsparsify_jax.report.panels import (
    COLOURS,
    PANELS,
    curves,
    lay_out,
    trade_offs,
    varied,
)
from fedsparsify_jax.report.reading import read
from fedsparsify_jax.report.settings import group


def grid(write_run, path, **values):
    for n, combination in enumerate(itertools.product(*values.values())):
        options = dict(zip(values, combination, strict=True))
        if options.get("algorithm") == "fedavg" and options["final_sparsity"] != 0.9:
            continue  # a sweep has it once
        write_run(path / f"{n:03}", rounds=3, **options)
    return group(read([path]))


def test_few_settings_share_a_panel(write_run, tmp_path):
    layout = lay_out(grid(write_run, tmp_path, learning_rate=[0.1, 0.2, 0.3]))
    ((panel),) = layout.panels
    assert [(label, tone) for label, tone, _ in panel.members] == [
        ("learning rate 0.1", 0),
        ("learning rate 0.2", 1),
        ("learning rate 0.3", 2),
    ]
    charts = curves(layout)
    assert list(charts) == [
        "Test accuracy",
        "Train loss",
        "Test loss",
        "Sparsity",
        "Bytes of a round",
        "Test accuracy against bytes",
    ]
    assert all(len(chart.series) == 3 for of in charts.values() for chart in of)


def test_many_settings_have_a_colour_an_algorithm(write_run, tmp_path):
    settings = grid(
        write_run,
        tmp_path,
        algorithm=["fedavg", "one-shot", "snip"],
        partition=["iid", "label-shards"],
        final_sparsity=[0.8, 0.9],
    )
    assert len(settings) == 10  # FedAvg has one a partition
    layout = lay_out(settings)
    assert [panel.title for panel in layout.panels] == [
        "iid · final sparsity 0.8",
        "iid · final sparsity 0.9",
        "label-shards · final sparsity 0.8",
        "label-shards · final sparsity 0.9",
    ]
    for panel in layout.panels:  # so FedAvg is in each of them
        names = [label for label, _, _ in panel.members]
        assert names == ["fedavg", "one-shot", "snip"]
    assert layout.left_out == 0


def test_what_no_panel_shows_is_counted(write_run, tmp_path):
    settings = grid(
        write_run,
        tmp_path,
        learning_rate=[n / 10 for n in range(1, 15)],
        momentum=[0.0, 0.9],
    )
    layout = lay_out(settings)
    assert len(layout.panels) <= PANELS
    shown = sum(len(panel.members) for panel in layout.panels)
    assert shown + layout.left_out == len(settings) == 28
    assert layout.left_out == 28 - 2 * PANELS
    tones = [tone for panel in layout.panels for _, tone, _ in panel.members]
    assert max(tones) < COLOURS


def test_accuracy_against_sparsity(write_sweep, tmp_path):
    settings = group(read([write_sweep(tmp_path / "sweep")]))
    (chart,) = trade_offs(
        settings, "last_10", "Late", "sparsity", ("sparsity", "percent")
    )
    dense, pruned = chart.series
    assert dense.level and dense.label == "fedavg"  # a line to compare with
    assert [x for x, _ in pruned.points] == pytest.approx([0.8, 0.9, 0.95])
    run = settings[1].runs[0]
    expected = run.evaluated.iloc[-10:].mean() + 0.01  # the mean of two seeds
    assert pruned.points[0][1] == pytest.approx(expected)
    low, high = pruned.spread[0]
    assert high - low == pytest.approx(2 * 0.02 / 2**0.5)  # two standard deviations


def test_bytes_are_added_up(write_run, tmp_path):
    (setting,) = grid(write_run, tmp_path, momentum=[0.0])
    records = setting.runs[0].records
    moved = [r["bytes_up"] + r["bytes_down"] for r in records]
    assert [
        x for x, _ in setting.results.path("moved_so_far", "test_accuracy")
    ] == list(itertools.accumulate(moved))


def test_bytes_are_those_of_the_summaries(write_run, tmp_path):
    for seed, moved in enumerate((2_000_000, 4_000_000)):
        path = write_run(tmp_path / f"{seed}", seed=seed)
        (path / "summary.json").write_text(f'{{"bytes_up": {moved}}}')
    (row,) = tables.traffic(group(read([tmp_path]))).rows
    assert [cell.words for cell in row[1:3]] == ["3.00 MB", "–"]  # noqa: RUF001


def test_bytes_of_encoded_messages_have_a_column_where_they_were_measured(
    write_run, tmp_path
):
    path = write_run(tmp_path / "run")
    assert "Encoded" not in tables.traffic(group(read([tmp_path]))).head
    (path / "summary.json").write_text('{"bytes_up": 1, "message_bytes": 2500000}')
    table = tables.traffic(group(read([tmp_path])))
    assert table.head[-1] == "Encoded" and table.rows[0][-1].words == "2.50 MB"
    assert "Encoded: messages as they are sent" in table.note


def test_the_charts_of_one_run(write_run, tmp_path):
    (setting,) = group(read([write_run(tmp_path / "run", metric="mae")]))
    titles = [chart.title for chart in run_charts(setting)]
    assert titles[0] == "Test mean absolute error over rounds" and len(titles) == 6
    found = heat_map(setting, "Layers")
    labels = [label for label, _ in found.rows]
    assert labels == ["Dense_0 / kernel · 800", "Dense_0 / bias · 200"]
    assert found.rows[0][1][-1] == pytest.approx((10, 0.9))


def test_repetitions_do_not_vary_anything(write_run, write_sweep, tmp_path):
    for name, dataset in {"a": "digits", "b": "digits", "c": "fashion_mnist"}.items():
        sparsity = 0.9 if dataset == "digits" else 0.8
        write_run(tmp_path / name, dataset=dataset, final_sparsity=sparsity)
    settings = group(read([tmp_path]))
    assert len(settings) == 3 and not varied(settings, "final_sparsity")
    assert not varied(settings, "momentum") and not varied([], "final_sparsity")
    swept = group(read([write_sweep(tmp_path / "sweep")]))
    assert varied(swept, "final_sparsity") and not varied(swept, "algorithm")


def test_unfinished_runs_are_judged_by_no_trade_off(write_sweep, tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    names = [section.name for section in compose(read([sweep]), "").sections]
    assert "sparsity-accuracy" in names and "missing" not in names
    for path in sweep.glob("*/summary.json"):
        path.unlink()
    names = [section.name for section in compose(read([sweep]), "").sections]
    assert "sparsity-accuracy" not in names and "missing" in names
