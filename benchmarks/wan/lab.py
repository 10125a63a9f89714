"""A small internet in this kernel: hosts that are network namespaces, on one switch.

    with Lab(hosts=2) as lab:
        server = lab.popen(0, ["python3", "-m", "http.server", "--bind", lab.address(0)])
        ...
        sent_bytes, received_bytes = lab.counters(0)

Each host has one interface, eth0, the inner end of a veth pair. Its outer end is in a namespace of
the lab's own, on a bridge, where the kernel counts what the host sends and receives. Nothing of
this machine is changed, and its firewall has no say. Needs root and iproute2, and nothing else.

`Lab(hosts=4, rate_mbit=50, delay_ms=40)` gives every host a link of that rate, out and in, puts all
hosts 40 ms of round trip apart, and measures both before anybody may use them.

For a person:

    python -m benchmarks.wan.lab --hosts 4 --rate 50 --delay 40          # measure, say so, remove
    python -m benchmarks.wan.lab --hosts 2 --rate 10,50 -- bash          # a shell on host 0
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Any, Self

from benchmarks.wan import links
from benchmarks.wan.counters import Departures
from benchmarks.wan.namespaces import NAMESPACES, inside, ip, quiet, run, unavailable
from benchmarks.wan.sampler import MBIT_BYTES
from peer.signals import signals_raise, signals_wait
from protocol.errors import UnavailableError

_NUMBERS = count()
MAX_HOSTS = 99
STOP_S = 5.0
"""How long a process has to end by itself."""
FRAME_BYTES = 1514
PIECE_S, MAX_FRAMES = 0.001, 20


class Lab:
    """Hosts 0 to N-1 in 10.77.<n>.0/24. Everything is removed when the block is left.

    That includes an exception, SIGINT, SIGTERM and SIGHUP (the last two then raise SystemExit in
    the main thread); only SIGKILL leaves namespaces behind, whose names say which process made
    them.

    Args:
        hosts: how many.
        rate_mbit: of every host's link in each direction, or of each host's; None leaves them as
            fast as the kernel.
        delay_ms: of the round trip between any two hosts; half of it on every way in.
        loss: share of the packets that are lost on every way in, 0 to 1.

    Raises:
        UnavailableError: (on entering) this machine does not let us make one, or a link is not
            what it should be, and why.
    """

    def __init__(
        self,
        hosts: int,
        rate_mbit: float | Sequence[float] | None = None,
        delay_ms: float = 0.0,
        loss: float = 0.0,
    ) -> None:
        assert 1 <= hosts <= MAX_HOSTS and delay_ms >= 0.0 and 0.0 <= loss < 1.0
        rates = (rate_mbit,) * hosts if isinstance(rate_mbit, int | float) else rate_mbit
        assert rates is None or len(rates) == hosts, "one rate, or one for each host"
        self.hosts = hosts
        self.gauge = hosts
        """Number of one more host, without limits, while the links are measured."""
        self.links = "links are not shaped"
        """How they are shaped and what was measured, in words for the reader of a benchmark."""
        self.measured = links.Measured()
        self._wanted = links.Wanted(None if rates is None else tuple(rates), delay_ms, loss)
        self._number = next(_NUMBERS) % 100
        self._prefix = f"diloco-dl{os.getpid()}-{self._number}"
        self._handlers = ExitStack()
        self._undo = ExitStack()
        self._processes: list[subprocess.Popen[Any]] = []
        self._from_hosts: list[Departures] = []

    def __enter__(self) -> Self:
        shaped = self._wanted != links.Wanted(None)
        reason = unavailable()
        if reason is None and shutil.which("tc") is None:
            reason = "the command 'tc' (iproute2) is not installed"
        if reason is not None:
            raise UnavailableError(reason)
        try:
            self._handlers.enter_context(signals_raise())
            self._make_switch()
            for host in range(self.hosts):
                self._make_host(host)
            self._undo.callback(self._stop_processes)
            self._count()
            if shaped:
                self._make_links()
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
        return f"{self._prefix}-{host}"

    @property
    def switch(self) -> str:
        """Name of the namespace with the bridge, for `ip netns`."""
        return f"{self._prefix}-switch"

    def interface(self, host: int) -> str:
        """The outer end of the host's cable, in the switch."""
        return f"host{host}"

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
        ip("-n", self.switch, "link", "set", self.interface(host), "down")

    def plug(self, host: int) -> None:
        """Put the cable back."""
        ip("-n", self.switch, "link", "set", self.interface(host), "up")

    def counters(self, host: int) -> tuple[int, int]:
        """(sent, received) by a host so far: bytes of Ethernet frames, 14 of header included."""
        return self.totals()[host]

    def totals(self) -> list[tuple[int, int]]:
        """The counters of all hosts, read one right after the other."""
        received = self._to_hosts.read()
        return [
            (sent.read()["eth0"], received[self.interface(host)])
            for host, sent in enumerate(self._from_hosts)
        ]

    def check_links(self) -> None:
        """After a measurement: raises UnavailableError if a host's delay or loss is gone.

        Held verdicts are given by a process, and without it packets pass as if nothing were set.
        """
        for host in range(self.hosts):
            links.check(self.namespace(host), self._wanted)

    def _make_switch(self) -> None:
        self._add_namespace(self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        inside(self.switch, quiet)
        ip("-n", self.switch, "link", "set", "bridge", "up")

    def _make_host(self, host: int) -> None:
        name, outer = self.namespace(host), self.interface(host)
        self._add_namespace(name)
        inside(name, quiet)
        other_end = ["peer", "name", "eth0", "netns", name]
        ip("-n", self.switch, "link", "add", outer, "type", "veth", *other_end)
        ip("-n", self.switch, "link", "set", outer, "master", "bridge", "up")
        ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "gso_max_segs", str(self._frames_at_once(host)), "up")
        ip("-n", name, "link", "set", "lo", "up")
        # Cubic, as most machines have it, whatever this one has. BBR halts every connection for
        # 200 ms every 10 s, to measure, and what has gathered meanwhile then goes at once.
        link = [f"10.77.{self._number}.0/24", "dev", "eth0", "src", self.address(host)]
        ip("-n", name, "route", "replace", *link, "congctl", "cubic")

    def _frames_at_once(self, host: int) -> int:
        """How many frames the kernel may hand over together: no more than the link takes a
        millisecond for, so that others get their turn. Single ones cost this machine more time."""
        rates = self._wanted.rates_mbit
        if rates is None:
            return 1
        rate_mbit = max(rates) if host == self.gauge else rates[host]
        return max(1, min(MAX_FRAMES, int(rate_mbit * MBIT_BYTES * PIECE_S / FRAME_BYTES)))

    def _count(self) -> None:
        """From now on; an interface that is not shaped gets a queue that does nothing else."""
        self._to_hosts = Departures(self.switch)
        self._undo.callback(self._to_hosts.close)
        for host in range(self.hosts):
            if self._wanted.rates_mbit is None:
                ends = ((self.switch, self.interface(host)), (self.namespace(host), "eth0"))
                for namespace, interface in ends:
                    run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "pfifo")
            self._from_hosts.append(Departures(self.namespace(host)))
            self._undo.callback(self._from_hosts[-1].close)

    def _make_links(self) -> None:
        self._make_host(self.gauge)
        if self._wanted.delay_ms or self._wanted.loss:
            for host in range(self.hosts + 1):
                self._undo.callback(links.clear, self.namespace(host))
        self.measured, self.links = links.make(self, self._wanted)

    def _add_namespace(self, name: str) -> None:
        self._undo.callback(_delete_namespace, name)
        ip("netns", "add", name)

    def _close(self) -> None:
        with self._handlers, signals_wait():
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


