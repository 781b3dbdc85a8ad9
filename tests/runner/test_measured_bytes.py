"""``--measure-bytes`` and ``--wire-values``: the bytes of messages that are encoded."""

import contextlib
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest

from fedsparsify_jax.cli import main
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.deploy.exchange import Exchange
from fedsparsify_jax.runner.messages import Meter
from fedsparsify_jax.types import RoundInfo, RoundMessages

OPTIONS = ["train", "--rounds", "4", "--num-clients", "4", "--local-epochs", "1"]
OPTIONS += ["--compilation-cache", "off"]
MEASURED = ("message_bytes_up", "message_bytes_down")
NUMBERS = 26_122
# What a message has besides numbers and positions: the container's header.
HEADER = 900


def run(out, *options):
    """The records of a run, its summary, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([*OPTIONS, *options, "--out", str(out)]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    summary = json.loads((out / "summary.json").read_text())
    return [json.loads(line) for line in lines], summary, shown.getvalue()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return run(tmp_path_factory.mktemp("measured") / "run", "--measure-bytes")


def without_times(record):
    return {k: v for k, v in record.items() if k not in ("seconds", *MEASURED)}


def test_measuring_changes_nothing_else(measured, tmp_path):
    records, summary, _ = measured
    plain, unmeasured, shown = run(tmp_path / "run")
    assert [*map(without_times, records)] == [*map(without_times, plain)]
    assert not any(field in record for record in plain for field in MEASURED)
    assert "message_bytes" not in unmeasured and "encoded messages" not in shown
    assert summary["bytes_up"] == unmeasured["bytes_up"]


def test_a_messages_bytes_are_its_numbers_and_little_more(measured):
    records, summary, shown = measured
    kept = [NUMBERS, *(sum(record["kept"].values()) for record in records)]
    for before, record in zip(kept, records, strict=False):
        numbers = 4 * before * 4
        up, down = (record[field] - numbers for field in MEASURED)
        assert 0 < up < 4 * HEADER
        # Each number that has gone is a byte or two of positions at most.
        assert 0 < down < 4 * (HEADER + 2 * NUMBERS / 4)
    assert summary["message_bytes"] == sum(r[f] for r in records for f in MEASURED)
    dense = 4 * 4 * 2 * 4 * NUMBERS  # bytes, rounds, ways, clients
    saving = dense / summary["message_bytes"]
    assert summary["message_saving"] == pytest.approx(saving)
    assert f"with positions and headers ({saving:.2f} x)" in shown


def test_sixteen_bits_and_compression_make_messages_smaller(measured, tmp_path):
    options = ["--measure-bytes", "--wire-values", "float16"]
    records, half, _ = run(tmp_path / "half", *options)
    _, packed, _ = run(tmp_path / "packed", *options, "--wire-compression", "zstd")
    assert 0.48 < half["message_bytes"] / measured[1]["message_bytes"] < 0.56
    assert packed["message_bytes"] < 0.95 * half["message_bytes"]
    # Training sees the rounded numbers, compression none.
    assert records[-1]["train_loss"] != measured[0][-1]["train_loss"]
    assert packed["test_loss"] == half["test_loss"]


def test_compression_needs_messages_and_its_package(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    options = [*OPTIONS, "--out", str(out), "--wire-compression", "zstd"]
    assert main(options) == 2
    assert "--wire-compression is about the messages that" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert main([*options, "--measure-bytes"]) == 2
    error = capsys.readouterr().err
    assert "need the package zstandard: install fedsparsify_jax[deploy]" in error
    assert not out.exists()


def test_a_resumed_run_reports_the_same_bytes(tmp_path):
    """Clients of a small cohort know the masks of different rounds."""
    options = ["--measure-bytes", "--participation", "0.5", "--seed", "3"]
    whole, _, _ = run(tmp_path / "whole", *options)
    again = tmp_path / "again"
    short = [*options, "--checkpoint-every", "2"]
    run(again, *short)
    # As a kill after round 2 would leave it.
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "summary.json").unlink()
    resumed, _, _ = run(again, *short, "--resume")
    fields = [*MEASURED, "round"]
    assert [[r[f] for f in fields] for r in resumed] == [
        [r[f] for f in fields] for r in whole
    ]
    assert (again / "checkpoints" / "2" / "messages").exists()


def masks(*kept):
    return {"params": {"w": np.isin(np.arange(1000), kept)}}


def model(mask):
    return jax.tree.map(lambda m: m.astype(np.float32), mask)


def info(sent, uploads, *, cohort, arrived=None):
    """A round in which clients get a mask of ones and send others back."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *uploads)
    number, none = len(cohort), np.zeros(len(cohort), np.uint32)
    blank = dict.fromkeys(RoundInfo._fields, 0)
    return RoundInfo(**blank)._replace(
        cohort=np.array(cohort),
        setup_up=np.array([7], np.uint32),
        setup_down=np.array([5, 5], np.uint32),
        messages=RoundMessages(
            variables=model(sent),
            masks=sent,
            uploads=model(stacked),
            upload_masks=stacked,
            extra_up=none + 100,
            arrived=np.ones(number, bool) if arrived is None else np.array(arrived),
        ),
    )


def test_clients_know_the_masks_that_they_got_last():
    """By hand from lengths of single messages; client 9 answers in round 1 only."""
    first, second, third = masks(*range(0, 200, 2)), masks(2, 4, 6), masks(2, 4)
    own = masks(2, 4, 500)

    def size(mask, previous=None):
        return len(wire.encode(model(mask), mask, previous=previous))

    assert size(third, first) > size(third, second)
    meter = Meter(Exchange())
    record = meter(info(first, [first, own], cohort=[4, 9]))
    assert record["message_bytes_down"] == 2 * size(first) + 10
    up = size(first, first) + size(own, first) + 2 * 100 + 7
    assert record["message_bytes_up"] == up

    record = meter(info(second, [second] * 2, cohort=[9, 4], arrived=[False, True]))
    assert record["message_bytes_down"] == 2 * size(second, first) + 10
    assert record["message_bytes_up"] == size(second, second) + 100 + 7

    record = meter(info(third, [third] * 3, cohort=[4, 9, 11]))
    down = size(third, second) + size(third, first) + size(third) + 10
    assert record["message_bytes_down"] == down


def test_broken_uploads_are_sent_whole():
    mask = masks(1, 2)
    broken = info(mask, [mask], cohort=[0])
    uploads = {"params": {"w": np.full((1, 1000), np.nan, np.float32)}}
    broken = broken._replace(messages=broken.messages._replace(uploads=uploads))
    whole = len(wire.encode({"params": {"w": uploads["params"]["w"][0]}}))
    record = Meter(Exchange())(broken)
    assert record["message_bytes_up"] == whole + 100 + 7
