#!/usr/bin/env python3
"""Delay and loss on a network interface, where the kernel has no netem. Needs root and no package.

    hold.py eth0 --delay 20ms --loss 0.5%

What arrives on eth0 for this machine (or container) reaches its programs 20 ms later, and one
packet in 200 never does. SIGTERM or Ctrl-C ends it; held packets are let go, and everything is as
before.

An nf_tables rule hands arriving packets to a netfilter queue (NFQUEUE), where they wait in the
kernel for a verdict that is given later: a socket's sender is not held back by them, as it would be
on the way out. Packets are numbered one after the other, so nobody has to look at them: every tick
reads how far the numbers have come, and accepts, in one message, all up to the number that was the
newest one delay ago. A filter on the socket throws the kernel's own notices away; so a tick costs
the same at any rate.

Bounded: at most --queue packets wait; what comes while it is full is lost, as in a router.
The table belongs to this process: if it dies in any way, the kernel removes the rule, and packets
pass as before (those that were waiting are lost).
"""

import argparse
import ctypes
import errno
import math
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType

QUEUE_PACKETS = 20_000
"""40 ms of 5 gbit, or 1 s of 200 mbit, in frames of 1500 bytes."""
LARGEST_TICK_S, SMALLEST_TICK_S = 0.002, 0.0005
TICKS_PER_DELAY = 20
NOTICES_BYTES = 4_000_000
"""Of what may come from the first packet after a pause until this process is awake."""
WATCH_S = 1.0
"""How often it is checked that the interface and the queue are still there."""
_QUEUES = "/proc/net/netfilter/nfnetlink_queue"
_TABLE, _CHAIN = b"diloco_hold_%d\0", b"input\0"

# linux/netfilter/nfnetlink.h, nfnetlink_queue.h, nf_tables.h, xt_NFQUEUE.h
_QUEUE, _NF_TABLES = 3 << 8, 10 << 8
_VERDICT, _CONFIG, _VERDICT_BATCH = _QUEUE | 1, _QUEUE | 2, _QUEUE | 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = _NF_TABLES | 0, _NF_TABLES | 3, _NF_TABLES | 6
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_NESTED = 0x8000
_BOTH_FAMILIES, _LOCAL_IN, _OWNED = 1, 1, 2
_BIND, _COPY_META, _KEEP_GSO, _BYPASS = 1, 1, 1 << 2, 1
_DROP, _ACCEPT = 0, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _NETLINK_NETFILTER = 26, 33, 12


class Refused(Exception):
    """It cannot be done here; the text says why."""


class Stopped(BaseException):
    """A signal asks this program to end."""


class DelayLine:
    """Which packets are due, and which are lost: numbers and time in, numbers out.

    Numbers are those of the kernel, without the wrap at 2^32. Packets never overtake each other.
    """

    def __init__(
        self, delay_s: float, jitter_s: float = 0.0, loss: float = 0.0, seed: int = 0
    ) -> None:
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._random = random.Random(f"jitter {seed}")
        self._losses = losses(loss, seed)
        self.loses = loss > 0.0
        self._next_loss = next(self._losses)
        self._waiting: deque[tuple[float, int]] = deque()
        self.newest = 0
        self.lost = 0

    @property
    def empty(self) -> bool:
        return not self._waiting

    def arrived(self, newest: int, now_s: float) -> list[int]:
        """Packets up to this number have come; returns those of them that are lost."""
        if newest == self.newest:
            return []
        due_s = now_s + self._delay_s + self._random.uniform(-self._jitter_s, self._jitter_s)
        if self._waiting:
            due_s = max(due_s, self._waiting[-1][0])
        self._waiting.append((due_s, newest))
        self.newest = newest
        lost = []
        while self._next_loss <= newest:
            lost.append(self._next_loss)
            self._next_loss = next(self._losses)
        self.lost += len(lost)
        return lost

    def due(self, now_s: float) -> int | None:
        """The newest packet that may go on now, and all before it; None if none may."""
        number = None
        while self._waiting and self._waiting[0][0] <= now_s:
            number = self._waiting.popleft()[1]
        return number


