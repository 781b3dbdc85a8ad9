"""Plans of a start: what is written, for every content that a directory may have."""

import dataclasses
import json
from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.storage import resume
from fedsparsify_jax.runner.storage.checkpoint_files import Inventory, Saved

OUT = Path("out")
CONFIG = resolve(TrainConfig(out=OUT))
RESUMED = dataclasses.replace(CONFIG, resume=True)
ALLOWED = dataclasses.replace(RESUMED, allow_changes=True)
PRINTS = {"data set": "d", "partition": "p", "random keys": "k"}
VERSIONS = {"jax": "1.0", "numpy": "2.3"}
RECORDED = {
    "run": "first",
    "options": to_json(CONFIG),
    "versions": VERSIONS,
    "fingerprints": PRINTS,
    "changes": [],
}
RECORDS = [{"round": t, "loss": t / 2} for t in (1, 2)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
SAVED = Saved(2, RECORDED, RECORDS)


def checkpoints(newest=SAVED, damaged=(), set_aside=()):
    return Inventory(OUT / "checkpoints", newest, dict(damaged), frozenset(set_aside))


def existing(**content):
    """A run that was stopped after round 2, apart from ``content``."""
    whole = {"checkpoints": checkpoints(), "recorded": RECORDED, "metrics": LINES}
    return resume.Existing(OUT, **(whole | content))


EMPTY = existing(empty=True, checkpoints=checkpoints(None), recorded=None, metrics=b"")


def plan(there, config=RESUMED, fingerprints=PRINTS, versions=VERSIONS):
    return resume.plan(there, config, fingerprints, versions=versions, name="second")


@pytest.mark.parametrize("config", [CONFIG, RESUMED])
def test_an_empty_directory_gets_a_new_run(config):
    planned = plan(EMPTY, config)
    assert planned.completed == 0 and planned.records == ()
    assert planned.content["run"] == "second" and planned.content["changes"] == []
    assert planned.content["options"] == to_json(config)
    assert planned.content["fingerprints"] == PRINTS
    assert not planned.renames and not planned.warnings


def test_a_run_goes_on_from_its_newest_checkpoint():
    planned = plan(existing())
    assert planned.completed == 2 and planned.records == RECORDS
    assert planned.content["run"] == "first" and not planned.warnings


def test_a_run_without_a_checkpoint_begins_again_under_its_name():
    planned = plan(existing(checkpoints=checkpoints(None)))
    assert planned.completed == 0 and planned.records == []
    assert planned.content["run"] == "first" and not planned.warnings


def test_of_a_finished_run_no_round_is_left():
    last = SAVED._replace(round=CONFIG.rounds)
    there = existing(checkpoints=checkpoints(last), summary={"rounds": CONFIG.rounds})
    assert plan(there).completed == CONFIG.rounds


OTHER_SEED = dataclasses.replace(RESUMED, seed=5, batch_size=64)
REFUSED = {
    "--out out is a file: name": (existing(obstacle="--out out is a file: name"), {}),
    "--out out is not empty: add --resume": (existing(), {"config": CONFIG}),
    "holds no run to resume (no readable config.json)": (
        existing(recorded=None, checkpoints=checkpoints(None)),
        {},
    ),
    "no checkpoint in out/checkpoints is whole (round 4: torn; round 2: cut)": (
        existing(checkpoints=checkpoints(None, {4: "torn", 2: "cut"})),
        {},
    ),
    "is whole (all are set aside): put back a copy": (
        existing(checkpoints=checkpoints(None, set_aside=["damaged-2"])),
        {},
    ),
    "had other options: --batch-size 32 -> 64; --seed 0 -> 5; resume with": (
        existing(),
        {"config": OTHER_SEED},
    ),
    "--rounds 50 -> 60; resume with the same (or add --allow-changes)": (
        existing(),
        {"config": dataclasses.replace(RESUMED, rounds=60)},
    ),
    "--rounds is 1: the run in out has completed 2": (
        existing(),
        {"config": dataclasses.replace(ALLOWED, rounds=1)},
    ),
    "the data set and the partition of the run in out changed": (
        existing(),
        {"fingerprints": {"random keys": "k"}},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_start_is_refused_with_the_reason(message):
    there, more = REFUSED[message]
    with pytest.raises(InputError) as caught:
        plan(there, **more)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_data_are_compared_once_they_are_loaded():
    assert plan(existing(), fingerprints=None).completed == 2


@pytest.mark.parametrize(
    "changes",
    [{"model": "cnn"}, {"seed": 1}, {"num_clients": 9}, {"algorithm": "fedavg"}],
)
def test_changes_that_cannot_work_are_refused_even_on_request(changes):
    name = flag(next(iter(changes)))
    with pytest.raises(InputError, match=rf"cannot go on with {name} .* not even"):
        plan(existing(), dataclasses.replace(ALLOWED, rounds=60, **changes))


@pytest.mark.parametrize("stages, goes_on", [(None, False), (2, False), (1, True)])
def test_other_rounds_would_be_other_stages_of_a_network_that_grows(stages, goes_on):
    grows = dataclasses.replace(ALLOWED, algorithm="progfed", stages=stages)
    there = existing(recorded=RECORDED | {"options": to_json(grows)})
    longer = dataclasses.replace(grows, rounds=60)
    if goes_on:
        assert plan(there, longer).completed == 2
        return
    with pytest.raises(InputError, match=r"cannot go on with --rounds 50 -> 60, not"):
        plan(there, longer)


def test_changes_that_are_allowed_are_recorded_after_earlier_ones():
    earlier = {"after_round": 1, "options": {"rounds": [40, 50]}}
    there = existing(recorded=RECORDED | {"changes": [earlier]})
    planned = plan(there, dataclasses.replace(ALLOWED, rounds=60))
    later = {"after_round": 2, "options": {"rounds": (50, 60)}}
    assert planned.content["changes"] == [earlier, later]
    assert planned.content["options"]["rounds"] == 60
    assert "changes allowed: --rounds 50 -> 60; this run is no" in planned.warnings[0]


def test_options_that_change_no_result_may_differ():
    free = {"out": Path("elsewhere"), "checkpoint_every": 3, "verbose": True}
    free |= {"show_partition": True, "devices": 1, "logger": ("csv",)}
    assert not plan(existing(), dataclasses.replace(RESUMED, **free)).warnings


def test_an_option_that_an_older_version_did_not_have_had_its_default():
    options = dict(RECORDED["options"])
    del options["participation"]
    there = existing(recorded=RECORDED | {"options": options})
    assert plan(there).completed == 2
    with pytest.raises(InputError, match=r"--participation 1.0 -> 0.5"):
        plan(there, dataclasses.replace(RESUMED, participation=0.5))


WARNED = {
    "config.json was damaged: taken from the checkpoint of round 2": existing(
        recorded=None
    ),
    "metrics.jsonl was damaged: taken from the checkpoint": existing(
        metrics=LINES[:-3]
    ),
    "the checkpoint of round 4 is damaged (torn): kept as damaged-4": existing(
        checkpoints=checkpoints(damaged={4: "torn"})
    ),
    "other versions than so far: jax 0.9 -> 1.0; results may differ in last bits": (
        existing(recorded=RECORDED | {"versions": {"jax": "0.9", "flax": "3"}})
    ),
}


@pytest.mark.parametrize("warning", WARNED)
def test_damage_and_other_versions_are_warned_of(warning):
    planned = plan(WARNED[warning])
    assert planned.warnings == (warning,)
    assert planned.completed == 2 and planned.records == RECORDS
    assert planned.content["run"] == "first"


@pytest.mark.parametrize("more", [b"", b'{"round": 3}\n', b'{"rou', b"\0\xff", b"[1]"])
def test_later_rounds_and_torn_lines_are_no_damage(more):
    planned = plan(existing(metrics=LINES + more))
    assert planned.records == RECORDS and not planned.warnings


def test_damaged_checkpoints_get_names_that_are_free():
    damaged = {8: "torn", 6: "cut", 4: "torn"}
    names = ["damaged-6", "damaged-4", "damaged-4-2"]
    planned = plan(existing(checkpoints=checkpoints(SAVED, damaged, names)))
    assert planned.renames == {"8": "damaged-8", "6": "damaged-6-2", "4": "damaged-4-3"}
