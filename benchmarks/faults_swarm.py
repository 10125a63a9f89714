"""The five peers that the fault benchmark breaks, and what their records say afterwards.

Everything is seen from outside: the peers' metrics files (docs/operating.md) say which phase a
round is in, who leads it and who owns its parts; a peer votes when its journal changes.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.processes import Swarm
from peer.directory import STATE_FOLDER
from protocol.log import coordinators
from protocol.manifest import Manifest

Role: TypeAlias = Literal["contributor", "owner", "coordinator"]
Phase: TypeAlias = Literal["ready", "exchange", "decide"]

FOUNDER = "a"
PEERS = (FOUNDER, "b", "c", "d", "e")
RATES = {FOUNDER: "4mbit", "b": "4mbit", "c": "4mbit", "d": "2mbit", "e": "2mbit"}
"""Of both directions. A peer with half of the others' link owns no parts: it only contributes."""
CAPS = {name: ("--up", rate, "--down", rate) for name, rate in RATES.items()}
NEWCOMER_CAPS = CAPS["e"]
COMMITS = 5
"""So many rounds that moved the model are waited for after a fault."""
MOST_COMMITS = 20
"""So many at most, for the loss to be lower than before."""
WATCH_S = 0.005
"""Between two looks when a fault is aimed at a phase."""
WATCH_CLOSELY_S = 0.0005
"""When that phase takes a few milliseconds."""
PATIENCE_S = 300.0
"""A swarm of five that starts on two cores with other work takes a minute."""
LOST = re.compile("(?P<peer>.{8}) is lost: (?P<why>.*)")
DEAF = "it does not hear this peer"
JOURNAL = "journal.json"

MANIFEST = """
name = "faults"
start_peers = 5
total_steps = {total_steps}

[model]
depth = 3
width = 64
head_width = 16
context = 64

[data]
corpus = "{corpus}"
batch_sequences = 4

[inner_optimizer]
learning_rate = 3e-4
warmup_steps = 5

[sync]
sync_every = 60
num_fragments = 3

[limits]
round_deadline_s = 20.0
grace_s = 2.0
takeover_s = 1.0
checkpoint_rounds = 4

[evaluation]
every_rounds = 1
batches = 4
"""


