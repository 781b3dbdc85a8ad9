"""Real processes of Flower: what tests of them share."""

import contextlib
import os
import re
from pathlib import Path

import pytest

import fedsparsify_jax

ROOT = Path(fedsparsify_jax.__file__).parents[1]
TESTS = Path(__file__).parent
PROC = Path("/proc")


@contextlib.contextmanager
def surroundings(home):
    """Lets processes find the library and toys, and takes the user's home away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, TESTS))))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("HOME", str(home))
        yield


def family(directory):
    """The processes that use a directory as Flower's home, or below it."""
    return with_variable(f"FLWR_HOME={directory}/")


def with_variable(text):
    """The processes in whose environment a variable begins with a text."""
    word = text.encode()
    numbers = []
    for path in PROC.glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if word in path.read_bytes():
                numbers.append(int(path.parent.name))
    return numbers


def remote_addresses(numbers):
    """Addresses but 127.0.0.1 at which processes listen or to which they speak."""
    sockets = set()
    for number in numbers:
        for link in PROC.glob(f"{number}/fd/*"):
            with contextlib.suppress(OSError):
                sockets.update(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    addresses = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in (PROC / "net" / name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in sockets:
                local, remote = fields[1:3]
                addresses.add(local.split(":")[0])
                # What only listens has no other side: all zeros.
                addresses |= {remote.split(":")[0]} if int(remote[-4:], 16) else set()
    return addresses - {"0100007F"}, len(addresses)  # hexadecimal, the last byte first
