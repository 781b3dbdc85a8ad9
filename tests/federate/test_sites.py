"""The parts of a federation over NVFlare that need no NVFlare."""

import io
import shutil

import federation_nodes as nodes
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.nvflare import arrays, site, sites, sparse
from fedsparsify_jax.federate.nvflare.arrays import Content
from fedsparsify_jax.federate.nvflare.inside_out import InsideOut
from fedsparsify_jax.federate.plan import envelope_of, plan_for
from fedsparsify_jax.runner import train
from fedsparsify_jax.runner.messages import exchange_of
from fedsparsify_jax.runner.options.resolve import resolve

DIGITS = nodes.digits()
PLAN = dict(envelope_of(plan_for(resolve(nodes.config(None)), DIGITS)).facts)
NAMES = ("north", "south", "west")
ROWS = {
    "global": {},
    "local": {"algorithm": "fedsparsify-local"},
    "kept momentum": {"momentum": 0.9, "optimizer_state": "kept"},
    "halo, part of the sites": {
        "algorithm": "halo",
        "penalties": "averaged",
        "server_ema": 0.5,
        "participation": 0.7,
    },
    "fp16, median": {"wire_values": "float16", "merge": "median"},
}


@pytest.fixture(autouse=True)
def _one_program(monkeypatch):
    monkeypatch.setattr(site, "program_of", nodes.shared)


def carried(form, content, direction):
    """A message after both filters."""
    sent = sparse.encoded(form, content.arrays) or content.arrays
    size = {f"bytes_{direction}": sparse.size(sent)}
    return Content(sparse.decoded(sent) or sent, {**content.facts, **size})


def federated(out, change=lambda client, facts, answer: answer, names=NAMES, **options):
    """Trains without a network; returns the rounds' records and what was printed."""
    config, text = nodes.config(out, **options), io.StringIO()
    console = Console(file=text, width=200)
    form = exchange_of(config)
    clients = [site.Site(name, None, out.with_name("state")) for name in NAMES]
    run = InsideOut(lambda ask: sites.serve(ask, config, names, False, console))
    call = run.start()
    while call is not None:
        answers = {}
        for client in call.cohort:
            arrived = carried(form, call.content, "down")
            down = {"bytes_down": arrived.facts["bytes_down"]}
            answer = clients[client].answer(arrived)
            answer = answer._replace(facts={**answer.facts, **down})
            answer = change(client, call.content.facts, carried(form, answer, "up"))
            if answer is not None:
                answers[client] = answer
        call = run.answer(answers)
    return nodes.records(out), text.getvalue()


@pytest.mark.parametrize("name", ROWS)
def test_sites_have_the_masks_and_numbers_of_the_simulation(name, tmp_path):
    options = ROWS[name]
    train(
        nodes.config(tmp_path / "alone", measure_bytes=True, **options),
        Console(quiet=True),
    )
    together, _ = federated(tmp_path / "together", **options)
    for one, other in zip(nodes.records(tmp_path / "alone"), together, strict=True):
        exact = nodes.without(one, "train_loss", "test_loss")
        assert exact == nodes.without(other, "train_loss", "test_loss")
        for field in ("train_loss", "test_loss"):
            assert one[field] == pytest.approx(other[field], rel=1e-6)
        down = other["message_bytes_down"] / one["message_bytes_down"]
        assert 1 <= down + 0.01 < 1.2
    assert nodes.same_models(tmp_path / "alone", tmp_path / "together", atol=1e-6)


def test_a_sites_garbage_is_rejected_with_a_line_and_the_round_goes_on(tmp_path):
    bad = {
        "nothing": Content({}, {"round": 2}),
        "another round": None,
        "an error": Content({}, {"error": "the disk is full"}),
    }
    lines = {
        "nothing": "south: the message has other arrays than this federation's",
        "another round": "south: it does not answer round 3",
        "an error": "south: the disk is full",
    }

    def change(client, facts, answer):
        t = facts.get("round")
        if client != 1 or t is None:
            return answer
        chosen = list(bad.values())[t - 2] if t > 1 else answer
        return chosen or answer._replace(facts={**answer.facts, "round": 1})

    rows, text = federated(tmp_path / "run", change, rounds=4)
    assert [row["merged"] for row in rows] == [3, 2, 2, 2]
    assert [row["rejected"] for row in rows] == [0, 1, 1, 1]
    for line in lines.values():
        assert f"note: {line}" in text


def test_a_site_without_an_answer_has_dropped_out(tmp_path):
    def change(client, facts, answer):
        return None if (client, facts.get("round")) == (2, 2) else answer

    rows, text = federated(tmp_path / "run", change)
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert "note: west: no answer" in text


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    options = {"momentum": 0.9, "optimizer_state": "kept", "checkpoint_every": 1}
    whole, _ = federated(tmp_path / "whole", rounds=4, **options)
    out = tmp_path / "parts"
    federated(out, rounds=4, **options)
    for name in ("3", "4"):  # as if it had been killed in round 3
        shutil.rmtree(out / "checkpoints" / name)
    (out / "summary.json").unlink()
    again, _ = federated(out, rounds=4, resume=True, **options)
    assert [nodes.without(row) for row in again] == [nodes.without(r) for r in whole]
    assert nodes.same_models(tmp_path / "whole", out)


REFUSED = {
    "snip": {"algorithm": "snip"},
    "of one another": {"algorithm": "dispfl"},
    "--upload-compression goes with": {"upload_compression": "topk"},
    "--encrypted goes with": {"encrypted": True},
    "2 clients and 3 sites": {"num_clients": 2},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_before_the_first_round(line, tmp_path):
    with pytest.raises(InputError, match=line):
        federated(tmp_path / "run", **REFUSED[line])
    assert not (tmp_path / "run").exists()


def test_a_site_that_is_not_of_the_federation_cannot_join(tmp_path):
    with pytest.raises(InputError, match="no site 'west'"):
        federated(tmp_path / "run", names=("north", "south", "east"))


def test_a_site_whose_file_cannot_be_read_says_so():
    lost = site.Site("west", "/nowhere/{site}.json")
    answer = lost.answer(Content({}, {"sites": ["west"], "plan": PLAN}))
    assert "cannot read the settings in /nowhere/west.json" in answer.facts["error"]


def test_garbage_on_the_network_is_refused():
    for wrong in ({"sparse/model": arrays.bits(b"garbage")}, {"sparse/model": 7}):
        with pytest.raises(InputError):
            sparse.decoded(wrong)
    with pytest.raises(InputError, match="something else than arrays"):
        sparse.size({"model": "text"})


def test_what_the_masks_drop_may_be_trained():
    w = np.arange(4, dtype=np.float32)
    dense = arrays.flat({"w": w}, {"w": w > 1}, b"more")
    there = sparse.decoded(sparse.encoded(exchange.Exchange(), dense))
    assert there.keys() == dense.keys()
    assert all(np.array_equal(there[name], dense[name]) for name in dense)
