"""How many bytes have left the interfaces of a namespace, by the counters of their queues.

The kernel hands several frames of one TCP connection over together where it can (GSO), which is
what lets two cores carry four links of 200 mbit. The counters of an interface then see one header
for all of them; those of its queue (qdisc) count every frame as it would be on a wire.
"""

import socket
import struct
from collections.abc import Iterator

from benchmarks.wan.namespaces import inside

# linux/rtnetlink.h, linux/pkt_sched.h, linux/gen_stats.h
_GET_QDISC, _REQUEST_DUMP = 38, 0x301
_DONE, _ROOT = 3, 0xFFFFFFFF
_STATS2, _BASIC = 7, 1
_HEADER = struct.Struct("=IHHII")
_QDISC = struct.Struct("=BxxxiIII")
_ATTRIBUTE = struct.Struct("=HH")


class Departures:
    """Reads them from outside, of the interfaces that are there when it is made."""

    def __init__(self, namespace: str) -> None:
        self._netlink, self._names = inside(
            namespace,
            lambda: (
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
                dict(socket.if_nameindex()),
            ),
        )

    def read(self) -> dict[str, int]:
        """interface -> bytes of frames, Ethernet headers included, that left its root queue."""
        request = _QDISC.pack(0, 0, 0, 0, 0)
        header = _HEADER.pack(_HEADER.size + len(request), _GET_QDISC, _REQUEST_DUMP, 0, 0)
        self._netlink.send(header + request)
        found: dict[str, int] = {}
        while True:
            answer = self._netlink.recv(1 << 17)
            for kind, message in messages_of(answer):
                if kind == _DONE:
                    return found
                _, index, _, parent, _ = _QDISC.unpack_from(message)
                if parent == _ROOT and index in self._names:
                    found[self._names[index]] = bytes_of(message[_QDISC.size :])

    def close(self) -> None:
        self._netlink.close()


def messages_of(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the netlink messages in one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(answer):
        size, kind, *_ = _HEADER.unpack_from(answer, offset)
        yield kind, answer[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def bytes_of(attributes: bytes) -> int:
    """The byte counter among the attributes of a queue; 0 if it has none."""
    basic = _attributes_of(_attributes_of(attributes).get(_STATS2, b"")).get(_BASIC)
    return int(struct.unpack_from("=Q", basic)[0]) if basic else 0


def _attributes_of(content: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(content):
        size, kind = _ATTRIBUTE.unpack_from(content, offset)
        found[kind & 0x3FFF] = content[offset + _ATTRIBUTE.size : offset + size]
        offset += (max(size, _ATTRIBUTE.size) + 3) & ~3
    return found