def losses(loss: float, seed: int) -> Iterator[int]:
    """The numbers, from 1, of the packets that are lost when each is with probability `loss`."""
    chance, number = random.Random(f"loss {seed}"), 0
    while loss > 0.0:
        # The gaps between independent losses are geometric.
        gap = math.log(1.0 - chance.random()) / math.log1p(-loss) if loss < 1.0 else 0.0
        number += 1 + int(gap)
        yield number
    while True:
        yield 1 << 63


def unwrapped(before: int, counter: int) -> int:
    """A count that was `before`, from the 32 bits that the kernel tells of it."""
    return before + ((counter - before) & 0xFFFFFFFF)


def parse_duration_s(text: str) -> float:
    """'20ms', '0.5s' -> seconds. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if not found:
        raise ValueError(f"'{text}' is no duration: a number and us, ms or s, for example 20ms")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]


def parse_share(text: str) -> float:
    """'0.5%' -> 0.005. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if not found or float(found[1]) > 100.0:
        raise ValueError(f"'{text}' is no loss: a number from 0 to 100 and %, for example 0.5%")
    return float(found[1]) / 100.0


def attribute(kind: int, *values: bytes) -> bytes:
    """One netlink attribute, padded."""
    value = b"".join(values)
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, family: int, resource: int, *attributes: bytes) -> bytes:
    """One nfnetlink message; the resource is a queue number or a subsystem."""
    body = struct.pack("!BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 0, 0) + body


def _be32(value: int) -> bytes:
    return struct.pack("!i", value)


def rule(queue: int, interface_index: int, expression: bytes) -> bytes:
    """The transaction that makes the table with its one chain and one rule."""

    def named(name: bytes, *data: bytes) -> bytes:
        return attribute(1 | _NESTED, attribute(1, name), attribute(2 | _NESTED, *data))

    table = _TABLE % queue
    hook = attribute(4 | _NESTED, attribute(1, _be32(_LOCAL_IN)), attribute(2, _be32(0)))
    on_interface = [
        named(b"meta\0", attribute(1, _be32(1)), attribute(2, _be32(4))),  # register 1 = iif
        named(
            b"cmp\0",
            attribute(1, _be32(1)),
            attribute(2, _be32(0)),
            attribute(3 | _NESTED, attribute(1, struct.pack("=I", interface_index))),
        ),
    ]
    name, _, data = expression.partition(b"\0")
    expressions = attribute(4 | _NESTED, *on_interface, named(name + b"\0", data))
    chain = (attribute(1, table), attribute(3, _CHAIN), hook, attribute(7, b"filter\0"))
    new, family = _ACK | _CREATE, _BOTH_FAMILIES
    return b"".join(
        [
            message(_BATCH_BEGIN, 0, 0, 10),
            message(_NEW_TABLE, new, family, 0, attribute(1, table), attribute(2, _be32(_OWNED))),
            message(_NEW_CHAIN, new, family, 0, *chain),
            message(
                _NEW_RULE, new, family, 0, attribute(1, table), attribute(2, _CHAIN), expressions
            ),
            message(_BATCH_END, 0, 0, 10),
        ]
    )


def queue_expressions(queue: int) -> Iterator[bytes]:
    """nft's own way to queue, and that of iptables for kernels that only have this one."""
    yield b"queue\0" + b"".join(
        attribute(kind, struct.pack("!H", value))
        for kind, value in ((1, queue), (2, 1), (3, _BYPASS))
    )
    target = struct.pack("=HHHxx", queue, 1, _BYPASS)
    yield b"target\0" + attribute(1, b"NFQUEUE\0") + attribute(2, _be32(3)) + attribute(3, target)


def errors_of(answer: bytes) -> list[int]:
    """The errno of each acknowledgement in what the kernel answered; 0 is success."""
    found, offset = [], 0
    while offset + 16 <= len(answer):
        size, kind = struct.unpack_from("=IH", answer, offset)
        if kind == 2:  # NLMSG_ERROR
            found.append(-struct.unpack_from("=i", answer, offset + 16)[0])
        offset += (max(size, 16) + 3) & ~3
    return found


def ask(netlink: socket.socket, request: bytes, answers: int) -> None:
    """Send a request that is acknowledged so often; raises OSError with the first error."""
    netlink.send(request)
    came: list[int] = []
    while len(came) < answers:
        came += errors_of(netlink.recv(1 << 16))
        for code in came:
            if code:
                raise OSError(code, os.strerror(code))


class Queue:
    """One netfilter queue that holds what arrives on an interface, while the block lasts.

    Args:
        interface: its name.
        packets: how many may wait at once.
        single: take frames apart that the kernel has put together (GSO), so that each is lost by
            itself; costs time.

    Raises:
        ValueError: (on entering) there is no such interface.
        Refused: (on entering) no right to do it, or not with this kernel.
    """

    def __init__(self, interface: str, packets: int, single: bool) -> None:
        self._interface = interface
        self._packets = packets
        self._single = single

    def __enter__(self) -> "Queue":
        try:
            self._index = socket.if_nametoindex(self._interface)
        except OSError:
            raise ValueError(f"there is no interface '{self._interface}'") from None
        self.number = self._index & 0xFFFF  # one queue for each interface
        self._verdicts, self._rule = _netfilter(), _netfilter()
        try:
            self._bind()
            self._add_rule()
            self._counters = os.open(_QUEUES, os.O_RDONLY)
        except BaseException:
            self._rule.close()
            self._verdicts.close()
            raise
        self._newest = 0
        return self

    def __exit__(self, *_: object) -> None:
        # In this order: when a rule goes, the kernel drops what waits in queues.
        self.accept(self.newest())
        self._rule.close()
        self._verdicts.close()
        os.close(self._counters)

    def _bind(self) -> None:
        def config(*attributes: bytes) -> bytes:
            return message(_CONFIG, _ACK, 0, self.number, *attributes)

        try:
            ask(self._verdicts, config(attribute(1, struct.pack("!BxH", _BIND, 0))), 1)
        except OSError as error:
            raise Refused(self._why_not(error)) from error
        keep_gso = 0 if self._single else _KEEP_GSO
        flags = attribute(5, _be32(keep_gso)), attribute(4, _be32(_KEEP_GSO))
        settings = (
            attribute(2, struct.pack("!IB", 0, _COPY_META)),
            attribute(3, _be32(self._packets)),
        )
        ask(self._verdicts, config(*settings, *flags), 1)
        self._verdicts.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, NOTICES_BYTES)
        self._verdicts.setblocking(False)
        self._hear(False)

    def _why_not(self, error: OSError) -> str:
        if error.errno == errno.EPERM and self._is_taken():
            name = self._interface
            return f"another process holds the packets of {name}; 'shape {name} --clear' ends it"
        if error.errno == errno.EPERM:
            return "holding packets needs root, or the capability NET_ADMIN"
        return f"this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE): {error}"

    def _is_taken(self) -> bool:
        with open(_QUEUES, "rb") as queues:
            return any(int(line.split()[0]) == self.number for line in queues)

    def _hear(self, notices: bool) -> None:
        """Whether the kernel's notices of packets arrive at the socket, or are thrown away."""
        # A filter of one instruction: keep that many bytes of each.
        keep = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF if notices else 0)
        instruction = ctypes.create_string_buffer(keep)
        program = struct.pack("@HP", 1, ctypes.addressof(instruction))
        self._verdicts.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def wait_for_packet(self, seen: int, timeout_s: float) -> None:
        """Sleep until a packet has come after those that were seen, or for so long."""
        self._hear(True)
        if self.newest() == seen:  # else it came before we listened
            select.select([self._verdicts], [], [], timeout_s)
        self._hear(False)
        try:
            while True:
                self._verdicts.recv(1 << 12)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    def _add_rule(self) -> None:
        for expression in queue_expressions(self.number):
            try:
                ask(self._rule, rule(self.number, self._index, expression), 3)
                return
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise Refused(f"the kernel refused the nf_tables rule: {error}") from error
        raise Refused(
            "this kernel's nf_tables can hand no packets to a queue (nft_queue, nft_compat)"
        )

    def _fields(self) -> list[int]:
        """queue, owner, waiting, mode, range, dropped when full, dropped otherwise, newest."""
        for line in os.pread(self._counters, 1 << 16, 0).splitlines():
            fields = line.split()
            if int(fields[0]) == self.number:
                return [int(field) for field in fields]
        raise Refused("the queue is gone")

    def newest(self) -> int:
        """How many packets have come so far."""
        self._newest = unwrapped(self._newest, self._fields()[7])
        return self._newest

    def dropped(self) -> int:
        """How many were lost because the queue was full."""
        return self._fields()[5]

    def is_there(self) -> bool:
        try:
            return socket.if_nametoindex(self._interface) == self._index
        except OSError:
            return False

    def accept(self, number: int) -> None:
        """Let all packets up to this one go on."""
        self._verdicts.send(self._verdict(_VERDICT_BATCH, _ACCEPT, number))

    def drop(self, numbers: list[int]) -> None:
        """Lose these packets."""
        if numbers:
            self._verdicts.send(b"".join(self._verdict(_VERDICT, _DROP, n) for n in numbers))

    def _verdict(self, kind: int, verdict: int, number: int) -> bytes:
        header = struct.pack("!II", verdict, number & 0xFFFFFFFF)
        return message(kind, 0, 0, self.number, attribute(2, header))


