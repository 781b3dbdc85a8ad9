"""SIGTERM and SIGINT: gentle once, at once the second time, and nothing left behind."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from fedsparsify_jax.runner.process import signals
from fedsparsify_jax.runner.process.signals import Stopped, catching

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def usual():
    """As in a terminal; a shell starts what runs in its background without SIGINT."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = [signal.signal(*pair) for pair in zip(BOTH, usual, strict=True)]
    yield
    for number, handler in zip(BOTH, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_only_noted_inside_a_round(number):
    with catching() as stop, stop.deferred():
        signal.raise_signal(number)
        assert stop.number == number


@pytest.mark.parametrize(("number", "status"), [(BOTH[0], 143), (BOTH[1], 130)])
def test_elsewhere_it_raises(number, status):
    with pytest.raises(Stopped) as caught, catching() as stop:
        with stop.deferred():
            pass
        signal.raise_signal(number)
    assert caught.value.status == status
    assert str(caught.value) == f"stopped by {number.name}"
    assert isinstance(caught.value, KeyboardInterrupt)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in BOTH]
    threads = threading.active_count()
    with pytest.raises(ValueError, match="inside"), catching():
        assert [signal.getsignal(number) for number in BOTH] != before
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in BOTH] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_the_inner_one_is_the_outer_one():
    with catching() as outer:
        with catching() as inner:
            assert inner is outer
        assert signal.getsignal(signal.SIGTERM) == outer.handle


def test_what_a_caller_installed_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with catching() as stop, stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with catching() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.number == 0 and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_other_threads_install_nothing():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside():
        with catching() as stop:
            seen.append((stop.number, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(0, before)]


def test_a_librarys_second_sigint_is_the_usual_interrupt(monkeypatch):
    monkeypatch.setattr(signals, "SAME", 0.0)
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        catching() as stop,
        stop.deferred(),
    ):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, Stopped)


# The module needs nothing but the standard library: a process without JAX does.
BUSY = """
import hashlib, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
module = runpy.run_path(sys.argv[1])
with module["catching"](at_once=True) as stop, stop.deferred():
    print("ready", flush=True)
    # One instruction for minutes, as a compiled round is: no handler runs meanwhile.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("number", BOTH)
def test_the_second_signal_ends_at_once(number):
    command = [sys.executable, "-c", BUSY, signals.__file__]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.send_signal(number)  # as `timeout` does: still the first
        time.sleep(3 * signals.SAME)
        assert process.poll() is None
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 128 + number
        assert said.count("finishing the round") == 1
