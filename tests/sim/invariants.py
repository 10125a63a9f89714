"""What must hold after every event, whatever the network does (DESIGN, section 3)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from protocol.digest import digest
from protocol.events import ApplyEntry, Note, Record, Send, StepDone, TakeSnapshot
from protocol.ledger import Ledger, credited_tokens
from protocol.log import Entry, Head, is_quorum
from protocol.messages import Accept, Accepted, Decided, Heartbeat, Prepare, Promise, Trail
from protocol.wire.codec import encode_message
from tests.sim.plan import Plan
from tests.sim.saw import Applied, Balance, Sight

MAX_MESSAGE_BYTES = 16 * 1024
"""Far above every message of these swarms, but for a trail."""
MAX_MESSAGES_PER_PEER_S = 60
"""Control messages that one peer may send to one other within a second."""


@dataclass(slots=True)
class Voter:
    """What an acceptor has said in one instance of consensus, whatever it remembers itself."""

    promised: int = -1
    accepted_ballot: int = -1
    accepted: str = ""


class Invariants:
    """Watches a swarm; a violation is a sentence that begins with the invariant's name.

    I1  whoever holds entry r of a chain holds the same shared state, bit for bit
    I2  an entry is applied whole, in order, with exactly the bytes that it names
    I4  an entry has at most one successor but for forced terms; a quorum of its voters accepted
        that one; no acceptor takes anything back; who accepts holds the bytes on disk
    I5  messages are small, and nobody floods anybody
    I6  nothing that was not trained from the entry before is averaged
    I7  every token is contributed, pending or lost, and log and accounts agree
    """

    def __init__(
        self,
        plan: Plan,
        foreign: frozenset[str] = frozenset(),
        holds: Callable[[str, Entry], bool] = lambda peer, entry: True,
    ) -> None:
        """Args:
        foreign: peers that start on another log; nothing of theirs may be averaged.
        holds: whether all bytes of an entry are on a peer's disk.
        """
        self.violations: list[str] = []
        self.events = 0
        genesis = plan.genesis_head()
        self.heads: dict[str, Head] = {genesis.digest: genesis}
        self.entries: dict[str, Entry] = {}
        self.applied: dict[str, str] = {}
        """Digest of each peer's last entry."""
        self.forked: dict[str, str] = {}
        self.steps: dict[str, int] = {}
        self.forced = 0
        self._plan = plan
        self._holds = holds
        self._foreign = set(foreign)
        self._genesis = genesis.digest
        self._next: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._proposed: dict[str, Entry] = {}
        self._accepted: set[tuple[str, str]] = set()
        self._voters: dict[tuple[str, int, str], Voter] = {}
        self._incarnations: dict[str, str] = {}
        self._snapshots: dict[tuple[str, int], set[str]] = {}
        self._sent: Counter[tuple[str, str]] = Counter()
        self._sent_in_s = 0
        self._without_books: set[str] = set()
        self._restored: set[str] = set()
        self._unbooked: dict[str, list[int]] = {}
        """What a peer was credited with in entries that its snapshot has skipped."""

    def disown(self, peer_id: str) -> None:
        """From now on this peer is not in the same state as the others."""
        self._foreign.add(peer_id)

    def lost_its_books(self, peer_id: str) -> None:
        """This peer's accounts began anew, so they do not cover what the log has of it."""
        self._without_books.add(peer_id)

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        self.events += 1
        match sight:
            case Send(to, message):
                self._check_bounds(now_s, peer_id, to, message)
                self._check_vote(peer_id, message)
            case Record(ballots=ballots):
                if ballots.accepted is not None:
                    self._proposed[ballots.accepted.digest] = ballots.accepted
            case ApplyEntry(decided, parts):
                self._check_decided(peer_id, decided)
                self._check_applied(peer_id, decided.entry, parts)
            case Applied(head, state_digest, is_restored) if peer_id not in self._foreign:
                if is_restored:
                    self.applied[peer_id] = head.digest
                    self._restored.add(peer_id)
                if self._states.setdefault(head.digest, state_digest) != state_digest:
                    self._violated(f"I1: {peer_id} has another state after round {head.round}")
            case Balance(ledger):
                self._check_books(peer_id, ledger)
            case TakeSnapshot(round_, _):
                head = self.applied.get(peer_id, self._genesis)
                self._snapshots.setdefault((peer_id, round_), set()).add(head)
            case StepDone(step):
                self.steps[peer_id] = step
            case Note(text) if text.startswith("forked"):
                self.forked[peer_id] = text

    def _violated(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    # --- I5 --------------------------------------------------------------------------------------

    def _check_bounds(self, now_s: float, sender: str, to: str, message: object) -> None:
        if isinstance(message, Heartbeat):
            return
        if not isinstance(message, Trail):
            size_bytes = encode_message(message).ByteSize()  # type: ignore[arg-type]
            if size_bytes > MAX_MESSAGE_BYTES:
                self._violated(f"I5: {sender} sent {size_bytes} bytes to {to}")
        if int(now_s) != self._sent_in_s:
            self._sent, self._sent_in_s = Counter(), int(now_s)
        self._sent[sender, to] += 1
        if self._sent[sender, to] == MAX_MESSAGES_PER_PEER_S:
            self._violated(f"I5: {sender} sent {MAX_MESSAGES_PER_PEER_S} messages to {to} in 1 s")

    # --- I4 --------------------------------------------------------------------------------------

    def _check_vote(self, peer_id: str, message: object) -> None:
        match message:
            case Heartbeat(incarnation=incarnation):
                self._incarnations[peer_id] = incarnation
            case Accept(entry=entry):
                self._proposed[entry.digest] = entry
            case Promise(round=round_, ballot=ballot):
                self._check_promise(peer_id, round_, ballot, message)
            case Accepted(round=round_, ballot=ballot, entry_digest=entry_digest):
                self._check_accepted(peer_id, round_, ballot, entry_digest)
            case Decided():
                self._check_decided(peer_id, message)
            case Prepare():
                pass

    def _voter(self, peer_id: str, round_: int) -> Voter:
        head = self.applied.get(peer_id, self._genesis)
        return self._voters.setdefault((peer_id, round_, head), Voter())

    def _check_promise(self, peer_id: str, round_: int, ballot: int, promise: Promise) -> None:
        voter = self._voter(peer_id, round_)
        if ballot < voter.promised:
            self._violated(f"I4: {peer_id} forgot in round {round_} what it had promised")
        if promise.accepted_ballot < voter.accepted_ballot:
            self._violated(f"I4: {peer_id} forgot in round {round_} what it had accepted")
        voter.promised = max(voter.promised, ballot)

    def _check_accepted(self, peer_id: str, round_: int, ballot: int, entry_digest: str) -> None:
        voter = self._voter(peer_id, round_)
        if ballot < voter.promised:
            self._violated(f"I4: {peer_id} broke its promise in round {round_}")
        if ballot == voter.accepted_ballot and entry_digest != voter.accepted:
            self._violated(f"I4: {peer_id} accepted two entries in one ballot of round {round_}")
        voter.promised = max(voter.promised, ballot)
        voter.accepted_ballot, voter.accepted = ballot, entry_digest
        self._accepted.add((peer_id, entry_digest))
        entry = self._proposed.get(entry_digest)
        if entry is not None and not self._holds(peer_id, entry):
            self._violated(f"I4: {peer_id} accepted round {round_} without the bytes on disk")

    def _check_decided(self, peer_id: str, decided: Decided) -> None:
        entry = decided.entry
        before = self.heads.get(entry.parent)
        self._check_chain(peer_id, entry)
        if before is None or entry.term > before.term:
            return
        if not is_quorum(set(decided.accepted_by), before.voters, before.tie_breaker):
            self._violated(f"I4: round {entry.round} was accepted by no quorum")
        for voter in decided.accepted_by:
            if (voter, entry.digest) not in self._accepted and voter not in self._foreign:
                self._violated(f"I4: {voter} never accepted the entry of round {entry.round}")

    def _check_chain(self, peer_id: str, entry: Entry) -> None:
        if entry.digest in self.heads or peer_id in self._foreign:
            return
        before = self.heads.get(entry.parent)
        if before is None or entry.round != before.round + 1:
            self._violated(f"I4: round {entry.round} continues a log that nobody decided")
            return
        self.heads[entry.digest] = Head.of_entry(entry)
        self.entries[entry.digest] = entry
        if entry.term > before.term:
            self.forced += 1
            return
        if self._next.setdefault(entry.parent, entry.digest) != entry.digest:
            self._violated(f"I4: round {entry.round} has two entries")
        self._check_contributors(entry)

    # --- I2, I6 ----------------------------------------------------------------------------------

    def _check_contributors(self, entry: Entry) -> None:
        for contributor in Head.of_entry(entry).contributors:
            based_on = self._snapshots.get((contributor, entry.round), set())
            if contributor in self._foreign or entry.parent not in based_on:
                self._violated(f"I6: {contributor} was averaged in round {entry.round} from afar")

    def _check_applied(self, peer_id: str, entry: Entry, parts: tuple[bytes | None, ...]) -> None:
        if peer_id not in self._foreign:
            if entry.parent != self.applied.get(peer_id, self._genesis):
                self._violated(f"I2: {peer_id} applied round {entry.round} out of order")
            if entry.digest not in self.entries and entry.digest not in self.heads:
                self._violated(f"I4: {peer_id} applied round {entry.round} before it was decided")
        self.applied[peer_id] = entry.digest
        named = [part and part.digest for part in entry.parts]
        if named != [None if data is None else digest(data) for data in parts]:
            self._violated(f"I2: {peer_id} applied bytes that round {entry.round} does not name")

    # --- I7 --------------------------------------------------------------------------------------

    def _check_books(self, peer_id: str, ledger: Ledger) -> None:
        if not ledger.is_balanced():
            self._violated(f"I7: the accounts of {peer_id} do not add up")
        if peer_id in self._without_books or peer_id in self._foreign:
            return
        credited = self.credited(peer_id, self.applied.get(peer_id, self._genesis))
        gaps = [c - a.contributed for c, a in zip(credited, ledger.accounts, strict=True)]
        if peer_id in self._restored:
            self._restored.discard(peer_id)
            self._unbooked[peer_id] = gaps
        if gaps != self._unbooked.get(peer_id, [0] * len(gaps)):
            self._violated(f"I7: the log has credited {peer_id} with something else")

    def credited(self, peer_id: str, head: str) -> list[int]:
        """Tokens x values of a peer in the chain that ends here, for each fragment."""
        totals = [0] * len(self._plan.part_values)
        while head in self.entries:
            entry = self.entries[head]
            values = self._plan.part_values[entry.fragment_id]
            credited = credited_tokens(entry, peer_id)
            totals[entry.fragment_id] += sum(t * v for t, v in zip(credited, values, strict=True))
            head = entry.parent
        return totals
