"""Where a peer stands in the log, and what it does when others stand elsewhere.

    behind      they have entries after mine -> Ask; replay, or a snapshot if that is fewer bytes
    forked      their entries are not mine -> Trails are compared (protocol/chain.py); the loser
                rewinds to the common entry and follows the other chain
    alone       too few voters are there for any entry -> after `lonely_after_s` a new term

Nothing here decides an entry: that is protocol/attempt.py's.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from protocol.chain import MAX_TRAIL, step_of
from protocol.log import GENESIS_ROUND, Entry, Head
from protocol.messages import Decided, Step, Trail
from protocol.terms import Terms

ENTRIES_PER_ASK = 16
"""Entries sent to a peer that is behind, in answer to one question."""
FETCH_AHEAD = 4
"""Entries whose bytes may be on their way before their turn has come."""
ASK_AGAIN_S = 1.0
TRAIL_AGAIN_S = 3.0


def replay_bytes(terms: Terms, after_round: int, last_round: int) -> int:
    """Most bytes that the entries of these rounds can have."""
    rounds = terms.schedule.num_fragments
    full, rest = divmod(max(0, last_round - after_round), rounds)
    per_fragment = [sum(map(terms.codec.encoded_bytes, parts)) for parts in terms.part_values]
    tail = sum(per_fragment[(after_round + 1 + i) % rounds] for i in range(rest))
    return full * sum(per_fragment) + tail


def snapshot_bytes(terms: Terms) -> int:
    """Of global_params and momentum in fp32, and of what is replayed on top on the average."""
    values = sum(sum(parts) for parts in terms.part_values)
    return 8 * values + replay_bytes(terms, -1, terms.limits.checkpoint_rounds // 2 - 1)


class Following:
    """The end of this peer's log, and the entries that wait for their turn."""

    def __init__(
        self,
        terms: Terms,
        head: Head,
        trail: Iterable[Step] = (),
        genesis: Step | None = None,
    ) -> None:
        """Args:
        trail: newest first, `head` included; after a snapshot there may be nothing before it.
        genesis: of the run, if it is known and not in the trail.
        """
        self._terms = terms
        self.genesis = genesis
        """However long the log is: all logs of a run have it in common."""
        self.restore(head, trail)

    def restore(self, head: Head, trail: Iterable[Step]) -> None:
        """Go on from another entry, of which this is the trail."""
        self.head = head
        self.backlog: dict[int, tuple[str, Decided]] = {}
        """Decided entries of later rounds and who sent them, at most ENTRIES_PER_ASK."""
        self.elsewhere: dict[str, str] = {}
        """Peers that are on another log or in another state, and what theirs was."""
        self.is_gone = False
        """Nobody has the entry after the head any more, or not its bytes."""
        steps = list(trail) or [step_of(head)]
        if steps[-1].round == GENESIS_ROUND:
            self.genesis = steps[-1]
        self._trail: deque[Step] = deque(steps[:MAX_TRAIL], maxlen=MAX_TRAIL)
        self._rounds = {step.round: step.digest for step in self.trail.steps}
        # Entries from which the head is reached through empty ones, that is, without any bytes; and
        # those from which it takes the bytes of one entry.
        self._close_heads: deque[str] = deque([head.digest], maxlen=MAX_TRAIL)
        self._heads_before: deque[str] = deque(maxlen=MAX_TRAIL)
        self._asked_s = float("-inf")
        self._asked = ""
        self._gone: set[str] = set()
        """Peers that no longer have the entry after the head."""
        self._served_s: dict[str, float] = {}
        self._trailed_s: dict[str, float] = {}

    def advance(self, entry: Entry) -> None:
        """This entry is the head from now on."""
        self.head = Head.of_entry(entry)
        self.ask_anew()
        if not entry.is_empty:
            self._heads_before = self._close_heads
            self._close_heads = deque(maxlen=MAX_TRAIL)
        self._close_heads.append(entry.digest)
        if len(self._trail) == MAX_TRAIL and self._trail[-1] != self.genesis:
            del self._rounds[self._trail[-1].round]
        self._trail.appendleft(step_of(self.head))
        self._rounds[entry.round] = entry.digest

    @property
    def trail(self) -> Trail:
        steps = tuple(self._trail)
        if self.genesis not in (None, steps[-1]):
            steps = (*steps[: MAX_TRAIL - 1], self.genesis)
        return Trail(round=self.head.round, steps=steps)

    def is_close(self, head: str) -> bool:
        """Whether a peer with this head lacks no bytes of anything after it."""
        return head in self._close_heads

    def lacks_one(self, head: str) -> bool:
        """Whether a peer with this head lacks the bytes of one entry, of all after it."""
        return head in self._heads_before

    def contradicts(self, round_: int, head: str) -> bool:
        """Whether this log has another entry in that round."""
        return self._rounds.get(round_, head) != head

    def keep_for_later(self, sender: str, decided: Decided) -> None:
        if decided.round <= self.head.round + ENTRIES_PER_ASK:
            self.backlog[decided.round] = (sender, decided)

    def next_in_backlog(self) -> tuple[str, Decided] | None:
        for old in [r for r in self.backlog if r <= self.head.round]:
            del self.backlog[old]
        return self.backlog.pop(self.head.round + 1, None)

    def after(self, entry: Entry) -> Iterator[tuple[str, Decided]]:
        """What waits behind an entry, as far as it is one chain; the oldest first."""
        while (kept := self.backlog.get(entry.round + 1)) and kept[1].entry.parent == entry.digest:
            yield kept
            entry = kept[1].entry

    def is_worth_a_snapshot(self, their_round: int) -> bool:
        """Whether what was missed is gone, or replaying it is more bytes than a snapshot."""
        behind = replay_bytes(self._terms, self.head.round, their_round)
        return self.is_gone or behind > snapshot_bytes(self._terms)

    def whom_to_ask(self, peers: Iterable[str], now_s: float) -> str | None:
        """One of these peers, each in turn; None while the last question may yet be answered."""
        able = sorted(set(peers) - self._gone)
        if not able or now_s < self._asked_s + ASK_AGAIN_S:
            return None
        self._asked = next((peer for peer in able if peer > self._asked), able[0])
        self._asked_s = now_s
        return self._asked

    def ask_anew(self) -> None:
        """Whoever had nothing to give may be asked again."""
        self._gone.clear()
        self.is_gone = False

    def is_gone_from(self, peer_id: str, peers: Iterable[str]) -> bool:
        """A peer no longer has what comes next; whether none of these peers may have it either."""
        self._gone.add(peer_id)
        self._asked_s = float("-inf")
        return self._gone.issuperset(peers)

    def may_serve(self, peer_id: str, now_s: float) -> bool:
        """Whether this peer was not sent entries unasked a moment ago."""
        return _again(self._served_s, peer_id, ASK_AGAIN_S, now_s)

    def may_trail(self, peer_id: str, now_s: float) -> bool:
        return _again(self._trailed_s, peer_id, TRAIL_AGAIN_S, now_s)

    def is_quorum(self, peers: set[str]) -> bool:
        return self._terms.tally.is_quorum(peers, self.head)


def _again(last_s: dict[str, float], peer_id: str, pause_s: float, now_s: float) -> bool:
    if now_s < last_s.get(peer_id, float("-inf")) + pause_s:
        return False
    last_s[peer_id] = now_s
    return True
