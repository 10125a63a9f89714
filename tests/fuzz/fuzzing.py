"""Feeds inputs to targets and notices what must not happen.

crash     an exception that the seam does not promise
hang      an input that takes more than HANG_S, twice: one that was merely unlucky is fed again
wrong     bytes that were believed although their digest or signature is not theirs, or that
          changed something although they were refused
growth    memory that is held after the inputs are gone, or far more of it at once than an input has
"""

import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest import mock

from tests.fuzz.target import Refused, Target

HANG_S: Final = 5.0
"""A thousand times what an input takes: other jobs may have the processor meanwhile."""
MAX_GROWTH_MB: Final = 64.0
"""Of one target, from a quarter of its inputs to the last: the allocator keeps some of it."""
MAX_AT_ONCE_MB: Final = 256.0
"""Of one input, which has a few MB at most."""
MAX_REASONS: Final = 256
MAX_SHOWN: Final = 5
"""Findings of one target that are kept; the others are counted."""
MINIMIZING_FEEDS: Final = 200
NOW_S: Final = 1_800_000_000.0
"""Unix time stands still: contacts stay fresh, and an input does tomorrow what it does today."""


class Hang(BaseException):
    """Raised into whatever is still running; no Exception, so that nothing there catches it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One input that showed something."""

    kind: str
    target: str
    place: int
    data: bytes
    why: str

    def text(self, seed: int) -> str:
        data = self.data.hex() if len(self.data) <= 512 else f"{self.data[:256].hex()}..."
        return (
            f"{self.kind.upper()} {self.target}: {self.why}\n"
            f"  again: python -m tests.fuzz --target {self.target} --seed {seed}"
            f" --replay {self.place}\n"
            f"  input: {len(self.data)} bytes, as far as that was found out: {data}"
        )


def reason_of(why: str) -> str:
    """What many inputs have in common: details stand behind a colon."""
    return why.split(":")[0]


@dataclass(slots=True)
class Tally:
    """What became of the inputs of one target."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    """Of findings, by kind."""
    findings: list[Finding] = field(default_factory=list)
    grown_mb: float = 0.0

    def refuse(self, why: str) -> None:
        # As a peer counts them (peer/grpc_server.py): without end nobody could be let to name them.
        reason = reason_of(why)
        known = reason in self.refused or len(self.refused) < MAX_REASONS
        self.refused[reason if known else "other reasons"] += 1

    def find(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        known = {(f.kind, reason_of(f.why)) for f in self.findings}
        if len(known) < MAX_SHOWN and (finding.kind, reason_of(finding.why)) not in known:
            self.findings.append(finding)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Everything is fuzzed inside of it: Unix time is NOW_S, and an alarm ends what hangs.

    Clocks that only measure go on.
    """
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        with mock.patch.object(time, "time", return_value=NOW_S):
            yield
    finally:
        signal.signal(signal.SIGALRM, before)
        gc.unfreeze()


def fuzz(target: Target, seed: int, inputs: int) -> Tally:
    """Feed the first so many inputs of a seed.

    Raises:
        AssertionError: a valid sample is not accepted, so that nothing could be learned.
    """
    tally = Tally(target.name)
    gc.freeze()  # what is there by now is not searched again and again
    for sample in target.samples:
        outcome, why = try_input(target, sample)
        assert outcome == "accepted", f"{target.name}: a valid sample is {outcome}: {why}"
    warm_mb = resident_mb()
    for place in range(inputs):
        if place == inputs // 4:
            warm_mb = resident_mb()
        _feed(target, seed, place, tally)
        tally.inputs += 1
    tally.grown_mb = max(0.0, resident_mb() - warm_mb)
    if tally.grown_mb > MAX_GROWTH_MB:
        why = f"{tally.grown_mb:.0f} MB more after the last three quarters of its inputs"
        tally.find(Finding("growth", target.name, 0, b"", why))
    return tally


def _feed(target: Target, seed: int, place: int, tally: Tally) -> None:
    data = target.input(seed, place)
    peak_mb = peak_rss_mb()
    outcome, why = try_input(target, data)
    if peak_rss_mb() > peak_mb + MAX_AT_ONCE_MB:
        outcome, why = "growth", f"more than {MAX_AT_ONCE_MB:.0f} MB at once"
    if outcome == "accepted":
        tally.accepted += 1
    elif outcome == "refused":
        tally.refuse(why)
    else:
        can_shrink = outcome in ("crash", "wrong")
        small = minimized(target, data, outcome, why) if can_shrink else data
        tally.find(Finding(outcome, target.name, place, small, why))


def try_input(target: Target, data: bytes) -> tuple[str, str]:
    """(what became of it, and why): accepted, refused, or the kind of a finding."""
    before = target.state()
    try:
        made = _feed_in_time(target, data)
        is_right = target.is_right(data, made)
    except Hang as hang:
        target.reset()
        return _hangs_again(target, data, "".join(traceback.format_tb(hang.__traceback__)[-1:]))
    except (*target.refusals, Refused) as error:
        if target.state() != before:
            target.reset()
            return "wrong", f"a refused input changed something ({error})"
        return "refused", getattr(error, "why", str(error))
    except Exception as error:
        target.reset()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}, line {last.lineno}, in {last.name}"
        return "crash", f"{type(error).__name__} at {where}: {str(error)[:120]}"
    target.reset()
    if is_right:
        return "accepted", ""
    return "wrong", "believed, and not what was signed or sealed"


def _hangs_again(target: Target, data: bytes, where: str) -> tuple[str, str]:
    """Once more: a machine that is busy, or was suspended, is no finding."""
    try:
        _feed_in_time(target, data)
    except Hang:
        target.reset()
        return "hang", f"more than {HANG_S:.0f} s, twice: {where.strip()}"
    except Exception as error:
        target.reset()
        return "refused", f"after a pause of the machine: {type(error).__name__}"
    target.reset()
    return "accepted", ""


def minimized(target: Target, data: bytes, outcome: str, why: str) -> bytes:
    """A shorter input that shows the same, as far as few tries find one."""
    size, feeds = (len(data) + 1) // 2, 0
    while size and feeds < MINIMIZING_FEEDS:
        at = 0
        while at < len(data) and feeds < MINIMIZING_FEEDS:
            shorter, feeds = data[:at] + data[at + size :], feeds + 1
            again, other = try_input(target, shorter)
            if (again, reason_of(other)) == (outcome, reason_of(why)):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _feed_in_time(target: Target, data: bytes) -> Any:
    """What the target makes of it; raises Hang when that takes too long."""
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        return target.feed(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _ring(number: int, frame: FrameType | None) -> None:
    raise Hang


def peak_rss_mb() -> float:
    """The most memory that this process has had; Linux counts it in KiB, macOS in bytes."""
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_mb() -> float:
    """What it has now."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_rss_mb()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
