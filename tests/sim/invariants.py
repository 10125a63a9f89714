"""What must hold after every event, whatever the network does (DESIGN, section 3)."""

from collections import Counter

from protocol.digest import digest
from protocol.events import ApplyEntry, Note, Send, StepDone, TakeSnapshot
from protocol.log import Entry, Head, is_quorum
from protocol.messages import Accepted, Decided
from protocol.wire.codec import encode_message
from tests.sim.plan import Plan
from tests.sim.saw import Applied, Sight

MAX_MESSAGE_BYTES = 16 * 1024
"""Far above every message of a swarm of five with six parts."""
MAX_MESSAGES_PER_PEER_S = 40
"""Control messages that one peer may send to one other within a second."""


class Invariants:
    """Watches a swarm; a violation is a sentence.

    I1  whoever applied entry r holds the same shared state, bit for bit
    I2  an entry is applied whole, in order, with exactly the bytes that it names
    I4  a round decides one entry, and a quorum of the voters accepted that one
    I5  messages are small, and nobody floods anybody
    """

    def __init__(self, plan: Plan, foreign: frozenset[str] = frozenset()) -> None:
        """`foreign`: peers that start on another log; nothing of theirs may be averaged."""
        self.violations: list[str] = []
        self.events = 0
        self.entries: dict[int, Entry] = {}
        self.heads: dict[int, Head] = {-1: plan.genesis_head()}
        self.forked: dict[str, str] = {}
        self.steps: dict[str, int] = {}
        self._foreign = set(foreign)
        self._applied: dict[str, int] = {}
        self._states: dict[int, str] = {}
        self._accepted: set[tuple[str, int, str]] = set()
        self._snapshots: dict[tuple[str, int], str] = {}
        self._sent: Counter[tuple[str, str, int]] = Counter()

    def disown(self, peer_id: str) -> None:
        """From now on this peer is not in the same state as the others."""
        self._foreign.add(peer_id)

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        self.events += 1
        match sight:
            case Send(to, message):
                self._check_bounds(
                    now_s, peer_id, to, len(encode_message(message).SerializeToString())
                )
                if isinstance(message, Accepted):
                    self._accepted.add((peer_id, message.round, message.entry_digest))
                elif isinstance(message, Decided):
                    self._check_decided(peer_id, message)
            case ApplyEntry(entry, parts):
                self._check_applied(peer_id, entry, parts)
            case Applied(round_, state_digest) if peer_id not in self._foreign:
                if self._states.setdefault(round_, state_digest) != state_digest:
                    self._violated(f"I1: {peer_id} has another state after round {round_}")
            case TakeSnapshot(round_, _):
                self._snapshots[peer_id, round_] = self._head_of(peer_id)
            case StepDone(step):
                self.steps[peer_id] = step
            case Note(text) if text.startswith("forked"):
                self._check_fork(peer_id, text)

    def _violated(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    def _head_of(self, peer_id: str) -> str:
        return self.heads[self._applied.get(peer_id, -1)].digest

    def _check_bounds(self, now_s: float, sender: str, to: str, size_bytes: int) -> None:
        if size_bytes > MAX_MESSAGE_BYTES:
            self._violated(f"I5: {sender} sent {size_bytes} bytes to {to}")
        second = (sender, to, int(now_s))
        self._sent[second] += 1
        if self._sent[second] == MAX_MESSAGES_PER_PEER_S:
            self._violated(f"I5: {sender} sent {MAX_MESSAGES_PER_PEER_S} messages to {to} in 1 s")

    def _check_decided(self, peer_id: str, decided: Decided) -> None:
        entry = decided.entry
        if not self._check_chain(peer_id, entry):
            return
        before = self.heads[entry.round - 1]
        if not is_quorum(set(decided.accepted_by), before.voters, before.tie_breaker):
            self._violated(f"I4: round {entry.round} was accepted by no quorum")
        for voter in decided.accepted_by:
            # The proposer's own accept is not seen; the others' answers are.
            if voter != peer_id and (voter, entry.round, entry.digest) not in self._accepted:
                self._violated(f"I4: {voter} never accepted the entry of round {entry.round}")

    def _check_chain(self, peer_id: str, entry: Entry) -> bool:
        """Whether the round's one entry is seen here for the first time."""
        known = self.entries.setdefault(entry.round, entry)
        if known.digest != entry.digest:
            self._violated(f"I4: {peer_id} has another entry in round {entry.round}")
        if entry.round in self.heads:
            return False
        before = self.heads.get(entry.round - 1)
        if before is None or before.digest != entry.parent:
            self._violated(f"I4: round {entry.round} continues a log that nobody decided")
            return False
        self.heads[entry.round] = Head.of_entry(entry)
        if not is_quorum(set(entry.voters), before.voters, before.tie_breaker):
            self._violated(f"I4: the voters of round {entry.round} left a quorum behind")
        self._check_contributors(entry)
        return True

    def _check_contributors(self, entry: Entry) -> None:
        for contributor in Head.of_entry(entry).contributors:
            based_on = self._snapshots.get((contributor, entry.round))
            if contributor in self._foreign or based_on != entry.parent:
                self._violated(f"I6: {contributor} was averaged in round {entry.round} from afar")

    def _check_applied(self, peer_id: str, entry: Entry, parts: tuple[bytes | None, ...]) -> None:
        if entry.round != self._applied.get(peer_id, -1) + 1:
            self._violated(f"I2: {peer_id} applied round {entry.round} out of order")
        self._applied[peer_id] = entry.round
        self._check_chain(peer_id, entry)
        named = [part and part.digest for part in entry.parts]
        if named != [None if data is None else digest(data) for data in parts]:
            self._violated(f"I2: {peer_id} applied bytes that round {entry.round} does not name")

    def _check_fork(self, peer_id: str, text: str) -> None:
        """Who did a full round, or could have done nothing but empty ones, has no reason to."""
        self.forked[peer_id] = text
        if peer_id in self._foreign:
            return
        entry = self.entries.get(self._applied.get(peer_id, -1) + 1)
        if entry is None or entry.is_empty or peer_id in entry.members:
            self._violated(f"{peer_id} forked without need: {text}")
