"""What this peer's processes send and receive, from the kernel's own TCP counters.

A peer is more than one process: hivemind's libp2p daemon (p2pd) is a child with sockets of its
own, and what it sends is on the same bill. So nothing is added up at the calls that write; the
kernel is asked. `NETLINK_SOCK_DIAG` dumps every TCP socket of the network namespace with its
`struct tcp_info` (sock_diag(7), linux/inet_diag.h, linux/tcp.h); a socket belongs to the process
that has its inode under /proc/<pid>/fd. That needs no privilege and no iproute2.

Counted is the payload of TCP, retransmissions included on the way out. Headers and acknowledgements
are not, nor is UDP (p2pd's QUIC, which is off).
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from protocol.errors import UnavailableError

_NETLINK_SOCK_DIAG = 4
# The older request, not SOCK_DIAG_BY_FAMILY: it answers for IPv4 and IPv6 in one dump, that is, as
# of one moment and in half the time.
_TCPDIAG_GETSOCK = 18
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_INET_DIAG_INFO = 2

# Without SYN_RECV (3, 12), TIME_WAIT (6) and LISTEN (10): none of them carries payload.
_STATES = sum(1 << state for state in (1, 2, 4, 5, 7, 8, 9, 11))

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=3xB48xI4x")  # inet_diag_req: extensions, states
_MESSAGE = struct.Struct("=44xQ16xI")  # inet_diag_msg: the socket's cookie, its inode
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
# tcp_info up to bytes_sent (Linux 4.19): bytes_received is at 128, bytes_sent at 200.
_TCP_INFO = struct.Struct("=128xQ64xQ")
_ERROR = struct.Struct("=i")  # nlmsgerr: minus errno

_RECEIVE_BYTES = 64 * 1024  # the kernel fills at most 32 KiB per message of a dump
_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class TrafficSample:
    """Bytes since the meter was made; never less than in the sample before."""

    at_s: float
    """When the kernel was asked, on the clock of time.monotonic()."""
    sent_bytes: int
    """Retransmissions included."""
    received_bytes: int
    by_pid: Mapping[int, tuple[int, int]]
    """(sent, received) of each process that had a socket, those that ended since included."""


class _Connection(NamedTuple):
    cookie: int
    """The kernel's number for this socket; unlike the inode it is never used again."""
    inode: int
    """0 while no process has it open: not yet accepted, or closed and still sending."""
    sent_bytes: int
    received_bytes: int


class TrafficMeter:
    """Adds up the TCP traffic of some processes of this network namespace.

    `sample()` takes well under 2 ms and is to be called several times a second: what a socket did
    between the last sample and its end is lost, and so is all of a socket that lived for less than
    the time between two samples. A socket that was closed with data still to send is followed until
    the kernel has sent it. Sockets that are open when the meter is made count from then on.

    Not for several threads at once.

    Args:
        pids: the processes, or a function that names those of the moment; ones that are gone are
            passed over.

    Raises:
        UnavailableError: the kernel does not have the counters, or hides a process's sockets.
    """

    def __init__(self, pids: Callable[[], Sequence[int]] | Sequence[int]) -> None:
        self._pids: Callable[[], Sequence[int]] = pids if callable(pids) else lambda: pids
        self._watched: frozenset[int] = frozenset()
        self._kernel = _SockDiag()
        self._owners: dict[int, int] = {}
        self._last: dict[int, tuple[int, int]] = {}
        self._misses: dict[int, int] = {}
        self._totals: dict[int, tuple[int, int]] = {}
        connections = self._kernel.connections()
        self._find_owners(connections)
        self._last = {c.cookie: (c.sent_bytes, c.received_bytes) for c in connections}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._kernel.close()

    def sample(self) -> TrafficSample:
        """Totals up to now. Raises UnavailableError as the constructor does."""
        # Not afterwards: a thread that comes back from the kernel may have to wait for others.
        at_s = time.monotonic()
        connections = self._kernel.connections()
        self._find_owners(connections)
        for cookie, _, sent, received in connections:
            pid = self._owners.get(cookie)
            if pid is None:
                continue
            last_sent, last_received = self._last.get(cookie, (0, 0))
            total_sent, total_received = self._totals.get(pid, (0, 0))
            self._totals[pid] = (
                total_sent + sent - last_sent,
                total_received + received - last_received,
            )
            self._last[cookie] = (sent, received)
        self._forget_all_but({connection.cookie for connection in connections})
        return TrafficSample(
            at_s,
            sum(sent for sent, _ in self._totals.values()),
            sum(received for _, received in self._totals.values()),
            dict(self._totals),
        )

    def _find_owners(self, connections: Sequence[_Connection]) -> None:
        """Look into /proc only when there is a socket that nobody has been found for."""
        pids = self._pids()
        if frozenset(pids) != self._watched:
            self._watched = frozenset(pids)
            self._misses.clear()
        # Twice, since a socket shows up in a dump an instant before accept() gives it a descriptor.
        unknown = [
            c
            for c in connections
            if c.inode and c.cookie not in self._owners and self._misses.get(c.cookie, 0) < 2
        ]
        if not unknown:
            return
        owners = {inode: pid for pid in pids for inode in _socket_inodes(pid)}
        for connection in unknown:
            if (pid := owners.get(connection.inode)) is not None:
                self._owners[connection.cookie] = pid
            else:
                self._misses[connection.cookie] = self._misses.get(connection.cookie, 0) + 1

    def _forget_all_but(self, cookies: set[int]) -> None:
        for known in (self._owners, self._last, self._misses):
            for cookie in known.keys() - cookies:
                del known[cookie]


