"""Links of a lab: made by docker/shape, and measured before anybody may use them.

A host without limits, the gauge, is at the other end of every measurement, so that each link is
measured by itself, whatever the others carry.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.wan.namespaces import run
from benchmarks.wan.sampler import MBIT_BYTES, SAMPLE_S, Sampler, Traffic
from protocol.errors import UnavailableError

if TYPE_CHECKING:
    from benchmarks.wan.lab import Lab

SHAPE = str(Path(__file__).parents[2] / "docker" / "shape")
PROBE = str(Path(__file__).with_name("probe.py"))
TOLERANCE = 0.1
"""A link whose measured rate is off by a larger share is refused."""
LATE_MS = 2.0
"""A round trip may take so much longer, besides TOLERANCE: verdicts are given by the tick."""
EXCHANGES = 20
DATAGRAMS = 2000
WARM_UP_S = 1.0
WINDOWS, WINDOW_S = 3, 1.0
"""A link's rate is its median over these: now and then TCP takes a breath for half a second."""
PATIENCE_S = 20.0
"""How long a link may take to fill, and to run empty afterwards."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of every host: the rate of its link in each direction, half of the delay, the losses."""

    rates_mbit: tuple[float, ...] | None
    delay_ms: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a lab's links turned out to be."""

    out_mbit: tuple[float, ...] = ()
    in_mbit: tuple[float, ...] = ()
    at_once: bool = True
    """Every link loaded in both directions at the same time; else one link after the other."""
    at_once_mbit: tuple[float, float] = (0.0, 0.0)
    """The slowest and the fastest direction of a link when all were loaded."""
    round_trip_ms: tuple[float, float] | None = None
    """Of a TCP exchange between two hosts: the fastest, the median."""
    lost: float | None = None
    """Share of datagrams that did not arrive."""


