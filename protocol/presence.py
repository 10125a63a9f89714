"""Whom of the others a round can count on, as one peer sees it: a suspicion, never a decision."""

from collections.abc import Collection

from protocol.court import Court
from protocol.following import Following
from protocol.liveness import Liveness


class Presence:
    """Reads what the peer has heard of the others and where they stand; keeps nothing itself."""

    def __init__(self, me: str, log: Following, others: Liveness, court: Court) -> None:
        self._me = me
        self._log = log
        self._others = others
        self._court = court

    @property
    def known(self) -> tuple[str, ...]:
        """Everybody that this peer has met, itself included."""
        return (*self._others.known, self._me)

    @property
    def lost(self) -> dict[str, str]:
        """Why each lost peer counts as lost."""
        return self._others.lost

    @property
    def elsewhere(self) -> Collection[str]:
        """Peers that are on another log, or in another state after the same entries."""
        return self._log.elsewhere.keys()

    @property
    def astray(self) -> dict[str, str]:
        """Peers that cannot vote on what this one proposes: lost, or on another log; and why."""
        return dict.fromkeys(self._log.elsewhere, "on another log") | self._others.lost

    @property
    def liars(self) -> Collection[str]:
        """Peers that no round counts on: banned, or convicted by this peer. Until they are banned
        their votes count, like everybody's."""
        return {*dict(self._log.head.banned), *self._court.convicted}

    @property
    def to_ban(self) -> dict[str, str]:
        """Who was proven to lie, and by what: as a quorum of the voters say that will accept it."""
        beats = self._others.heartbeats.items()
        voting = {peer: beat for peer, beat in beats if self.can_vote(peer)}
        return self._court.to_ban(self._log.head, voting)

    def journal_of(self, peer_id: str) -> str:
        """The incarnation that a peer says it votes with; before it said anything, its last one."""
        beat = self._others.heartbeats.get(peer_id)
        return beat.incarnation if beat else self._log.head.incarnation_of(peer_id)

    def can_vote(self, peer_id: str) -> bool:
        """Whether another peer can be reached, stands here, and has the journal that it needs."""
        return (
            self._others.knows(peer_id)
            and peer_id not in self._others.lost
            and peer_id not in self._log.elsewhere
            and self._log.head.may_vote(peer_id, self.journal_of(peer_id))
        )

    def why_absent(self, peer_id: str) -> str:
        """Why a round cannot wait for this peer; empty if it can."""
        if peer_id == self._me:
            return ""
        if not self._others.knows(peer_id):
            return "was never met"
        if peer_id in self._others.lost:
            return self._others.lost[peer_id]
        if peer_id in self._log.elsewhere:
            return "on another log"
        if peer_id in self.liars:
            return "was proven to lie"
        heartbeat = self._others.heartbeats.get(peer_id)
        if heartbeat is not None and not heartbeat.trains:
            return "only follows"
        if peer_id in self._log.head.voters:
            return ""
        # A voter has what it needs to follow, and who was given up in the last round is not there.
        # Another peer has to fetch an entry that was decided without it: behind a slow link it
        # would never be ready in time, so a round waits for it, grace_s at most; but not for one
        # that has more to fetch.
        if heartbeat is None:
            return "behind"
        was_in_it = peer_id in self._log.head.contributors
        is_fetching = not was_in_it and self._log.lacks_one(heartbeat.head)
        return "" if is_fetching or self._log.is_close(heartbeat.head) else "behind"