class Peers(Swarm):
    """Five real peers of one run on loopback, their links capped."""

    patience_s = PATIENCE_S

    def __init__(self, folder: Path, corpus: str, total_steps: int) -> None:
        text = MANIFEST.format(corpus=corpus, total_steps=total_steps)
        super().__init__(folder, text)
        self._run_id = Manifest.from_toml(text).run_id
        self._names: dict[str, str] = {}
        self.live = list(PEERS)
        """Peers that take part now, or should."""
        self.seen_s = 0.0
        """Unix time until when a row has been made of what happened."""

    def begin(self) -> None:
        """Start everybody, and wait until all have contributed to one round and a loss is known."""
        self.found(FOUNDER, *CAPS[FOUNDER])
        for name in PEERS[1:]:
            self.join(name, *CAPS[name])
        self.wait_for_contribution(*PEERS, since_s=0.0)
        self.wait_until(
            lambda: any(self.lines(name, "heldout") for name in PEERS), "a held-out loss", *PEERS
        )
        self.seen_s = time.time()

    def heal(self) -> None:
        """After a failure: everybody anew, with what is on disk."""
        self.kill(*(name for name in {*PEERS, *self.live} if self.is_running(name)))
        self.live[:] = PEERS
        since_s = time.time()
        for name in PEERS:
            self.restart(name)
        self.wait_for_contribution(*PEERS, since_s=since_s)
        self.seen_s = time.time()

    # --- who is who ------------------------------------------------------------------------------

    def peer_id(self, name: str) -> str:
        return str(self.lines(name, "start")[0]["peer_id"])

    def name_of(self, peer_id: str) -> str:
        """The short name of a peer, from its id or the id's first digits; itself if unknown."""
        for name in (*PEERS, *self.live):
            if name not in self._names and self.lines(name, "start"):
                self._names[name] = self.peer_id(name)
        found = [name for name, known in self._names.items() if known.startswith(peer_id)]
        return found[0] if found else peer_id

    def coordinator_after(self, round_: dict[str, Any]) -> str:
        """Who leads the round after this one, from its line in a record."""
        order = coordinators(self._run_id, round_["round"] + 1, tuple(round_["voters"]))
        return self.name_of(order[0])

    # --- aiming ----------------------------------------------------------------------------------

    def aim(self, role: Role, phase: Phase) -> str:
        """Wait for the moment when a peer of that role is in that phase; returns the peer."""
        if phase == "ready":
            return self._wait_for_ready(role)
        victim = ""
        while not victim:
            roster = self._next_roster()
            victim = self._in_role(role, roster, self.name_of(roster["coordinator"]))
        if phase == "exchange":
            time.sleep(roster["transfer_s"] / 2)
        else:
            self._wait_for_vote(victim)
        return victim

    def was_hit(self, victim: str, phase: Phase) -> bool:
        """Whether the record of a peer that was just killed ends in the phase that was meant."""
        rosters, rounds = self.lines(victim, "roster"), self.rounds(victim)
        in_exchange = bool(rosters) and rosters[-1]["round"] > rounds[-1]["round"]
        return not in_exchange if phase == "ready" else in_exchange

    def _wait_for_ready(self, role: Role) -> str:
        """A peer of this role has applied an entry and is ready, or soon will be."""
        roster = self._next_roster()

        def is_in_role(name: str, round_: dict[str, Any]) -> bool:
            leader = self.coordinator_after(round_)
            is_next = round_["round"] >= roster["round"]
            return is_next and name == self._in_role(role, roster, leader)

        return self._next_line("round", is_in_role)[0]

    def _next_roster(self) -> dict[str, Any]:
        """The next exchange in which everybody is; as soon as anybody records that it begins."""
        return self._next_line(
            "roster", lambda _, line: len(line["contributors"]) == len(self.live)
        )[1]

    def _next_line(
        self, kind: str, fits: Callable[[str, dict[str, Any]], bool]
    ) -> tuple[str, dict[str, Any]]:
        """The next fitting line that anybody records, and who; UnavailableError if none comes."""
        seen = {name: len(self.lines(name, kind)) for name in self.live}
        found: list[tuple[str, dict[str, Any]]] = []

        def look() -> bool:
            for name in self.live:
                lines = self.lines(name, kind)
                if len(lines) > seen[name] and fits(name, lines[-1]):
                    found.append((name, lines[-1]))
                seen[name] = len(lines)
            return bool(found)

        self.wait_until(look, f"a line of kind {kind}", *self.live, poll_s=WATCH_S)
        return found[0]

    def _in_role(self, role: Role, roster: dict[str, Any], coordinator: str) -> str:
        """Owners and contributors that are aimed at do not lead as well; "" if there is none."""
        if role == "coordinator":
            return coordinator
        owners = {self.name_of(owner) for owner in roster["owners"]}
        of_role = owners if role == "owner" else set(self.live) - owners
        return min(of_role - {coordinator, FOUNDER}, default="")

    def _wait_for_vote(self, name: str) -> None:
        journal = self.path(name) / STATE_FOLDER / JOURNAL
        before = journal.stat().st_mtime_ns
        self.wait_until(
            lambda: journal.stat().st_mtime_ns != before,
            f"{name} to vote",
            name,
            poll_s=WATCH_CLOSELY_S,
        )

    # --- what came of it -------------------------------------------------------------------------

    def commits(self, name: str, since_s: float) -> int:
        """Rounds that moved the model and that a peer has applied since then."""
        return sum(line["t"] > since_s and not line["empty"] for line in self.rounds(name))

    def next_commit_s(self, names: Sequence[str], since_s: float) -> float:
        """From then until the first of these peers applied an entry that moved the model."""
        times = [
            line["t"]
            for name in names
            for line in self.rounds(name)
            if line["t"] > since_s and not line["empty"]
        ]
        return min(times, default=float("inf")) - since_s

    def wait_for_commits(self, *names: str, since_s: float, count: int = COMMITS) -> None:
        """Until each of these peers has applied that many; UnavailableError if it does not."""
        self.wait_until(
            lambda: all(self.commits(name, since_s) >= count for name in names),
            f"{count} commits of {', '.join(names)}",
            *names,
        )

    def wait_for_progress(self, since_s: float) -> None:
        """Until the loss is lower than it was then, or MOST_COMMITS later."""

        def is_over() -> bool:
            commits = min(self.commits(name, since_s) for name in self.live)
            return self.loss_fell(since_s) or commits >= MOST_COMMITS

        self.wait_until(is_over, f"{MOST_COMMITS} commits of everybody", *self.live)

    def wait_for_steps(self, *names: str) -> None:
        """Until each of these peers has ended another inner step and said how long it took.

        A training that stands still for good leaves no gap behind, but never gets here.
        """
        lines = {name: len(self.lines(name, "steps")) for name in names}
        self.wait_until(
            lambda: all(len(self.lines(name, "steps")) > lines[name] for name in names),
            "everybody to train on",
            *names,
        )

    def wait_for_vote(self, name: str, since_s: float) -> None:
        """Until this peer applies an entry that counts on its vote for the next one."""

        def is_voter() -> bool:
            line = self.rounds(name)[-1]
            return line["t"] > since_s and self.peer_id(name) in line["voters"]

        self.wait_until(is_voter, f"an entry that lists {name} as a voter", *self.live)

    def come_back(self, name: str, says: str = "going on from") -> None:
        """Start it again with the same command, and wait until it contributes again.

        Args:
            says: a pattern that it then prints.
        """
        since_s = time.time()
        self.restart(name)
        self.live[:] = sorted({*self.live, name})
        self.wait_for(name, says)
        self.wait_for_contribution(name, since_s=since_s)

    def wait_for_contribution(self, *names: str, since_s: float) -> None:
        """Until tokens of each of these peers are in entries that anybody applied."""

        def all_contributed() -> bool:
            contributors = {
                self.name_of(peer)
                for name in self.live
                for line in self.rounds(name)
                if line["t"] > since_s
                for peer, tokens in line["tokens"].items()
                if tokens  # a newcomer's first do not count
            }
            return contributors.issuperset(names)

        self.wait_until(all_contributed, f"a contribution of {', '.join(names)}", *names)

    def digests_equal(self, since_s: float) -> bool:
        """Whether all peers recorded the same entry and the same state for each round since then.

        What killed lives have recorded counts as well.
        """
        seen: dict[int, set[tuple[str, str]]] = {}
        for name in self.live:
            for line in self.rounds(name):
                if line["t"] > since_s:
                    seen.setdefault(line["round"], set()).add((line["digest"], line["state"]))
        return bool(seen) and all(len(of_round) == 1 for of_round in seen.values())

    def largest_gap_s(self, since_s: float, frozen: "Frozen | None" = None) -> tuple[float, str]:
        """Between the ends of two inner steps, and whose; less the time that it was frozen."""
        gaps = [(0.0, "")]
        for name in self.live:
            for line in self.lines(name, "steps"):
                gap_s = float(line["largest_gap_s"])
                if frozen and name == frozen.name and gap_s > frozen.for_s / 2:
                    gap_s = max(0.0, gap_s - frozen.for_s)
                if line["t"] > since_s:
                    gaps.append((gap_s, name))
        return max(gaps)

    def loss_fell(self, since_s: float) -> bool:
        """Whether the newest evaluated entry has a lower held-out loss than the one by then.

        Peers evaluate in turn, and the last one before a fault may have left.
        """
        lines = [line for name in {*PEERS, *self._names} for line in self.lines(name, "heldout")]
        lines.sort(key=lambda line: line["round"])
        before = [line for line in lines if line["t"] <= since_s]
        return bool(before) and lines[-1]["loss"] < before[-1]["loss"]

    def suspicions(self, expected: Sequence[str]) -> list[str]:
        """Sentences by which live peers took others for dead that were running, since the last row.

        Not counted are those about `expected`, and about peers that have left. A peer that comes
        back is told by the others that they have given it up; it is right to count them as lost
        until they hear it.
        """
        since_s, self.seen_s = self.seen_s, time.time()
        notes = [
            (name, line["text"])
            for name in self.live
            for line in self.lines(name, "note")
            if since_s < line["t"] <= self.seen_s
        ]
        real = {*expected, *(self._names.keys() - set(self.live))}
        return [
            f"{name}: {note}"
            for name, note in notes
            if (found := LOST.fullmatch(note))
            and self.name_of(found["peer"]) not in real
            and not (name in expected and found["why"] == DEAF)
        ]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A peer that stood still."""

    name: str
    for_s: float
