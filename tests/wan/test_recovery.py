"""The measuring part of the recovery benchmark, with swarms whose behaviour is known."""

import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import recovery
from benchmarks.processes import Processes, Record
from benchmarks.recovery import Outcome, break_one, series, summary, table_of
from benchmarks.recovery_swarms import MANIFEST, Subject, steps_gone, torchft_version
from benchmarks.wan.lab import Lab
from benchmarks.wan.namespaces import unavailable
from protocol.errors import UnavailableError
from protocol.manifest import Manifest

needs_lab = pytest.mark.skipif(
    unavailable() is not None, reason=f"skipped, because {unavailable()}"
)

# Commits once a second, and sends 100 kB in between: argv is metrics, next address.
STEADY = """
import json, socket, sys, time
metrics = open(sys.argv[1], "w", buffering=1)
way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(1000):
    for _ in range(100):
        way.sendto(bytes(1000), (sys.argv[2], 9))
        time.sleep(0.01)
    metrics.write(json.dumps({"kind": "commit", "t": time.time(), "number": number}) + "\\n")
"""
# The same, and gives up with 5 when it has committed ten times.
SHORT = STEADY.replace("range(1000):\n", "range(10):\n") + "raise SystemExit(5)"


class StandIn(Subject):
    """Peers that do not need each other."""

    names = ("a", "b")
    program = STEADY

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.processes = Processes(folder, lab)
        self._records = {name: Record(folder / name) for name in self.names}

    def start(self) -> None:
        for name, other in zip(self.names, reversed(self.names), strict=True):
            metrics, address = self.processes.folder / name, self.processes.address(other)
            argv = [sys.executable, "-c", self.program, str(metrics), address]
            self.processes.start(name, argv)

    def commits(self, name: str) -> dict[int, float]:
        return {line["number"]: line["t"] for line in self._records[name].lines("commit")}

    def steps_lost(self, name: str) -> int:
        return 3

    def bytes_resent(self, name: str, since_s: float, in_flight_bytes: int) -> int | None:
        return in_flight_bytes


class GivesUp(StandIn):
    program = SHORT


@needs_lab
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_fault_comes_in_mid_transfer_and_the_next_commit_is_timed(tmp_path, number):
    with Lab(hosts=2) as lab, StandIn(tmp_path, lab) as swarm:
        swarm.start()
        outcome = break_one(lab, swarm, "b", number)
    assert outcome.interval_s == pytest.approx(1.05, abs=0.2)
    assert 0.5 <= outcome.transferred < 0.65
    assert 0.1 < outcome.next_commit_s < 1.0
    assert outcome.added_s < 0.3
    assert (outcome.followed, outcome.steps_lost) == (1, 3)
    assert 30_000 < outcome.bytes_resent < 90_000


@needs_lab
def test_a_repetition_that_fails_is_said_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(recovery, "COMMITS_BEFORE", 20)
    with Lab(hosts=2) as lab:
        assert series("stand-in", lab, GivesUp, "kill", 1) == []
    # Both give up after as many commits; which is seen first is the scheduler's choice.
    assert re.search("stand-in, kill 1: failed: [ab] ended with 5", capsys.readouterr().out)


def outcome(added_s: float, bytes_resent: int | None = None) -> Outcome:
    return Outcome(
        interval_s=5.0,
        transferred=0.5,
        next_commit_s=added_s + 2.5,
        added_s=added_s,
        followed=3,
        steps_lost=2,
        bytes_resent=bytes_resent,
    )


def test_the_summary_has_the_keys_that_were_promised_and_null_for_what_is_not_known():
    assert summary({}) == {
        "kill_added_median_s": None,
        "kill_added_worst_s": None,
        "kill_next_commit_median_s": None,
        "stop_added_median_s": None,
        "steps_lost": None,
        "bytes_resent": None,
    }
    kills, stops = [outcome(1.0), outcome(2.0, 500), outcome(9.0)], [outcome(4.0, 1500)]
    assert summary({"kill": kills, "stop": stops}) == {
        "kill_added_median_s": 2.0,
        "kill_added_worst_s": 9.0,
        "kill_next_commit_median_s": 4.5,
        "stop_added_median_s": 4.0,
        "steps_lost": 2.0,
        "bytes_resent": 1000.0,
    }


def test_the_table_has_a_row_for_each_fault():
    out = io.StringIO()
    results = {"ours": {"kill": [outcome(1.0)], "stop": []}, "torchft": {}}
    Console(width=90, file=out).print(table_of(results))
    assert "ours, 1 x kill" in out.getvalue() and "3.0 of 3" in out.getvalue()
    assert "ours, 0 x stop" in out.getvalue()


def round_line(t: float, tokens: int, **changes: object) -> dict:
    """A round that was told 1.5 s before it was decided, and whose roster came at once."""
    line = {"t": t, "fragment_id": 0, "empty": False, "contributors": ["me"]}
    line |= {"tokens": {"me": tokens}, "ready_s": 0.0, "exchange_s": 1.0, "apply_s": 0.5}
    return line | changes


def test_steps_that_were_not_contributed_are_counted():
    manifest = Manifest.from_toml(MANIFEST)
    each = manifest.tokens_per_step
    steps = [{"t": float(s), "step": 10 * s, "tokens": 10 * s * each} for s in range(60)]
    # Told at 10 and at 20 s, with 100 steps each.
    good = [round_line(11.5, 100 * each), round_line(21.5, 100 * each)]
    assert steps_gone(manifest, "me", steps, good) == 0
    # An empty round in between, whose steps the next one has: nothing is lost.
    empty = round_line(21.5, 0, empty=True)
    late = round_line(24.5, 130 * each)
    assert steps_gone(manifest, "me", steps, [good[0], empty, late]) == 0
    # The same, but the steps before the empty round were forgotten.
    forgotten = round_line(24.5, 30 * each)
    assert steps_gone(manifest, "me", steps, [good[0], empty, forgotten]) == 90
    # A checkpoint was loaded: the steps since it are gone.
    again = [*steps[:30], *({**line, "step": line["step"] - 40} for line in steps[30:])]
    assert steps_gone(manifest, "me", again, []) == 30


def test_torchft_is_missing_where_it_is_not_installed(tmp_path):
    with pytest.raises(UnavailableError, match="'make torchft-venv' installs it"):
        torchft_version(tmp_path)
    packages = tmp_path / "lib/python3.11/site-packages"
    (packages / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    (packages / "torchft_nightly-2026.10.26.dist-info").mkdir()
    assert torchft_version(tmp_path) == "torch 2.13.0+cpu, torchft-nightly 2026.10.26"


def test_without_namespaces_it_says_why_and_exits_with_0(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.wan.lab.unavailable", lambda: "network namespaces need root")
    monkeypatch.setattr(sys, "argv", ["recovery", "--only", "ours"])
    assert recovery.main() == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "skipped, because network namespaces need root"
    assert json.loads(last) == {"ours": summary({}), "torchft": summary({})}
