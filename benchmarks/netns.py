"""A small internet in this kernel: hosts that are network namespaces, on one bridge.

    with Lab(hosts=2) as lab:
        server = lab.popen(0, ["python3", "-m", "http.server", "--bind", lab.address(0)])
        ...
        sent_bytes, received_bytes = lab.counters(0)

Each host has one interface, the inner end of a veth pair. Its outer end stays in the namespace that
the lab was made from, on the bridge, where the kernel counts what the host sends and receives.
Needs root and iproute2, and nothing else.

`Lab(hosts=4, rate_mbit=50)` gives every host a link of that rate, out and in, and measures it with
a real transfer before anybody may use it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from types import FrameType, TracebackType
from typing import Any, Self

from protocol.errors import UnavailableError

_NUMBERS = count()
MAX_HOSTS = 99
STOP_S = 5.0
"""How long a process has to end by itself."""
_COMMAND_S = 30.0

BURST_KB = 64
QUEUE_MS = 200
"""What waits longer than this for a shaped link is dropped, as in the buffer of a home router."""
TOLERANCE = 0.1
"""A shaped link whose measured rate is off by a larger share is refused."""
_WARM_UP_S = 1.0
_WINDOWS, _WINDOW_S = 3, 1.0
"""A link's rate is its median over these: now and then TCP takes a breath for half a second."""

# Refused: the packet went there and back. Anything else means that it was dropped.
_KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=3)
except ConnectionRefusedError:
    pass
"""

# Sends to the next host as fast as it can, and reads what comes: argv is own and next address.
_LOAD = """
import socket, sys, threading, time
server = socket.create_server((sys.argv[1], 9))
def drain():
    connection, _ = server.accept()
    while connection.recv(1 << 20):
        pass
threading.Thread(target=drain, daemon=True).start()
while True:
    try:
        connection = socket.create_connection((sys.argv[2], 9))
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
while True:
    connection.sendall(bytes(1 << 16))