class Probe:
    """probe.py on one host of a lab."""

    def __init__(self, lab: "Lab", host: int) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        argv = [sys.executable, PROBE, lab.address(host)]
        self._process = lab.popen(host, argv, text=True, **pipes)
        self._answer()

    def ask(self, *words: object) -> Any:
        """Raises UnavailableError with what the probe complained of."""
        assert self._process.stdin
        print(*words, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout and self._process.stderr
        if line := self._process.stdout.readline():
            return json.loads(line)
        said = self._process.stderr.read().strip().rpartition("\n")[2]
        raise UnavailableError(f"a link could not be measured: {said}")

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def shape(lab: "Lab", wanted: Wanted) -> str:
    """A bucket on each host's way out and one on the switch's way to it; delay on its way in.

    Returns what docker/shape says of the last host.
    """
    said = ""
    far = _far(wanted)
    for host in range(lab.hosts):
        rate: list[str] = []
        if wanted.rates_mbit is not None:
            rate = ["--up", f"{wanted.rates_mbit[host]:g}mbit"]
            _inside(lab.switch, lab.interface(host), *rate)
        if rate or far:
            said = _inside(lab.namespace(host), "eth0", *rate, *far)
    if far:
        _inside(lab.namespace(lab.gauge), "eth0", *far)
    return said


def check(namespace: str, wanted: Wanted) -> None:
    """Raises UnavailableError if a namespace no longer has the delay and loss that it was given."""
    said = _inside(namespace, "eth0", "--show")
    if _far(wanted) and not re.search(r"delay .*\((netem|held verdicts)", said):
        raise UnavailableError(f"the delay and loss of {namespace} are gone: {said.strip()}")


def clear(namespace: str) -> None:
    """End what keeps running inside a namespace for its delay and loss."""
    _inside(namespace, "eth0", "--clear")


def _inside(namespace: str, *arguments: str) -> str:
    return run("ip", "netns", "exec", namespace, sys.executable, SHAPE, *arguments)


def _far(wanted: Wanted) -> list[str]:
    if not wanted.delay_ms and not wanted.loss:
        return []
    return ["--delay", f"{wanted.delay_ms / 2:g}ms", "--loss", f"{wanted.loss * 100:g}%"]


def make(lab: "Lab", wanted: Wanted) -> tuple[Measured, str]:
    """Shape the links and measure them; also says in words how, for the reader of a benchmark.

    Rates and round trip are measured without the loss: TCP is not to blame for what it does then.

    Raises:
        UnavailableError: a link is not what it was shaped to, or cannot be shaped.
    """
    said = shape(lab, replace(wanted, loss=0.0))
    with ExitStack() as probing:
        probes = []
        for host in range(lab.hosts + 1):
            probes.append(Probe(lab, host))
            probing.callback(probes[-1].end)
        measured = Measured()
        if wanted.delay_ms:
            measured = replace(measured, round_trip_ms=_round_trip_ms(lab, probes, wanted.delay_ms))
        if wanted.rates_mbit is not None:
            measured = _measure_rates(lab, probes, wanted.rates_mbit, measured)
        if wanted.loss:
            said = shape(lab, wanted)
            measured = replace(measured, lost=_lost(lab, probes))
    return measured, in_words(wanted, measured, said)


def _round_trip_ms(lab: "Lab", probes: Sequence[Probe], delay_ms: float) -> tuple[float, float]:
    """Fastest and median of the exchanges of each host with the next one."""
    all_ms: list[float] = []
    for host in range(lab.hosts):
        partner = (host + 1) % lab.hosts if lab.hosts > 1 else lab.gauge
        taken_s = probes[host].ask("exchange", lab.address(partner), EXCHANGES)
        fastest_ms = min(taken_s) * 1e3
        if not delay_ms <= fastest_ms <= delay_ms * (1.0 + TOLERANCE) + LATE_MS:
            raise UnavailableError(
                f"the round trip of host {host} was set to {delay_ms:g} ms, and the fastest of"
                f" {EXCHANGES} exchanges over TCP takes {fastest_ms:.1f} ms"
            )
        all_ms += [each_s * 1e3 for each_s in taken_s]
    return min(all_ms), median(all_ms)


def _measure_rates(
    lab: "Lab", probes: Sequence[Probe], rates_mbit: Sequence[float], measured: Measured
) -> Measured:
    """All links at once, or, where this machine cannot carry that, one after the other."""
    hosts = range(lab.hosts)
    loaded = _loaded_mbit(lab, probes, rates_mbit, hosts)
    at_once = _what_is_wrong(loaded, rates_mbit) is None
    if not at_once:
        each = [_loaded_mbit(lab, probes, rates_mbit, [host])[host] for host in hosts]
        if wrong := _what_is_wrong(np.array(each), rates_mbit):
            raise UnavailableError(wrong)
    else:
        each = list(loaded)
    out_mbit, in_mbit = (tuple(float(rate) for rate in way) for way in zip(*each, strict=True))
    return replace(
        measured,
        out_mbit=out_mbit,
        in_mbit=in_mbit,
        at_once_mbit=(float(loaded.min()), float(loaded.max())),
        at_once=at_once,
    )


def _what_is_wrong(
    loaded_mbit: NDArray[np.float64],  # (hosts, 2) out, in
    rates_mbit: Sequence[float],
) -> str | None:
    for host, (loaded, rate_mbit) in enumerate(zip(loaded_mbit, rates_mbit, strict=True)):
        for direction, mbit in zip(("out", "in"), loaded, strict=True):
            if abs(mbit - rate_mbit) > TOLERANCE * rate_mbit:
                return (
                    f"the link of host {host} was shaped to {rate_mbit:g} mbit and carries"
                    f" {mbit:.1f} mbit {direction}"
                )
    return None


def _loaded_mbit(
    lab: "Lab", probes: Sequence[Probe], rates_mbit: Sequence[float], hosts: Sequence[int]
) -> NDArray[np.float64]:  # (hosts of the lab, 2) out, in
    """What links carry while these hosts send all they can to the gauge, and the gauge to them."""
    with Sampler(lab.totals) as sampler:
        for host in hosts:
            probes[host].ask("load", lab.address(lab.gauge))
        enough = np.array([rates_mbit[host] * MBIT_BYTES * WARM_UP_S for host in hosts])
        _wait(lambda: (sampler.traffic().moved_bytes()[hosts] > enough[:, None]).all())
        began_s = time.monotonic()
        time.sleep(WINDOWS * WINDOW_S + 2 * SAMPLE_S)
        for host in hosts:
            probes[host].ask("rest")
        _wait(lambda: _is_quiet(sampler.traffic()))
    starts_s = [began_s + number * WINDOW_S for number in range(WINDOWS)]
    windows = [sampler.traffic().between(start_s, start_s + WINDOW_S) for start_s in starts_s]
    return np.median([window.mean_mbit() for window in windows], axis=0)


def _is_quiet(traffic: Traffic) -> bool:
    last = traffic.between(traffic.times_s[-1] - 3.5 * SAMPLE_S)
    return bool(len(last.times_s) > 2 and last.mean_mbit().max() < 0.1)


def _wait(holds: Callable[[], bool]) -> None:
    """Until it holds, or for PATIENCE_S; what is measured then says the rest."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(SAMPLE_S)


def _lost(lab: "Lab", probes: Sequence[Probe]) -> float:
    """Share of datagrams to the gauge that it never saw."""
    came = [probes[h].ask("datagrams", lab.address(lab.gauge), DATAGRAMS) for h in range(lab.hosts)]
    return 1.0 - sum(came) / (DATAGRAMS * lab.hosts)


def in_words(wanted: Wanted, measured: Measured, said: str) -> str:
    """One sentence for the reader of a benchmark; `said` comes from docker/shape."""
    parts = []
    if wanted.rates_mbit is not None:
        bucket = re.search(r"up \S+ \((.*?)\)", said)
        assert bucket, said
        by, alike = bucket[1], len(set(wanted.rates_mbit)) == 1
        rates = ", ".join(f"{rate:g}" for rate in wanted.rates_mbit[: 1 if alike else None])
        if not alike:
            by = re.sub(r"burst \S+ KiB, ", "", by)  # of the last host only
        out, back = (
            f"{min(way):.1f} to {max(way):.1f}" if alike else _listed(way)
            for way in (measured.out_mbit, measured.in_mbit)
        )
        slowest, fastest = measured.at_once_mbit
        how = "all loaded at once"
        if not measured.at_once:
            how = f"one loaded after the other (all at once: {slowest:.1f} to {fastest:.1f})"
        parts.append(f"links are shaped to {rates} mbit out and in by {by}")
        parts.append(f"measured with cubic {out} mbit out, {back} in, {how}")
    if wanted.delay_ms or wanted.loss:
        way = re.search(r"\((netem|held verdicts)", said)
        assert way, said
        far = [f"{wanted.delay_ms / 2:g} ms"] if wanted.delay_ms else []
        far += [f"{wanted.loss * 100:g} % loss"] if wanted.loss else []
        parts.append(f"{' and '.join(far)} on every way in ({way[1]})")
    if measured.round_trip_ms is not None:
        fastest, middle = measured.round_trip_ms
        parts.append(f"round trip over TCP {fastest:.1f} ms at best, {middle:.1f} in the median")
    if measured.lost is not None:
        parts.append(f"of {DATAGRAMS} datagrams a host {measured.lost * 100:.2f} % were lost")
    return "; ".join(parts) or "links are not shaped"


def _listed(rates_mbit: Sequence[float]) -> str:
    return ", ".join(f"{rate:.1f}" for rate in rates_mbit)
