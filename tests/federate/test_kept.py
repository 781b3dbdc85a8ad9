"""The memory of a client between rounds."""

import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.types import ClientsState


def state(number):
    return ClientsState(optimizer=(np.full(2, number, np.float32),))


def value(kept):
    return float(kept.optimizer[0][0])


@pytest.fixture(params=["memory", "files"])
def directory(request, tmp_path):
    return tmp_path / "state" if request.param == "files" else None


def test_a_state_counts_once_its_upload_was_merged(directory):
    kept = Kept(directory)
    kept.begin(state(0))
    kept.put(1, state(1))
    kept.put(2, state(2))
    assert value(kept.after(1, 0)) == 1
    assert value(kept.after(2, 0)) == 2
    assert value(kept.after(0, 0)) == 0


def test_nothing_before_the_oldest_checkpoint_is_kept(directory):
    kept = Kept(directory)
    kept.begin(state(0))
    for number in (1, 2, 3):
        kept.put(number, state(number))
    assert value(kept.after(3, 2)) == 3
    assert value(kept.after(2, 2)) == 2
    with pytest.raises(InputError, match="lost what it kept after round 1"):
        kept.after(1, 2)


def test_a_node_that_was_started_anew_finds_it_in_files(tmp_path):
    kept = Kept(tmp_path)
    kept.begin(state(0))
    kept.put(1, state(1))
    again = Kept(tmp_path)
    again.begin(state(0))
    assert value(again.after(1, 0)) == 1
    in_memory = Kept()
    in_memory.begin(state(0))
    with pytest.raises(InputError, match="lost what it kept"):
        in_memory.after(1, 0)


def test_damaged_files_are_named(tmp_path):
    kept = Kept(tmp_path)
    kept.begin(state(0))
    kept.put(1, state(1))
    (tmp_path / "after-1").write_bytes(b"damaged")
    with pytest.raises(InputError):
        Kept(tmp_path).begin(state(0))


def test_clients_that_keep_nothing_need_no_files(tmp_path):
    kept = Kept(tmp_path / "state")
    kept.begin(ClientsState())
    kept.put(1, ClientsState())
    assert kept.after(5, 3) == ClientsState()
    assert not (tmp_path / "state").exists()