def _netfilter() -> socket.socket:
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    except (AttributeError, OSError) as error:
        raise Refused(f"this system has no netfilter queues: {error}") from error
    netlink.bind((0, 0))
    netlink.settimeout(5.0)
    return netlink


def tick_s(delay_s: float) -> float:
    """How often verdicts are given: a packet may come so much too late."""
    return min(max(delay_s / TICKS_PER_DELAY, SMALLEST_TICK_S), LARGEST_TICK_S)


def hold(queue: Queue, line: DelayLine, every_s: float) -> None:
    """Give verdicts until the interface is gone."""
    due_s = watch_s = time.monotonic()
    while True:
        if line.empty:
            queue.wait_for_packet(line.newest, WATCH_S)
        now_s = time.monotonic()
        queue.drop(line.arrived(queue.newest(), now_s))
        if (number := line.due(now_s)) is not None:
            queue.accept(number)
        if now_s >= watch_s:
            if not queue.is_there():
                return
            watch_s = now_s + WATCH_S
        due_s = max(due_s + every_s, now_s)
        time.sleep(max(0.0, due_s - time.monotonic()))


def _stop_on_signals() -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:  # the clearing away is not stopped by a second one
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    for number in signals:
        signal.signal(number, stop)


def _go_to_background() -> None:
    """The rest is done by a child without a terminal; the caller sees this process end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="hold.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("interface")
    parser.add_argument("--delay", default="0ms", help="for example 20ms")
    parser.add_argument(
        "--jitter", default="0ms", help="up to so much more or less; never reorders"
    )
    parser.add_argument("--loss", default="0%", help="for example 0.5%%")
    parser.add_argument("--seed", type=int, default=0, help="which packets are lost (default: 0)")
    parser.add_argument("--queue", type=int, default=QUEUE_PACKETS, help="packets, at most")
    parser.add_argument("--background", action="store_true", help="come back when packets are held")
    arguments = parser.parse_args()
    try:
        delay_s, jitter_s = parse_duration_s(arguments.delay), parse_duration_s(arguments.jitter)
        if arguments.queue < 1:
            raise ValueError("--queue takes a number of packets, at least 1")
        line = DelayLine(delay_s, jitter_s, parse_share(arguments.loss), arguments.seed)
        _stop_on_signals()
        with Queue(arguments.interface, arguments.queue, single=line.loses) as queue:
            print(f"holding {arguments.interface}", flush=True)
            if arguments.background:
                _go_to_background()
            try:
                hold(queue, line, tick_s(delay_s))
            except Stopped:
                full = queue.dropped()
                print(f"{line.newest} packets, {line.lost} lost, {full} because of a full queue")
    except (ValueError, Refused) as error:
        print(f"hold.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except Stopped:
        return 1  # before it held anything
    return 0


if __name__ == "__main__":
    sys.exit(main())
