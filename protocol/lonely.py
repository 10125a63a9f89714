"""Without a quorum: who may go on in a new term, and when (I4).

A peer whose log stands still since too few voters are there waits for `limits.lonely_after_s`. Then
one of those with the same log, a voter if there is one, forces an empty entry in a new term, whose
voters are those that are there. Cost: if the others decide something meanwhile, their log wins, and
this one's tokens since are lost.
"""

from collections.abc import Iterable, Mapping

from protocol.following import Following
from protocol.liveness import Liveness
from protocol.presence import Presence
from protocol.terms import Terms


class Loneliness:
    """How long this peer's log has had no quorum, and who goes on without one."""

    def __init__(
        self, me: str, terms: Terms, log: Following, others: Liveness, presence: Presence
    ) -> None:
        self._me = me
        self._terms = terms
        self._log = log
        self._others = others
        self._presence = presence
        self._since_s: float | None = None

    def end(self) -> None:
        """An entry came, or another state: from now on it counts anew."""
        self._since_s = None

    def slept(self, slept_s: float) -> None:
        """This peer stood still: it may not have heard whoever was there."""
        if self._since_s is not None:
            self._since_s += slept_s

    def is_over(self, now_s: float) -> bool:
        """Whether the log has stood still for so long that a new term is right."""
        since_s = self._since_s
        return since_s is not None and now_s - since_s >= self._terms.limits.lonely_after_s

    def watch(self, able: Iterable[str], now_s: float) -> None:
        """Note whether those voters that could vote, and stand here, are enough."""
        has_quorum = self._log.is_quorum(set(filter(self._is_here, able)))
        if has_quorum or self._terms.lockstep:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s

    def new_voters(self, incarnation: str, now_s: float) -> Mapping[str, str] | None:
        """Voters of the term that this peer is to force now, and their journals; else None.

        Whoever hears of more entries gets them first: going on without them would throw them away.

        Args:
            incarnation: of this peer's own journal; empty if it cannot vote.
        """
        if not self.is_over(now_s):
            return None
        voters = {
            peer: beat.incarnation
            for peer, beat in self._others.heartbeats.items()
            if beat.head == self._log.head.digest
            and beat.trains
            and beat.incarnation
            and not self._presence.why_absent(peer)
        }
        if incarnation and not self._log.head.is_banned(self._me):
            voters[self._me] = incarnation
        old = self._log.head.voters
        first = min(voters, key=lambda peer: (peer not in old, peer), default="")
        if first != self._me or self._is_somebody_ahead():
            return None
        return dict(sorted(voters.items()))

    def _is_here(self, peer_id: str) -> bool:
        """Whether it stands at this head, or was not heard since.

        Voters that are behind and find nobody to catch up with would be waited for in vain. So
        would those that are ahead: what they decided goes on from here, and if this peer has not
        taken it, it was forced.
        """
        beat = self._others.heartbeats.get(peer_id)
        return beat is None or beat.round == self._log.head.round

    def _is_somebody_ahead(self) -> bool:
        return any(
            beat.round > self._log.head.round
            and peer not in self._others.lost
            and peer not in self._log.elsewhere
            for peer, beat in self._others.heartbeats.items()
        )
