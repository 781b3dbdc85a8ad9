"""Bytes of HTTP in the benchmark of federations: what is counted of TCP's segments."""

import importlib.util
import struct
from pathlib import Path

import pytest

CLIENT, SERVER = 40_000, 9092
SYN = 2


@pytest.fixture
def counts():
    path = Path(__file__).parents[1] / "benchmarks" / "tap.py"
    spec = importlib.util.spec_from_file_location("tap", path)
    tap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tap)
    return tap.Counts("/v1/")


def segment(source, target, number, content=b"", flags=0):
    words = source, target, number % 2**32, 0, 5 << 4, flags, 0, 0, 0
    return struct.pack("!HHIIBBHHH", *words) + content


def exchange(counts, first, answer, path=b"/v1/pull"):
    """One connection: a request of 100 bytes and an answer of as many as are said."""
    request = (b"POST " + path + b" HTTP/1.1").ljust(100)
    counts.add(segment(CLIENT, SERVER, first - 1, flags=SYN))
    counts.add(segment(SERVER, CLIENT, first + 6, flags=SYN))
    counts.add(segment(CLIENT, SERVER, first, request))
    counts.add(segment(SERVER, CLIENT, first + 7, b"x" * answer))


def test_requests_and_answers_are_counted_by_path(counts):
    exchange(counts, 1_000, 30)
    exchange(counts, 5_000, 40, b"/v1/push")
    exchange(counts, 9_000, 50, b"/other")
    pull, push = counts.paths["pull"], counts.paths["push"]
    assert (pull.requests, pull.up, pull.down) == (1, 100, 30)
    assert (push.requests, push.up, push.down) == (1, 100, 40)
    assert set(counts.paths) == {"pull", "push"}


def test_a_repetition_counts_once_and_a_missed_segment_does(counts):
    exchange(counts, 1_000, 30)
    counts.add(segment(SERVER, CLIENT, 1_007, b"x" * 30))  # once more
    counts.add(segment(SERVER, CLIENT, 1_047, b"x" * 10))  # 1037 to 1046 were missed
    assert counts.paths["pull"].down == 50


def test_numbers_that_start_over_are_no_gap(counts):
    exchange(counts, 2**32 - 50, 30)
    assert counts.paths["pull"].up == 100 and counts.paths["pull"].down == 30


def test_the_ports_of_a_closed_connection_may_come_again(counts):
    """Its numbers have nothing to do with those of the first one."""
    exchange(counts, 1_000, 30)
    exchange(counts, 700_000_000, 40)
    pull = counts.paths["pull"]
    assert (pull.requests, pull.up, pull.down) == (2, 200, 70)