class Windows:
    """Cuts samples that are taken now and then into windows of equal length.

    A sample that comes late, since the event loop was busy, covers several windows. Its bytes are
    spread evenly over the time since the sample before: a pause of the meter is no burst of the
    link, and a burst within such a pause cannot be known.
    """

    def __init__(self, window_s: float, first: TrafficSample) -> None:
        self._window_s = window_s
        self._end_s = first.at_s + window_s
        self._last = first
        self._cut = (first.sent_bytes, first.received_bytes)

    def add(self, sample: TrafficSample) -> list[tuple[int, int]]:
        """(sent, received) bytes of every window that has ended since the sample before."""
        last, windows = self._last, []
        while self._end_s <= sample.at_s:
            share = (self._end_s - last.at_s) / (sample.at_s - last.at_s)
            sent = last.sent_bytes + round(share * (sample.sent_bytes - last.sent_bytes))
            received = last.received_bytes + round(
                share * (sample.received_bytes - last.received_bytes)
            )
            windows.append((sent - self._cut[0], received - self._cut[1]))
            self._cut = (sent, received)
            self._end_s += self._window_s
        self._last = sample
        return windows


class _SockDiag:
    """The kernel's socket for questions about sockets."""

    def __init__(self) -> None:
        self._sequence = 0
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
            )
        except (OSError, AttributeError) as error:
            raise UnavailableError(
                "this kernel has no TCP counters to read (NETLINK_SOCK_DIAG), so the traffic of"
                f" this peer cannot be measured: {error}"
            ) from error
        self._socket.settimeout(_ANSWER_S)

    def close(self) -> None:
        self._socket.close()

    def connections(self) -> list[_Connection]:
        """Every TCP connection of this network namespace, whoever's it is."""
        self._sequence += 1
        body = _REQUEST.pack(1 << (_INET_DIAG_INFO - 1), _STATES)
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, _TCPDIAG_GETSOCK, _NLM_F_REQUEST_DUMP, self._sequence, 0)
        found: list[_Connection] = []
        try:
            self._socket.send(header + body)
            for kind, data, begin, end in self._answers():
                if kind == _NLMSG_ERROR:
                    (code,) = _ERROR.unpack_from(data, begin)
                    raise OSError(-code, os.strerror(-code))
                if (connection := _parse(data, begin, end)) is not None:
                    found.append(connection)
        except OSError as error:
            raise UnavailableError(
                f"the kernel does not answer a question about its TCP sockets: {error}"
            ) from error
        return found

    def _answers(self) -> Iterator[tuple[int, bytes, int, int]]:
        """(type, data, begin and end of the body in it) of every message of the dump."""
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            begin = 0
            while begin < len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, begin)
                # One of another sequence is left over from a question that was given up.
                if sequence == self._sequence:
                    if kind == _NLMSG_DONE:
                        return
                    yield kind, data, begin + _HEADER.size, begin + length
                begin += _aligned(length)


def _parse(data: bytes, begin: int, end: int) -> _Connection | None:
    """None: the kernel has no tcp_info for it, since it closed during the dump."""
    cookie, inode = _MESSAGE.unpack_from(data, begin)
    begin += _MESSAGE.size
    while begin < end:
        length, kind = _ATTRIBUTE.unpack_from(data, begin)
        if kind == _INET_DIAG_INFO:
            if length < _ATTRIBUTE.size + _TCP_INFO.size:
                raise UnavailableError(
                    "this kernel does not count the bytes that a TCP socket sends; Linux 4.19 or"
                    " newer does"
                )
            received, sent = _TCP_INFO.unpack_from(data, begin + _ATTRIBUTE.size)
            return _Connection(cookie, inode, sent, received)
        begin += _aligned(length)
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _socket_inodes(pid: int) -> Iterator[int]:
    """Inodes of the sockets that a process has open; none when it is gone.

    Raises:
        UnavailableError: it is another user's process.
    """
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except FileNotFoundError:
        return
    except PermissionError as error:
        # The kernel says the same of a child of ours that has ended and was not waited for.
        if _has_ended(pid):
            return
        raise UnavailableError(f"the sockets of process {pid} are not ours to look at") from error
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{folder}/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"
