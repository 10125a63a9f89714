"""Signals to the demo: its peers have sessions of their own, and none of them may stay behind."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.processes import COMMAND, Processes, children, is_alive
from peer.demo import PEERS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_all_its_peers(tmp_path: Path, number: signal.Signals) -> None:
    with Processes(tmp_path) as processes, _family_ended() as family:
        processes.start("demo", [*COMMAND, "demo", str(tmp_path / "runs")])

        def all_have_begun() -> bool:
            # Each peer has started its p2pd.
            family[:] = _descendants(processes.pid("demo"))
            return len(family) >= 2 * len(PEERS)

        processes.wait_until(all_have_begun, "four peers with their p2pd", "demo")
        processes.signal("demo", number)
        processes.wait_for("demo", "the peers are leaving")
        # make passes on what it got itself, and people press it twice.
        processes.signal("demo", number)
        processes.wait("demo")
        assert not [pid for pid in family if is_alive(pid)], processes.log("demo")


def _descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *_descendants(child))]


@contextmanager
def _family_ended() -> Iterator[list[int]]:
    family: list[int] = []
    try:
        yield family
    finally:
        for pid in filter(is_alive, family):
            os.kill(pid, signal.SIGKILL)
