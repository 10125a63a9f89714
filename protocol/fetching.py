"""Which bytes this peer lacks, and whom it asks for them: parts by content address.

What an entry names is fetched by digest by whoever lacks it, before it accepts and before it
applies. Cost: those bytes twice, on somebody's uplink. The bytes of the entries that wait behind
one are fetched with it, since a round trip for each would take too long.
"""

from collections.abc import Sequence
from itertools import pairwise

from protocol.attempt import Attempt
from protocol.checks import check_decided
from protocol.errors import RemoteError
from protocol.events import Effect, FetchParts, Note
from protocol.following import FETCH_AHEAD, Following
from protocol.liveness import Liveness
from protocol.log import Head
from protocol.messages import Accept, Decided
from protocol.terms import Terms


class Fetching:
    """What has been asked for and has neither come nor failed."""

    def __init__(self, me: str, terms: Terms, log: Following, others: Liveness) -> None:
        self._me = me
        self._terms = terms
        self._log = log
        self._others = others
        self._underway: set[str] = set()
        self._refused: set[str] = set()
        """What nobody gave since the last heartbeat."""

    def unasked(self, fetch: FetchParts) -> list[Effect]:
        """What is left of a request when nothing is asked for twice at a time, or without pause."""
        held_back = self._underway | self._refused
        wanted = tuple(pair for pair in fetch.wanted if pair[0] not in held_back)
        if not wanted or not fetch.sources:
            return []
        self._underway.update(digest for digest, _ in wanted)
        return [FetchParts(wanted, fetch.sources, fetch.holders)]

    def ended(self, digest: str) -> None:
        """It came."""
        self._underway.discard(digest)

    def failed(self, digest: str) -> None:
        """Nobody gave it. Whoever says that it holds what it does not is not asked in a circle."""
        self._underway.discard(digest)
        self._refused.add(digest)

    def ask_again(self) -> None:
        """Somebody may have it by now."""
        self._refused = set()

    def forget(self) -> None:
        """Another state is in force: whatever still comes is of no use."""
        self._underway, self._refused = set(), set()

    def waiting(self, attempt: Attempt) -> list[tuple[str, Decided]]:
        """Decided entries whose bytes are not here yet, one after another; who sent them."""
        if attempt.awaiting is None:
            return []
        sender, message = attempt.awaiting
        if not isinstance(message, Decided):
            return []
        return [(sender, message), *self._log.after(message.entry)]

    def awaited(self, attempt: Attempt) -> list[Effect]:
        """Ask for the bytes of what waits for them, if anything does."""
        if attempt.awaiting is None:
            return []
        sender, message = attempt.awaiting
        sources = attempt.sources(sender)
        if isinstance(message, Accept):
            return [FetchParts(attempt.missing_of(message.entry), sources)]
        return [self._of_decided(attempt, message, sources), *self.ahead(attempt)]

    def ahead(self, attempt: Attempt) -> list[Effect]:
        """Ask for bytes of entries whose turn comes soon."""
        effects: list[Effect] = []
        waiting = self.waiting(attempt)[: 1 + FETCH_AHEAD]
        for (_, before), (sender, decided) in pairwise(waiting):
            try:
                check_decided(sender, decided, self._terms, Head.of_entry(before.entry))
            except RemoteError as error:
                del self._log.backlog[decided.round]
                return [*effects, Note(f"refused: {error}")]
            effects.append(self._of_decided(attempt, decided, attempt.sources(sender)))
        return effects

    def _of_decided(self, attempt: Attempt, decided: Decided, sources: Sequence[str]) -> FetchParts:
        # Whoever accepted it holds the bytes on disk, and whoever went on from it did.
        beats = self._others.heartbeats.items()
        further = {p for p, beat in beats if beat.round >= decided.round} - {*self._log.elsewhere}
        candidates = dict.fromkeys([*decided.accepted_by, *sorted(further)])
        holders = [p for p in candidates if p not in (self._me, *self._others.lost)]
        return FetchParts(
            attempt.missing_of(decided.entry),
            tuple(dict.fromkeys([*holders, *sources])),
            holders=max(1, len(holders)),
        )
