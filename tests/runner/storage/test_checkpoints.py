"""Checkpoints: the same bits, whole or not at all, and damage that shows."""

import json
import re
import resource
import shutil
import time

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage import checkpoint_files as files
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import State

CONFIG = {"run": "this one", "options": {"rounds": 9}}


def state_after(completed, size=64):
    values = jax.random.normal(jax.random.key(completed), (size,))
    variables = {"params": {"dense": {"kernel": values, "bias": values[:3] * 0}}}
    masks = jax.tree.map(lambda leaf: leaf > 0, variables)
    return State(variables, masks, jnp.int32(completed))


def records(completed):
    return [{"round": t, "seconds": t / 7} for t in range(1, completed + 1)]


def saved(directory, *rounds, values=(), **policy):
    with Checkpoints(directory, CONFIG, **policy) as checkpoints:
        for t, value in zip(rounds, [*values, *[None] * len(rounds)], strict=False):
            checkpoints.save(t, state_after(t), records(t), value)
    return directory


def restored(directory, completed):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(completed, state_after(99))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run's checkpoints after rounds 3 and 6."""
    return saved(tmp_path_factory.mktemp("checkpoints"), 3, 6)


def test_what_is_saved_comes_back(two):
    inventory = files.read(two, "this one")
    assert inventory.newest == files.Saved(6, CONFIG, records(6))
    assert not inventory.damaged and not inventory.set_aside
    chex.assert_trees_all_equal(restored(two, 6), state_after(6))


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """The next rounds write over its memory while it is being written to disk."""
    following = jax.jit(
        lambda state: jax.tree.map(
            lambda leaf: ~leaf if leaf.dtype == bool else -leaf, state
        ),
        donate_argnums=0,
    )
    state = state_after(3, size=300_000)
    expected = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        for _ in range(5):
            state = following(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path) as checkpoints:
        restored_state = checkpoints.restore(3, state)
    chex.assert_trees_all_equal(restored_state, expected)


def test_the_latest_and_the_best_stay(tmp_path):
    values = [0.5, 0.9, 0.7, None]
    saved(tmp_path, 1, 2, 3, 4, values=values, keep_last=1, keep_best=1)
    assert files.rounds(tmp_path) == [2, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"2", "4"}


def test_the_best_may_be_the_smallest():
    values = {10: 3.0, 20: 2.0, 30: 2.0, 40: 5.0, 50: None}
    assert files.kept(values, 1, 1, False) == {50, 20}
    assert files.kept(values, 9, 0, False) == set(values)


def test_a_checkpoint_of_other_shapes_is_refused(two):
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(
            InputError,
            match=r"6 is whole but does not fit .*kernel.*\[64\] where .*\[65\]",
        ),
    ):
        checkpoints.restore(6, state_after(6, size=65))


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    """Files may not grow past a limit, which the system treats like a full disk."""
    saved(tmp_path, 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, CONFIG)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError) as caught, checkpoints:
            checkpoints.save(6, state_after(6, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = "cannot save the checkpoint of round 6 .*File too large.* after round 3$"
    assert caught.match(said) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    chex.assert_trees_all_equal(restored(tmp_path, 3), state_after(3))
    saved(tmp_path, 6)
    assert files.rounds(tmp_path) == [3, 6]


def test_a_failed_save_is_told_at_the_next_round(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"), Checkpoints(tmp_path) as c:
        monkeypatch.setattr(files, "finish", full)
        c.save(3, state_after(3))
        for _ in range(1000):
            c.wait(only_if_done=True)
            time.sleep(0.01)
        raise AssertionError("not told")


def small_files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), r"_METADATA is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:9]), r"has 9 of \d+ bytes"),
        (lambda path: path.write_bytes(path.read_bytes() + b"."), "is too long"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "has changed bytes"),
        (lambda path: (path.unlink(), path.symlink_to("x")), "is no plain file"),
    ],
)
def test_damage_has_a_name(two, tmp_path, damage, told):
    copy = shutil.copytree(two, tmp_path / "copy")
    path = next((copy / "6" / "state").rglob("_METADATA"))
    damage(path)
    (copy / "6" / "notes.txt").write_text("mine")
    inventory = files.read(copy, "this one")
    assert inventory.newest.round == 3 and inventory.damaged.keys() == {6}
    foreign, complaint = sorted(inventory.damaged[6].split(", "))
    assert foreign == "notes.txt does not belong there"
    assert complaint.startswith("state/state/_METADATA") and re.search(told, complaint)


@hypothesis.given(data=st.data())
def test_bytes_flipped_anywhere_never_change_a_result(two, tmp_path_factory, data):
    """A good checkpoint, or a clear refusal."""
    copy = shutil.copytree(two, tmp_path_factory.mktemp("flipped") / "copy")
    every = small_files(copy)
    numbers = st.integers(0, len(every) - 1)
    for number in data.draw(st.lists(numbers, unique=True, max_size=3)):
        path = every[number]
        content = bytearray(path.read_bytes())
        match data.draw(st.sampled_from(("flip", "cut", "add", "remove", "foreign"))):
            case "flip" if content:
                place = data.draw(st.integers(0, len(content) - 1))
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[data.draw(st.integers(0, len(content))) :]
            case "add":
                content += data.draw(st.binary(min_size=1, max_size=20))
            case "remove":
                path.unlink(missing_ok=True)
                continue
            case "foreign":
                path.with_name("foreign").write_bytes(content)
        path.write_bytes(content)
    try:
        inventory = files.read(copy, "this one")
        saved = inventory.newest_or_refuse()
    except InputError as error:
        assert "is whole" in str(error) and "\n" not in str(error)
        return
    assert saved.round == 6 or inventory.damaged.keys() == {6}
    assert saved == files.Saved(saved.round, CONFIG, records(saved.round))
    state = restored(copy, saved.round)
    chex.assert_trees_all_equal(state, state_after(saved.round))
    shutil.rmtree(copy)


def test_a_manifest_is_no_way_to_trick_the_reader(two, tmp_path):
    copy = shutil.copytree(two, tmp_path / "copy")
    path = copy / "6" / "manifest.json"
    for content in ([], {}, {"format": 3}, "x", None, json.loads(path.read_text())):
        if isinstance(content, dict) and "about" in content:
            content["about"]["value"] = 0.99
        path.write_text(json.dumps(content))
        inventory = files.read(copy, "this one")
        assert inventory.newest.round == 3
        assert "manifest.json is" in inventory.damaged[6]
