"""I4, as far as it is about votes: what proposers and acceptors of one instance may say.

An instance decides the entry after one other; its acceptors are that entry's voters. All of this is
Lamport's "Paxos Made Simple" seen from outside: only messages, journals and disks are looked at.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocol.events import Record
from protocol.log import Entry, Head, coordinators
from protocol.messages import Accepted, Decided, Promise
from tests.sim.checks.chains import Chains, Report
from tests.sim.plan import Plan

CLOCK_ERROR = 1.05
"""Clocks of peers go so much faster than the simulation's, at most."""


@dataclass(slots=True)
class Acceptor:
    """What a voter has said in one instance, whatever it remembers itself."""

    promised: int = -1
    accepted_ballot: int = -1
    accepted: str = ""


@dataclass(slots=True)
class Instance:
    acceptors: defaultdict[str, Acceptor] = field(default_factory=lambda: defaultdict(Acceptor))
    promises: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    proposals: dict[int, str] = field(default_factory=dict)
    accepts: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    chosen_in: int | None = None
    """The lowest ballot in which a majority was seen to accept."""
    chosen: str = ""


class Votes:
    """Checks every vote and every decision when it is announced, or acted on."""

    def __init__(
        self,
        plan: Plan,
        chains: Chains,
        journal: Callable[[str], dict[str, Any]] | None,
        holds: Callable[[str, Entry], bool] | None,
        report: Report,
    ) -> None:
        self._plan = plan
        self._chains = chains
        self._journal = journal
        self._holds = holds
        self._report = report
        self._instances: defaultdict[str, Instance] = defaultdict(Instance)
        """By the digest of the entry before."""
        self._parents: dict[tuple[str, int, int], str] = {}
        """The instance in which a peer has last written down a ballot of a round."""
        self._proposed: dict[str, Entry] = {}
        self._moved_s: dict[str, float] = {}
        """When each peer came to its last entry."""

    def moved(self, now_s: float, peer_id: str) -> None:
        """A peer has started, or has another entry than before."""
        self._moved_s[peer_id] = now_s

    def wrote(self, peer_id: str, record: Record) -> None:
        ballots = record.ballots
        self._parents[peer_id, ballots.round, ballots.promised] = ballots.parent
        accepted = ballots.accepted
        if accepted is None:
            return
        self._proposed[accepted.digest] = accepted
        if record.parts is not None and self._owns(peer_id, ballots.accepted_ballot, accepted):
            # What a proposer says to itself is not sent.
            self.proposed(peer_id, ballots.accepted_ballot, accepted)

    def _owns(self, peer_id: str, ballot: int, entry: Entry) -> bool:
        head = self._chains.heads.get(entry.parent)
        if head is None:
            return False
        order = coordinators(self._plan.run_id, entry.round, head.voters)
        return order[ballot % len(order)] == peer_id

    # --- proposers -------------------------------------------------------------------------------

    def proposed(self, proposer: str, ballot: int, entry: Entry) -> None:
        self._proposed[entry.digest] = entry
        instance = self._instances[entry.parent]
        if instance.proposals.setdefault(ballot, entry.digest) != entry.digest:
            self._report(f"I4: {proposer} proposes two entries in ballot {ballot} of {_of(entry)}")
        if instance.chosen_in is not None and instance.chosen_in < ballot:
            self._check_chosen(instance, entry.digest, entry)
        head = self._chains.heads.get(entry.parent)
        if ballot > 0 and head and not self._chains.can_decide(instance.promises[ballot], head):
            self._report(f"I4: {proposer} proposes {_of(entry)} without a quorum of promises")

    # --- acceptors -------------------------------------------------------------------------------

    def promised(self, peer_id: str, proposer: str, promise: Promise) -> None:
        parent = self._parent(peer_id, promise.round, promise.ballot)
        if parent is None:
            return
        instance = self._instances[parent]
        acceptor = instance.acceptors[peer_id]
        if promise.ballot < acceptor.promised:
            self._report(f"I4: {peer_id} forgot in round {promise.round} what it had promised")
        told = promise.accepted.digest if promise.accepted else ""
        if (promise.accepted_ballot, told) != (acceptor.accepted_ballot, acceptor.accepted):
            self._report(f"I4: {peer_id} forgot in round {promise.round} what it had accepted")
        acceptor.promised = max(acceptor.promised, promise.ballot)
        instance.promises[promise.ballot].add(peer_id)
        self._check_journal(peer_id, parent, promise.round, promise.ballot, promise.accepted)

    def accepted(self, peer_id: str, accepted: Accepted) -> None:
        entry = self._proposed.get(accepted.entry_digest)
        if entry is None:
            self._report(f"I4: {peer_id} accepted what nobody has proposed")
            return
        ballot = accepted.ballot
        instance = self._instances[entry.parent]
        acceptor = instance.acceptors[peer_id]
        if ballot < acceptor.promised:
            self._report(f"I4: {peer_id} broke its promise in round {accepted.round}")
        if ballot == acceptor.accepted_ballot and entry.digest != acceptor.accepted:
            self._report(f"I4: {peer_id} accepted two entries in one ballot of {_of(entry)}")
        if instance.proposals.get(ballot) != entry.digest:
            self._report(f"I4: {peer_id} accepted what was not proposed in ballot {ballot}")
        acceptor.promised = max(acceptor.promised, ballot)
        acceptor.accepted_ballot, acceptor.accepted = ballot, entry.digest
        if self._holds is not None and not self._holds(peer_id, entry):
            self._report(f"I4: {peer_id} accepted {_of(entry)} without the bytes on disk")
        self._check_journal(peer_id, entry.parent, entry.round, ballot, entry)
        instance.accepts[ballot].add(peer_id)
        self._choose(instance, ballot, entry)

    def _choose(self, instance: Instance, ballot: int, entry: Entry) -> None:
        head = self._chains.heads.get(entry.parent)
        if head is None or not self._chains.can_decide(instance.accepts[ballot], head):
            return
        if instance.chosen_in is None:
            instance.chosen_in, instance.chosen = ballot, entry.digest
        self._check_chosen(instance, entry.digest, entry)
        instance.chosen_in = min(instance.chosen_in, ballot)
        for other, digest in instance.proposals.items():
            if other > ballot:
                self._check_chosen(instance, digest, entry)

    def _check_chosen(self, instance: Instance, digest: str, entry: Entry) -> None:
        if digest != instance.chosen:
            self._report(f"I4: beside what was chosen, another entry of {_of(entry)} is proposed")

    def _parent(self, peer_id: str, round_: int, ballot: int) -> str | None:
        parent = self._parents.get((peer_id, round_, ballot))
        if parent is None:
            self._report(f"I4: {peer_id} promised in round {round_} without writing it down")
        return parent

    def _check_journal(
        self, peer_id: str, parent: str, round_: int, ballot: int, accepted: Entry | None
    ) -> None:
        """What is told is on disk, in a journal that has a vote there."""
        if self._journal is None:
            return
        record = self._journal(peer_id)
        ballots, head = record.get("ballots") or {}, self._chains.heads.get(parent)
        on_disk = (ballots.get("round"), ballots.get("parent"), ballots.get("promised"))
        entry = accepted and accepted.to_json()
        if on_disk != (round_, parent, ballot) or ballots.get("accepted") != entry:
            self._report(f"I4: {peer_id} voted in round {round_} before it was on disk")
        if head and not head.may_vote(peer_id, record.get("incarnation", "")):
            self._report(f"I4: {peer_id} voted in round {round_} without having a vote")

    # --- decisions -------------------------------------------------------------------------------

    def decided(self, now_s: float, peer_id: str, decided: Decided) -> None:
        """A peer takes an entry for decided, or tells others so."""
        entry = decided.entry
        if entry.digest in self._chains.heads:
            return
        before = self._chains.heads.get(entry.parent)
        if before is None:
            return
        if entry.term > before.term:
            self._check_forced(now_s, peer_id, entry)
            return
        instance = self._instances[entry.parent]
        self._check_electors(instance, decided, before)
        if instance.chosen != entry.digest:
            self._report(f"I4: {peer_id} takes {_of(entry)} for decided before a quorum accepted")

    def _check_electors(self, instance: Instance, decided: Decided, before: Head) -> None:
        by = set(decided.accepted_by)
        if not self._chains.can_decide(by, before):
            self._report(f"I4: round {decided.round} was decided by {' '.join(sorted(by))} only")
        if by - instance.accepts[decided.ballot]:
            self._report(f"I4: round {decided.round} names voters that did not accept it")

    def _check_forced(self, now_s: float, peer_id: str, entry: Entry) -> None:
        waited_s = now_s - self._moved_s.get(peer_id, 0.0)
        if waited_s * CLOCK_ERROR < self._plan.limits.lonely_after_s:
            self._report(
                f"I4: {peer_id} forces a new term in {_of(entry)} after {waited_s:.1f} s, without"
                " having been lonely"
            )


def _of(entry: Entry) -> str:
    return f"round {entry.round}"
