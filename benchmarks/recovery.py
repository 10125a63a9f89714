"""What does it cost the others when a peer dies, or freezes, in the middle of a transfer?

    python -m benchmarks.recovery                # ten times each, about 40 minutes
    python -m benchmarks.recovery --quick        # once each
    python -m benchmarks.recovery --only ours

Four peers train on links of 50 mbit. When half of what a round usually takes has left one of them,
it gets SIGKILL, or SIGSTOP and stays frozen. Measured from outside: byte counters of the virtual
network cards say where the transfer is, the peers' own records when they commit. Each repetition
breaks a new swarm, another peer in turn. The same for torchft's Streaming DiLoCo, with the same
model, fragments and links, in the environment that `make torchft-venv` builds. Prints a table and,
as the last line, JSON:

    {"ours": {"kill_added_median_s", "kill_added_worst_s", "kill_next_commit_median_s",
              "stop_added_median_s", "steps_lost", "bytes_resent"}, "torchft": {the same}}

`next_commit` is the time from the fault until the first survivor commits, `added` how much later
that is than planned: one median interval after the commit before, as measured in that swarm.
`steps_lost` and `bytes_resent` are sums over the survivors, means over all faults; null where
nobody counts them. Needs root and iproute2; says so and has only nulls without.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from benchmarks.recovery_swarms import (
    HOSTS,
    PEERS,
    RATE_MBIT,
    ROOT,
    Ours,
    Subject,
    Torchft,
    torchft_version,
)
from benchmarks.wan.lab import Lab
from protocol.errors import UnavailableError

COMMITS_BEFORE = 4
"""Everybody has committed so often before the fault: the first start-up is no measure."""
WATCH_S = 0.02
FOLLOW_S = 10.0
"""How long the other survivors are waited for once the first has committed."""
FAULTS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault. Times in seconds."""

    interval_s: float
    """Between two commits before it, the median."""
    transferred: float
    """Share of a round's bytes that the victim had sent."""
    next_commit_s: float
    added_s: float
    followed: int
    """Survivors that had this commit, or a later one, FOLLOW_S after the first."""
    steps_lost: int
    bytes_resent: int | None


class Transfers:
    """What each peer has sent since its last commit, as the network cards count it."""

    def __init__(self, lab: Lab, subject: Subject) -> None:
        self._lab = lab
        self._subject = subject
        self._commits = dict.fromkeys(subject.names, 0)
        self._sent_at_commit: dict[str, list[int]] = {name: [] for name in subject.names}

    def update(self) -> None:
        """Look for new commits; call it often."""
        for name in self._subject.names:
            commits = len(self._subject.commits(name))
            if commits > self._commits[name]:
                self._commits[name] = commits
                self._sent_at_commit[name].append(self._sent(name))

    def all_committed(self, times: int) -> bool:
        return min(self._commits.values()) >= times

    def since_commit(self, name: str) -> int:
        """Bytes."""
        return self._sent(name) - self._sent_at_commit[name][-1]

    def share(self, name: str) -> float:
        """The same as a share of what the peer usually sends between two commits."""
        totals = self._sent_at_commit[name]
        usual = median(b - a for a, b in pairwise(totals))
        return self.since_commit(name) / usual

    def _sent(self, name: str) -> int:
        return self._lab.counters(self._subject.processes.host(name))[0]


def break_one(lab: Lab, subject: Subject, victim: str, number: signal.Signals) -> Outcome:
    """Let a running swarm commit a few times, send a signal in mid-transfer, and see what follows.

    Raises:
        UnavailableError: a survivor ended, or nobody committed any more.
    """
    transfers = Transfers(lab, subject)
    survivors = [name for name in subject.names if name != victim]

    def wait_until(holds: Callable[[], bool], what: str, names: Sequence[str]) -> None:
        def holds_now() -> bool:
            transfers.update()
            return holds()

        subject.processes.wait_until(holds_now, what, *names, poll_s=WATCH_S)

    wait_until(lambda: transfers.all_committed(COMMITS_BEFORE), "the first commits", subject.names)
    wait_until(lambda: transfers.share(victim) >= 0.5, "half of a transfer", subject.names)
    transferred = transfers.share(victim)
    in_flight = {name: transfers.since_commit(name) for name in survivors}
    before = first_commits(subject, survivors)
    fault_s = time.time()
    subject.processes.signal(victim, number)

    last = max(before)
    wait_until(
        lambda: any(max(subject.commits(name)) > last for name in survivors),
        "a commit of the survivors",
        survivors,
    )
    after = first_commits(subject, survivors)
    next_s = min(after[commit] for commit in after if commit > last)
    while time.time() < next_s + FOLLOW_S:
        if followers(subject, survivors, last) == len(survivors):
            break
        time.sleep(WATCH_S)
    resent = [subject.bytes_resent(name, fault_s, in_flight[name]) for name in survivors]
    times = sorted(before.values())
    interval_s = median(b - a for a, b in pairwise(times))
    return Outcome(
        interval_s=interval_s,
        transferred=transferred,
        next_commit_s=next_s - fault_s,
        added_s=max(0.0, next_s - (before[last] + interval_s)),
        followed=followers(subject, survivors, last),
        steps_lost=sum(subject.steps_lost(name) for name in survivors),
        bytes_resent=None if None in resent else sum(size or 0 for size in resent),
    )


