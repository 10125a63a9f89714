"""What must hold after every event, whatever the network does (DESIGN, section 3).

    I1  whoever holds entry r of a chain holds the same shared state, bit for bit; a mean is summed
        in peer_id order, an outer step is computed as docs/protocol.md says
    I2  an entry is applied whole, in order, with exactly the bytes that it names; a part that is
        absent leaves its slice of global_params and momentum untouched
    I3  no local work is lost: what a replica moved and did not contribute survives every entry and
        every change of the shared state; trainers never wait
    I4  one successor for each entry but for forced terms; all that Paxos demands of acceptors and
        proposers; votes and bytes are on disk before anybody hears of them; nobody is said to vote
        twice that does not; nobody leaves a chain that was not broken; nobody forces a term without
        having been lonely
    I5  messages are small, nobody floods anybody, no part is sent twice
    I6  nothing foreign is averaged, nothing that does not fit its digest is used; who averages or
        accuses falsely is found out, and nobody else is
    I7  a mean is that of whom it credits; every token is contributed, pending or lost, and log and
        accounts agree

Everything is checked from outside: events, effects, files and states. What the checker computes, it
computes by its own formulas.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from protocol.digest import digest
from protocol.events import (
    ApplyEntry,
    AveragePart,
    KeepProof,
    KeepVerdict,
    Note,
    PartAveraged,
    PartFetched,
    Record,
    Restored,
    Send,
    SendPart,
    ShareTrained,
    SnapshotTaken,
)
from protocol.log import Entry
from protocol.messages import Accept, Accepted, Decided, Promise
from tests.sim.checks.books import Books
from tests.sim.checks.bounds import Bounds
from tests.sim.checks.chains import Chains
from tests.sim.checks.means import Means
from tests.sim.checks.states import States
from tests.sim.checks.verdicts import Verdicts
from tests.sim.checks.votes import Votes
from tests.sim.climate import Lie
from tests.sim.plan import Plan
from tests.sim.saw import InForce, Sight


class Violation(Exception):
    """Ends a simulation that is to end with the first one."""


class Invariants:
    """Watches a swarm; a violation is a sentence that begins with the invariant's name."""

    def __init__(
        self,
        plan: Plan,
        foreign: frozenset[str] = frozenset(),
        journal: Callable[[str], dict[str, Any]] | None = None,
        holds: Callable[[str, Entry], bool] | None = None,
        *,
        liars: Mapping[str, Lie] = MappingProxyType({}),
        is_strict: bool = False,
    ) -> None:
        """Args:
        foreign: peers that start on another log; nothing of theirs may be averaged.
        journal: what is in a peer's journal on its disk.
        holds: whether all bytes of an entry are on a peer's disk.
        liars: what peers do falsely.
        is_strict: raise Violation for the first one.
        """
        self.violations: list[str] = []
        self.events = 0
        self.forked: dict[str, str] = {}
        self.chains = Chains(plan, self.violated)
        self._foreign = foreign
        self._astray = set(foreign)
        """Who is not in the same state as the others; nothing of theirs may be averaged."""
        self._is_strict = is_strict
        self._votes = Votes(plan, self.chains, journal, holds, self.violated)
        self.verdicts = Verdicts(liars, self.violated)
        self._means = Means(plan, self._astray, self.chains, self.violated, self.verdicts)
        self._states = States(plan, self._astray, self.chains, self.violated)
        self._books = Books(plan, self.chains, self.violated)
        self._bounds = Bounds(self.violated)

    def violated(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)
        if self._is_strict:
            raise Violation(text)

    def disown(self, peer_id: str) -> None:
        """From now on this peer is not in the same state as the others, until a snapshot."""
        self._astray.add(peer_id)

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        self.events += 1
        match sight:
            case Send():
                self._bounds.sends(now_s, peer_id, sight)
                if peer_id not in self._foreign:
                    self._saw_message(now_s, peer_id, sight)
            case SendPart():
                self._bounds.sends_part(peer_id, sight)
            case Record():
                self._votes.wrote(peer_id, sight)
            case ApplyEntry() if peer_id not in self._foreign:
                self._saw_decided(now_s, peer_id, sight.decided)
                self._states.takes(peer_id, sight)
                self.verdicts.applied(sight)
                self.chains.at[peer_id] = sight.entry.digest
                self._votes.moved(now_s, peer_id)
            case InForce():
                self._saw_state(now_s, peer_id, sight)
            case KeepProof(double_vote):
                # Liars of the simulation have no voter's key.
                self.violated(f"I4: {double_vote.voter} is said to have voted twice, and has not")
            case PartAveraged():
                self.verdicts.averaged(peer_id, sight)
            case KeepVerdict():
                self.verdicts.convicted(peer_id, sight)
            case Restored() if peer_id not in self._foreign:
                self.chains.at[peer_id] = sight.head.digest
            case ShareTrained():
                self._means.claimed(peer_id, sight)
            case SnapshotTaken():
                self._means.took(peer_id, sight)
            case AveragePart():
                self._means.averages(sight)
            case PartFetched() if digest(sight.data) != sight.digest:
                self.violated(f"I6: {peer_id} believes bytes that do not fit their digest")
            case Note(text) if text.startswith("forked"):
                self.forked[peer_id] = text

    def _saw_message(self, now_s: float, peer_id: str, send: Send) -> None:
        match send.message:
            case Accept(ballot=ballot, entry=entry):
                self._votes.proposed(peer_id, ballot, entry)
            case Promise():
                self._votes.promised(peer_id, send.to, send.message)
            case Accepted():
                self._votes.accepted(peer_id, send.message)
            case Decided():
                self._saw_decided(now_s, peer_id, send.message)

    def _saw_decided(self, now_s: float, peer_id: str, decided: Decided) -> None:
        self._votes.decided(now_s, peer_id, decided)
        if self.chains.add(decided.entry):
            self.verdicts.decided(decided)
            self._means.check(decided.entry)

    def _saw_state(self, now_s: float, peer_id: str, state: InForce) -> None:
        head = state.head.digest
        if state.how == "started":
            self.chains.at[peer_id] = head
        elif state.how != "applied" and peer_id not in self._foreign:
            self.chains.check_switch(peer_id, self.chains.position(peer_id), head)
            self.chains.at[peer_id] = head
        if state.how == "snapshot" and peer_id not in self._foreign:
            # What the others gave it; its own checkpoints may be as wrong as it was.
            self._astray.discard(peer_id)
        self._states.in_force(peer_id, state)
        if peer_id not in self._foreign:
            self._books.check(peer_id, state.how, head, state.ledger, state.has_books)
        if state.how != "applied":
            self._votes.moved(now_s, peer_id)
            self._bounds.begins_anew(peer_id)