@contextmanager
def lab_or_loopback(hosts: int, rate_mbit: float | Sequence[float]) -> Iterator[Lab | None]:
    """Shaped links for peers that have caps of their own; says how they are shaped.

    None where this machine lets us make none: then everything is on loopback, and it says why.
    """
    with ExitStack() as stack:
        lab: Lab | None = None
        try:
            lab = stack.enter_context(Lab(hosts, rate_mbit))
            print(lab.links, flush=True)
        except UnavailableError as error:
            print(f"on loopback, with nothing but the peers' own caps, because {error}", flush=True)
        yield lab


def _delete_namespace(name: str) -> None:
    """With what is in it; making it may have stopped half-way."""
    if (NAMESPACES / name).exists():
        ip("netns", "delete", name)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wan.lab",
        description="A small internet in this kernel: make it, measure it, use it, remove it.",
    )
    parser.add_argument("--hosts", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--rate", metavar="MBIT", help="of all, or one for each: 10,50")
    parser.add_argument("--delay", type=float, default=0.0, metavar="MS", help="of a round trip")
    parser.add_argument(
        "--loss", type=float, default=0.0, metavar="PERCENT", help="on every way in"
    )
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="runs on host 0")
    arguments = parser.parse_args()
    try:
        lab = _lab_of(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        with lab:
            print(f"{lab.hosts} hosts: {lab.links}", flush=True)
            if not arguments.command:
                return 0
            for host in range(lab.hosts):
                print(f"host {host}: {lab.address(host)}, ip netns exec {lab.namespace(host)} ...")
            sys.stdout.flush()
            return lab.popen(0, arguments.command).wait()
    except UnavailableError as error:
        print(f"no lab, because {error}", file=sys.stderr)
        return 1


def _lab_of(arguments: argparse.Namespace) -> Lab:
    """Raises ValueError with what is wrong with what was typed."""
    rates: list[float] | None = None
    if arguments.rate is not None:
        rates = [float(rate) for rate in arguments.rate.split(",")]
        rates = rates * arguments.hosts if len(rates) == 1 else rates
        if len(rates) != arguments.hosts or min(rates) <= 0:
            raise ValueError("--rate takes one rate for all hosts, or one for each, in mbit")
    if not 1 <= arguments.hosts <= MAX_HOSTS:
        raise ValueError(f"--hosts takes 1 to {MAX_HOSTS}")
    if arguments.delay < 0 or not 0 <= arguments.loss < 100:
        raise ValueError("--delay takes milliseconds, and --loss per cent, 0 to less than 100")
    return Lab(arguments.hosts, rates, arguments.delay, arguments.loss / 100)


if __name__ == "__main__":
    sys.exit(main())
