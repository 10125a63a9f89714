"""Who of the others is alive, as far as this peer can tell; a suspicion, never a decision.

A peer is lost when it does not answer, when it was silent for `suspect_after_s`, or when it said
that it leaves. Any message brings it back, except after a Leave: that one may still be followed by
messages that were on their way.
"""

from collections.abc import Iterable

from protocol.messages import Heartbeat

HEARTBEAT_S = 1.0


class Liveness:
    """What was heard from each other peer, and when."""

    def __init__(self, others: Iterable[str], now_s: float) -> None:
        self.lost: dict[str, str] = {}
        """Why each lost peer counts as lost, in words."""
        self.heartbeats: dict[str, Heartbeat] = {}
        self._heard_s = dict.fromkeys(others, now_s)
        self._left: set[str] = set()

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(self._heard_s)

    @property
    def reachable(self) -> tuple[str, ...]:
        """Everybody that messages for all go to: lost ones too, they may be back."""
        return tuple(sorted(self._heard_s.keys() - self._left))

    def states(self) -> dict[str, str]:
        """For people: 'live', or why a peer counts as lost."""
        return {peer: self.lost.get(peer, "live") for peer in self._heard_s}

    def hear(self, peer_id: str, now_s: float) -> bool:
        """Note a message; returns whether its sender was lost and is back."""
        self._heard_s[peer_id] = now_s
        if peer_id not in self.lost or peer_id in self._left:
            return False
        del self.lost[peer_id]
        return True

    def lose(self, peer_id: str, why: str) -> bool:
        """Returns whether that is news."""
        if peer_id in self.lost or peer_id not in self._heard_s:
            return False
        self.lost[peer_id] = why
        return True

    def leave(self, peer_id: str) -> bool:
        self._left.add(peer_id)
        return self.lose(peer_id, "left")

    def fell_silent(self, peer_id: str, now_s: float) -> bool:
        """Whether a failed call may be believed.

        One that fails long after it was made says nothing about a peer that has just been heard.
        Cost: a dead one is noticed up to one heartbeat later.
        """
        return now_s - self._heard_s.get(peer_id, now_s) >= HEARTBEAT_S

    def slept(self, slept_s: float, now_s: float) -> None:
        """This peer itself stood still (a suspended machine): others were not silent meanwhile."""
        for peer, heard_s in self._heard_s.items():
            self._heard_s[peer] = min(now_s, heard_s + slept_s)

    def silent(self, limit_s: float, now_s: float) -> dict[str, str]:
        """Peers that were silent for longer than the limit and are not lost yet, and the reason."""
        return {
            peer: f"silent for {now_s - heard_s:.0f} s"
            for peer, heard_s in self._heard_s.items()
            if now_s - heard_s > limit_s and peer not in self.lost
        }