"""


class Lab:
    """Hosts 0 to N-1 in 10.77.<n>.0/24. Everything is removed when the block is left.

    That includes an exception, SIGINT, SIGTERM and SIGHUP (the last two then raise SystemExit in
    the main thread); only SIGKILL leaves namespaces behind, whose names say which process made
    them.

    Args:
        hosts: how many.
        rate_mbit: of every host's link, in each direction; None leaves them as fast as the kernel.

    Raises:
        UnavailableError: (on entering) this machine does not let us make one, or a link does not
            carry its rate, and why.
    """

    def __init__(self, hosts: int, rate_mbit: float | None = None) -> None:
        assert 1 <= hosts <= MAX_HOSTS
        assert rate_mbit is None or hosts > 1, "a link is measured by what another host receives"
        self.hosts = hosts
        self.rate_mbit = rate_mbit
        self.links = "links are not shaped"
        """How they are shaped and what was measured, in words for the reader of a benchmark."""
        self._number = next(_NUMBERS) % 100
        self._prefix = f"dl{os.getpid()}-{self._number}"  # at most 12 of the 15 characters
        self._handlers = ExitStack()
        self._undo = ExitStack()
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        reason = unavailable()
        if reason is None and self.rate_mbit is not None and shutil.which("tc") is None:
            reason = "the command 'tc' (iproute2) is not installed"
        if reason is not None:
            raise UnavailableError(reason)
        try:
            self._handlers.enter_context(signals_raise())
            self._undo.callback(self._remove_devices)
            self._make()
            self._undo.callback(self._stop_processes)
            self._check()
            if self.rate_mbit is not None:
                self._shape(self.rate_mbit)
                self._verify(self.rate_mbit)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def address(self, host: int) -> str:
        return f"10.77.{self._number}.{host + 1}"

    def namespace(self, host: int) -> str:
        """Its name for `ip netns`."""
        return f"diloco-{self._prefix}-{host}"

    def interface(self, host: int) -> str:
        """The outer end of the host's cable, in the namespace that the lab was made from."""
        return f"{self._prefix}v{host}"

    def popen(self, host: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on a host, as subprocess.Popen does. The lab ends it when it is left.

        The pid is that of the process itself; children of it are its own business.
        """
        command = ["ip", "netns", "exec", self.namespace(host), *argv]
        process = subprocess.Popen(command, **options)
        self._processes.append(process)
        return process

    def unplug(self, host: int) -> None:
        """Pull the host's cable: nothing goes in or out any more, and nobody is told."""
        _ip("link", "set", self.interface(host), "down")

    def plug(self, host: int) -> None:
        """Put the cable back."""
        _ip("link", "set", self.interface(host), "up")

    def counters(self, host: int) -> tuple[int, int]:
        """(sent, received) by a host so far: bytes of Ethernet frames, 14 of header included."""
        statistics = Path("/sys/class/net", self.interface(host), "statistics")
        # What the host sends is received by the outer end.
        sent, received = statistics / "rx_bytes", statistics / "tx_bytes"
        return int(sent.read_text()), int(received.read_text())

    def _make(self) -> None:
        bridge = f"{self._prefix}b"
        _ip("link", "add", bridge, "type", "bridge")
        _quiet(bridge)
        _ip("link", "set", bridge, "up")
        for host in range(self.hosts):
            name, outer = self.namespace(host), self.interface(host)
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _quiet(outer)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            # Frames of the size that a real card sends: else the kernel hands 64 KiB at a time over
            # the cable and counts one header for all of it.
            _ip("-n", name, "link", "set", "eth0", "gso_max_segs", "1", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def _check(self) -> None:
        if self.hosts < 2:
            return
        knock = [sys.executable, "-c", _KNOCK, self.address(1)]
        try:
            _run(["ip", "netns", "exec", self.namespace(0), *knock])
        except UnavailableError as error:
            raise UnavailableError(
                "hosts on one bridge cannot reach each other here; a firewall that also filters"
                " bridged packets does that (net.bridge.bridge-nf-call-iptables with Docker's"
                f" FORWARD policy): {error}"
            ) from error

    def _shape(self, rate_mbit: float) -> None:
        """A token bucket on each host's way out, and one on the bridge's way to it."""
        tbf = ["root", "tbf", "rate", f"{rate_mbit}mbit"]
        tbf += ["burst", f"{BURST_KB}kb", "latency", f"{QUEUE_MS}ms"]
        for host in range(self.hosts):
            _run(["tc", "-n", self.namespace(host), "qdisc", "add", "dev", "eth0", *tbf])
            _run(["tc", "qdisc", "add", "dev", self.interface(host), *tbf])

    def _verify(self, rate_mbit: float) -> None:
        """Load every link in both directions at once, each host sending to the next one."""
        loads = []
        for host in range(self.hosts):
            following = (host + 1) % self.hosts
            argv = [sys.executable, "-c", _LOAD, self.address(host), self.address(following)]
            loads.append(self.popen(host, argv, stderr=subprocess.DEVNULL))
        try:
            self._wait_for_load(rate_mbit * 1e6 / 8 * _WARM_UP_S)
            windows = [self._measure_mbit() for _ in range(_WINDOWS)]
        finally:
            for load in loads:
                load.kill()
                load.wait()
                self._processes.remove(load)
        measured = [  # for each host (out, in)
            [median(rates) for rates in zip(*samples, strict=True)]
            for samples in zip(*windows, strict=True)
        ]
        for host, rates in enumerate(measured):
            for direction, mbit in zip(("out", "in"), rates, strict=True):
                if abs(mbit - rate_mbit) > TOLERANCE * rate_mbit:
                    raise UnavailableError(
                        f"the link of host {host} was shaped to {rate_mbit:g} mbit and carries"
                        f" {mbit:.1f} mbit {direction}"
                    )
        congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        spans = [f"{min(rates):.1f} to {max(rates):.1f}" for rates in zip(*measured, strict=True)]
        self.links = (
            f"links are shaped to {rate_mbit:g} mbit out and in by tbf (burst {BURST_KB} KiB, queue"
            f" {QUEUE_MS} ms, no delay added; congestion control {congestion}); measured"
            f" {spans[0]} mbit out, {spans[1]} in"
        )

    def _wait_for_load(self, size_bytes: float) -> None:
        """Wait until so much has gone over every link, both ways, or for _COMMAND_S."""
        deadline_s = time.monotonic() + _COMMAND_S
        while time.monotonic() < deadline_s:
            if all(min(self.counters(host)) > size_bytes for host in range(self.hosts)):
                return
            time.sleep(0.05)

    def _measure_mbit(self) -> list[tuple[float, float]]:
        """What each host sends and receives now."""
        hosts = range(self.hosts)
        before, began_s = [self.counters(host) for host in hosts], time.monotonic()
        time.sleep(_WINDOW_S)
        after, ended_s = [self.counters(host) for host in hosts], time.monotonic()
        mbit_per_byte = 8 / 1e6 / (ended_s - began_s)
        return [
            ((sent - sent_before) * mbit_per_byte, (received - received_before) * mbit_per_byte)
            for (sent_before, received_before), (sent, received) in zip(before, after, strict=True)
        ]

    def _close(self) -> None:
        with self._handlers, _signals_wait():
            self._undo.close()

    def _stop_processes(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _remove_devices(self) -> None:
        """Remove what is there of it; making it may have stopped half-way."""
        devices = [self.interface(host) for host in range(self.hosts)]
        for device in (*devices, f"{self._prefix}b"):
            if Path("/sys/class/net", device).exists():
                _ip("link", "delete", device)
        for host in range(self.hosts):
            if Path("/run/netns", self.namespace(host)).exists():
                _ip("netns", "delete", self.namespace(host))


def unavailable() -> str | None:
    """Why no lab can be made here; None when nothing speaks against it."""
    if not sys.platform.startswith("linux"):
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the command 'ip' (iproute2) is not installed"
    return None


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise UnavailableError(f"'{' '.join(command[:6])}' failed: {said}")


def _quiet(device: str) -> None:
    """No IPv6 on it: its router solicitations would be counted as a host's traffic."""
    switch = Path("/proc/sys/net/ipv6/conf", device, "disable_ipv6")
    if switch.exists():
        switch.write_text("1")


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like an exception does, as SIGINT does anyway."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handlers(leave, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A second Ctrl-C does not stop the clearing away; what came meanwhile takes effect after."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    came: list[int] = []
    with _handlers(lambda number, frame: came.append(number), *signals):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def _handlers(
    handler: Callable[[int, FrameType | None], object], *signals: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers, and only it gets the signals
        return
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)
