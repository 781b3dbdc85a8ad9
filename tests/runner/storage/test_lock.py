"""One run at a time in a directory, whatever becomes of its owner."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage.lock import LOCK, locked, refuse_if_locked

OWNER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 7 on elsewhere")
file.flush()
print("mine", flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that has the lock."""
    command = [sys.executable, "-c", OWNER, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_the_second_is_refused_until_the_first_is_gone(tmp_path, owner):
    for attempt in (refuse_if_locked, lambda path: locked(path).__enter__()):
        with pytest.raises(InputError, match="in use by process 7 on elsewhere: wait"):
            attempt(tmp_path)
    owner.kill()  # leaves the file behind
    owner.wait()
    assert (tmp_path / LOCK).read_text() == "process 7 on elsewhere"
    refuse_if_locked(tmp_path)
    with locked(tmp_path):
        assert "elsewhere" not in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_asking_leaves_no_trace(tmp_path):
    refuse_if_locked(tmp_path)
    refuse_if_locked(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write --out"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_lock_file_that_was_removed_locks_no_one_out(tmp_path):
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()
        with locked(tmp_path), pytest.raises(InputError, match="in use by process"):
            refuse_if_locked(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_still_works(tmp_path, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path):
        refuse_if_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