def first_commits(subject: Subject, names: Sequence[str]) -> dict[int, float]:
    """When the first of these peers made each commit: unix times, by number."""
    times: dict[int, float] = {}
    for name in names:
        for number, t in subject.commits(name).items():
            times[number] = min(t, times.get(number, t))
    return times


def followers(subject: Subject, names: Sequence[str], last: int) -> int:
    """How many of these peers have committed since the commit `last`."""
    return sum(max(subject.commits(name)) > last for name in names)


def series(
    title: str, lab: Lab, make: Callable[[Path, Lab], Subject], fault: str, repeat: int
) -> list[Outcome]:
    """The same fault again and again, each time in a new swarm. What fails is said and left out."""
    outcomes = []
    for repetition in range(repeat):
        with (
            tempfile.TemporaryDirectory(prefix="recovery-") as folder,
            make(Path(folder), lab) as subject,
        ):
            victim = subject.names[repetition % len(subject.names)]
            try:
                subject.start()
                outcome = break_one(lab, subject, victim, FAULTS[fault])
            except UnavailableError as error:
                print(f"{title}, {fault} {repetition + 1}: failed: {error}")
                print(subject.processes.tails(), flush=True)
                continue
        print(
            f"{title}, {fault} {repetition + 1}: {victim}, with {outcome.transferred:.0%} of a"
            f" round's bytes sent; next commit after {outcome.next_commit_s:.2f} s,"
            f" {outcome.added_s:.2f} s late; rounds took {outcome.interval_s:.2f} s",
            flush=True,
        )
        outcomes.append(outcome)
    return outcomes


Results = dict[str, list[Outcome]]
"""Outcomes by fault."""


def summary(results: Results) -> dict[str, float | None]:
    """One side of the JSON object; null where nothing was measured."""
    kills, stops = (results.get(fault, []) for fault in FAULTS)
    resent = [o.bytes_resent for o in kills + stops if o.bytes_resent is not None]
    return {
        "kill_added_median_s": _rounded(median, [o.added_s for o in kills]),
        "kill_added_worst_s": _rounded(max, [o.added_s for o in kills]),
        "kill_next_commit_median_s": _rounded(median, [o.next_commit_s for o in kills]),
        "stop_added_median_s": _rounded(median, [o.added_s for o in stops]),
        "steps_lost": _rounded(fmean, [o.steps_lost for o in kills + stops]),
        "bytes_resent": _rounded(fmean, resent),
    }


def _rounded(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return round(function(values), 2) if values else None


def table_of(results: dict[str, Results]) -> Table:
    table = Table(
        title=f"A peer of four fails in mid-transfer, on links of {RATE_MBIT} mbit",
        caption="Seconds, medians: between commits before the fault; from it to the next commit; of"
        " which late. Then the means of survivors that had this commit soon after the first, of"
        " inner steps that they lost, and of MB that they sent again.",
        box=None,
        min_width=84,
    )
    table.add_column("swarm, fault")
    for name in ("round", "next", "late", "worst", "followed", "steps lost", "MB resent"):
        table.add_column(name, justify="right")
    for title, by_fault in results.items():
        for fault, outcomes in by_fault.items():
            table.add_row(f"{title}, {len(outcomes)} x {fault}", *_cells(outcomes))
    return table


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return ["-"] * 7
    resent = [o.bytes_resent for o in outcomes if o.bytes_resent is not None]
    return [
        f"{median(o.interval_s for o in outcomes):.2f}",
        f"{median(o.next_commit_s for o in outcomes):.2f}",
        f"{median(o.added_s for o in outcomes):.2f}",
        f"{max(o.added_s for o in outcomes):.2f}",
        f"{fmean(o.followed for o in outcomes):.1f} of {PEERS - 1}",
        f"{fmean(o.steps_lost for o in outcomes):.1f}",
        f"{fmean(resent) / 1e6:.1f}" if resent else "-",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--repeat", type=int, default=10, help="faults of each kind (default: 10)")
    parser.add_argument("--quick", action="store_true", help="one fault of each kind")
    parser.add_argument("--only", choices=("ours", "torchft"), help="measure one of the two")
    parser.add_argument(
        "--torchft-venv",
        type=Path,
        default=ROOT / ".venv-torchft",
        help="where torchft is installed (default: .venv-torchft in the repository)",
    )
    arguments = parser.parse_args()
    repeat = 1 if arguments.quick else arguments.repeat
    results: dict[str, Results] = {"ours": {}, "torchft": {}}
    makers: dict[str, Callable[[Path, Lab], Subject]] = {
        "ours": Ours,
        "torchft": lambda folder, lab: Torchft(folder, lab, arguments.torchft_venv),
    }
    if arguments.only:
        makers = {arguments.only: makers[arguments.only]}
    try:
        if "torchft" in makers:
            print(f"compared with {torchft_version(arguments.torchft_venv)}")
    except UnavailableError as error:
        print(f"torchft: skipped, because {error}")
        del makers["torchft"]
    try:
        with Lab(HOSTS, RATE_MBIT) as lab:
            print(lab.links, flush=True)
            for title, make in makers.items():
                for fault in FAULTS:
                    results[title][fault] = series(title, lab, make, fault, repeat)
    except UnavailableError as error:
        print(f"skipped, because {error}")
        print(json.dumps({title: summary(result) for title, result in results.items()}))
        return 0
    Console().print(table_of(results))
    print(json.dumps({title: summary(result) for title, result in results.items()}))
    complete = all(len(outcomes) == repeat for r in results.values() for outcomes in r.values())
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
