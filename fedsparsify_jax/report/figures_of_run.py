"""Figures of one setting: its rounds, and its layers."""

import pandas as pd

from fedsparsify_jax.report.charts import Chart, HeatMap
from fedsparsify_jax.report.lines import against, measure, over_rounds, strips
from fedsparsify_jax.report.results import over_rounds as means_over_rounds
from fedsparsify_jax.report.settings import Setting

LAYERS = 24
"""Strips of a heat map: the largest layers."""

_Line = tuple[str, str, int, bool]  # column, label, tone, dashed


def run_charts(setting: Setting) -> list[Chart]:
    """Returns the charts of a single setting, those that its records can fill."""
    kind, name = measure(setting.metric)
    results, test = setting.results, f"test_{setting.metric}"

    def over(title: str, label: str, kind: str, *lines: _Line) -> Chart:
        series = [
            line
            for column, words, tone, dashed in lines
            for line in over_rounds(results, column, words, tone, dashed=dashed)
        ]
        return Chart(title, "round", label, tuple(series), y_kind=kind)

    def path(title: str, label: str, column: str, x_kind: str) -> Chart:
        series = tuple(against(results, column, test, name, 0))
        return Chart(title, label, name, series, x_kind, kind)

    charts = [
        over(f"Test {name} over rounds", name, kind, (test, name, 0, False)),
        over(
            "Clients' accuracy over rounds",
            "accuracy",
            "percent",
            ("client_accuracy_mean", "mean", 0, False),
            ("client_accuracy_worst_decile", "worst tenth", 1, False),
        ),
        over(
            "Losses over rounds",
            "loss",
            "number",
            ("train_loss", "train", 0, False),
            ("test_loss", "test", 1, False),
        ),
        over(
            "Sparsity over rounds",
            "sparsity",
            "percent",
            ("sparsity", "achieved", 0, False),
            ("target_sparsity", "target", 7, True),
        ),
        over(
            "Bytes of a round",
            "moved in a round",
            "megabytes",
            ("bytes_up", "up", 0, False),
            ("bytes_down", "down", 1, True),
            ("bytes_dense", "dense, both ways", 7, True),
        ),
        over(
            "Forgotten and learned since a round",
            "share of examples",
            "percent",
            ("forget_fraction", "forget fraction", 0, False),
            ("clients_forget_fraction", "of clients' own", 1, False),
            ("learned_fraction", "learned fraction", 7, True),
        ),
        over(
            "Epsilon over rounds", "epsilon", "number", ("epsilon", "spent", 0, False)
        ),
        path(f"Test {name} against bytes", "moved so far", "moved_so_far", "megabytes"),
        path(f"Test {name} against sparsity", "sparsity", "sparsity", "percent"),
    ]
    return [chart for chart in charts if chart.series]


def layer_name(name: str) -> str:
    """Returns a tensor's path for people.

    >>> layer_name("params/Dense_0/kernel")
    'Dense_0 / kernel'
    """
    return name.removeprefix("params/").replace("/", " / ")


def layer_sparsity(setting: Setting) -> pd.DataFrame:
    """Returns the sparsity of every tensor, a row a round, means over the runs.

    Columns are in the model's order; tensors whose sparsity is unknown have none.
    """
    tables = [run.layers for run in setting.shown]
    names = list(tables[0]) if tables else []
    means = {name: means_over_rounds(tables, name)["mean"] for name in names}
    return pd.DataFrame(means, dtype=float).dropna(axis=1, how="all")


def heat_map(setting: Setting, title: str) -> HeatMap | None:
    """Returns the largest tensors' sparsity over rounds, None if it is not known."""
    layers = layer_sparsity(setting)
    sizes = setting.shown[0].sizes if setting.shown else {}
    largest = sorted(layers, key=lambda name: -sizes[name])[:LAYERS]
    rows = [
        (f"{layer_name(name)} · {sizes[name]:,}", points)
        for name, points in strips(layers).items()
        if name in largest
    ]
    return HeatMap(title, "round", tuple(rows)) if rows else None
