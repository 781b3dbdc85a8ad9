"""Bytes that HTTP over loopback moves, by what was asked for: a listener on the device.

Linux and root only: a packet socket sees what all processes send to 127.0.0.1. Bytes
are those of TCP's content, HTTP's headers among them, not the 40 of IP and TCP a
packet. They are told from each other by sequence numbers, so a packet that the
listener misses is counted when the one after it comes.
"""

import dataclasses
import socket
import struct
import threading
from types import TracebackType

_OUTGOING = 4  # loopback hands every packet over twice, as sent and as received
_EVERY = 3  # ETH_P_ALL: only with it are packets seen as they are sent
_TCP = 6
_SYN = 2
_BUFFER = 2**26


@dataclasses.dataclass
class Asked:
    """What was moved for one path.

    Attributes:
      requests: their number.
      up: bytes of the requests.
      down: bytes of the answers.
    """

    requests: int = 0
    up: int = 0
    down: int = 0


@dataclasses.dataclass
class _Connection:
    """One client's connection: what it asks for now, and where both streams are."""

    path: str = ""
    up: int | None = None  # the next sequence number
    down: int | None = None


class Counts:
    """Adds up TCP segments; `paths` has the bytes of requests and of their answers.

    Args of the constructor:
      prefix: of the paths that are counted.
    """

    def __init__(self, prefix: str):
        self.paths: dict[str, Asked] = {}
        self._prefix = prefix
        self._connections: dict[tuple[int, int], _Connection] = {}

    def add(self, segment: bytes) -> None:
        """Adds one segment, from TCP's header on."""
        source, target, number = struct.unpack("!HHI", segment[:8])
        if segment[13] & _SYN:  # its ports may have been another connection's before
            self._connections.pop((source, target), None)
            self._connections.pop((target, source), None)
        content = segment[(segment[12] >> 4) * 4 :]
        if not content:
            return
        if content.startswith(b"POST "):
            connection = self._connections.setdefault((source, target), _Connection())
            connection.path = content.split(b" ", 2)[1].decode("ascii", "replace")
            self._of(connection.path).requests += 1
        end = (number + len(content)) % 2**32
        if (source, target) in self._connections:
            connection = self._connections[source, target]
            start = number if connection.up is None else connection.up
            self._of(connection.path).up += _ahead(start, end)
            connection.up = end
        elif (target, source) in self._connections:
            connection = self._connections[target, source]
            start = number if connection.down is None else connection.down
            self._of(connection.path).down += _ahead(start, end)
            connection.down = end

    def _of(self, path: str) -> Asked:
        if not path.startswith(self._prefix):
            return Asked()  # nobody's
        return self.paths.setdefault(path.removeprefix(self._prefix), Asked())


class Tap:
    """Counts while it is entered, in the `paths` of `Counts`.

    Args of the constructor:
      prefix: of the paths that are counted.
    """

    def __init__(self, prefix: str):
        self._counts, self._ends = Counts(prefix), threading.Event()
        self.paths = self._counts.paths
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, socket.ntohs(_EVERY)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.5)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Tap":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ends.is_set():
            try:
                packet, address = self._socket.recvfrom(2**17)
            except TimeoutError:
                continue
            if address[2] == _OUTGOING and packet[0] >> 4 == 4 and packet[9] == _TCP:
                self._counts.add(packet[(packet[0] & 15) * 4 :])


def _ahead(start: int, end: int) -> int:
    """Returns how far a sequence number is before another, 0 for a repetition."""
    distance = (end - start) % 2**32
    return distance if distance < 2**31 else 0
