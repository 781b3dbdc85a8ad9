"""The search for the second FedSparsify-Plus: its trials and their page."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.lib.results import RESULTS
from experiments.studies import plus_page, plus_search, plus_server
from fedsparsify_jax.types import ClientData

EVERYTHING = {
    "final_sparsity": 0.9,
    "lookahead": 0.2,
    "global_momentum": 0.1,
    "distil": 0.1,
    "others": 1,
    "regrow": 0.1,
    "regrow_every": 2,
    "fade": 0.1,
    "purge_until": 1.0,
    "epochs": 1,
}


LATER = {
    "final_sparsity": 0.9,
    "hyper": 0.1,
    "steady": 1,
    "pull": -0.05,
    "calibrate": 0.2,
    "powerprop": 1.25,
    "lamp": 1,
    "first_layer": 2,
    "purge_until": 1.0,
    "epochs": 1,
}


def trials(tmp_path, monkeypatch, *settings):
    out = tmp_path / "trials.jsonl"
    words = ["plus_search", "iid", *map(json.dumps, settings)]
    words += ["--rounds", "2", "--seeds", "0", "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    plus_search.main()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_trial_of_every_part_keeps_the_sparsity(tmp_path, monkeypatch):
    settings = EVERYTHING, LATER | {"cohorts": "representative"}
    lines = trials(tmp_path, monkeypatch, *settings)
    for line in lines:
        assert line["sparsity"] == pytest.approx(0.9, abs=1e-4)
        assert 0.3 < line["average_last"] < 1
    text = plus_page.page(lines)
    assert "## IID, 90 %, 2 rounds" in text and "regrow: 0.1" in text


def test_an_unknown_setting_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="movment"):
        trials(tmp_path, monkeypatch, {"movment": 1})


@pytest.mark.parametrize("optimizer", ["adam", "yogi"])
def test_the_servers_optimizer_and_a_schedule_by_loss(tmp_path, monkeypatch, optimizer):
    setting = {
        "final_sparsity": 0.9,
        "by_loss": 0.5,
        "server_optimizer": optimizer,
        "server_rate": 0.01,
        "epochs": 1,
    }
    (line,) = trials(tmp_path, monkeypatch, setting)
    assert line["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert 0.3 < line["average_last"] < 1


def test_a_schedule_by_loss_goes_on_faster_while_it_falls():
    h = {"by_loss": 0.5, "purge_until": 0.5, "rounds": 10}

    def after(rounds, loss, progress):
        server = {"loss": loss, "progress": progress}
        context = SimpleNamespace(server=server, round=rounds)
        return float(plus_server._progress(h, context))

    assert after(1, -0.1, 0.0) == pytest.approx(1.5 / 5)
    assert after(1, 0.1, 0.2) == pytest.approx(0.2 + 0.5 / 5)
    assert after(7, 0.1, 0.2) == pytest.approx(0.4 / 0.55)  # it ends in time
    assert after(9, 0.1, 0.9) == 1


@pytest.mark.parametrize("kind", ["reshuffled", "balanced"])
def test_all_clients_have_their_turn_in_ten_rounds(kind):
    y = np.repeat(np.arange(100) % 10, 4).reshape(100, 4)
    clients = ClientData(np.zeros((100, 4, 1)), y, np.full(100, 4))
    cohorts = np.asarray(plus_search.cohorts_of(kind, clients, 20, 0))
    for turn in (cohorts[:10], cohorts[10:]):
        assert sorted(turn.ravel().tolist()) == list(range(100))
    classes = [len(set(y[cohort, 0])) for cohort in cohorts]
    assert (min(classes) == 10) == (kind == "balanced")


def test_the_page_is_that_of_the_lines():
    text = (RESULTS / "plus_search.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert (RESULTS / "plus_search.md").read_text() == plus_page.page(lines)


def test_seeds_of_a_trial_share_a_row_and_the_best_is_first():
    base = {"partition": "iid", "rounds": 9, "last_10": 0.5, "megabytes": 1.0}
    base |= {"cpu_seconds": 1.0, "layers": [3, 2]}
    lines = [
        base | {"setting": {"mu": 1}, "seed": 0, "average_last_10": 0.6},
        base | {"setting": {}, "seed": 0, "average_last_10": 0.7},
        base | {"setting": {}, "seed": 1, "average_last_10": 0.9},
    ]
    rows = plus_page.page(lines).splitlines()[-2:]
    assert rows[0].startswith("| none: the first edition | 80.00 | 50.00 | 0 1 |")
    assert rows[1].startswith("| mu: 1 | 60.00 |")
