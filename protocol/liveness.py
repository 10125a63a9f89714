"""Who of the others is alive, as far as this peer can tell; a suspicion, never a decision.

A peer is lost when it does not answer, when it was silent for `suspect_after_s`, when it says that
it does not hear this one (a link that carries one way only is down on both sides), or when it said
that it leaves. Any message brings it back, except after a Leave: that one may still be followed by
messages that were on their way.
"""

from collections.abc import Container, Iterable

from protocol.messages import Heartbeat

HEARTBEAT_S = 1.0


class Liveness:
    """What was heard from each other peer, and when."""

    def __init__(self, me: str, others: Iterable[str], now_s: float) -> None:
        self.lost: dict[str, str] = {}
        """Why each lost peer counts as lost, in words."""
        self.heartbeats: dict[str, Heartbeat] = {}
        self._me = me
        self._heard_s = dict.fromkeys(others, now_s)
        self._left: set[str] = set()
        self._deaf: set[str] = set()

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(self._heard_s)

    def knows(self, peer_id: str) -> bool:
        return peer_id in self._heard_s

    def reachable(self, voters: Container[str]) -> tuple[str, ...]:
        """Everybody that messages for all go to: lost ones too, they may be back.

        A leaver stays until an entry has taken its vote away, and has to hear of that entry.
        """
        return tuple(sorted(p for p in self._heard_s if p not in self._left or p in voters))

    @property
    def live(self) -> tuple[str, ...]:
        """Everybody that is not lost."""
        return tuple(sorted(p for p in self._heard_s if p not in self.lost))

    @property
    def unheard(self) -> tuple[str, ...]:
        """Peers that this one has not heard, by its own observation: it tells them so."""
        return tuple(sorted(self.lost.keys() - self._left - self._deaf))

    def states(self) -> dict[str, str]:
        """For people: 'live', or why a peer counts as lost."""
        return {peer: self.lost.get(peer, "live") for peer in self._heard_s}

    def meet(self, peer_id: str, now_s: float) -> None:
        """A peer is there, for the first time or after it had left."""
        self._heard_s[peer_id] = now_s
        self._left.discard(peer_id)
        self._deaf.discard(peer_id)
        self.lost.pop(peer_id, None)

    def forget(self, peer_id: str) -> None:
        """Messages for all no longer go there."""
        self._heard_s.pop(peer_id, None)
        self.lost.pop(peer_id, None)
        self.heartbeats.pop(peer_id, None)
        self._left.discard(peer_id)
        self._deaf.discard(peer_id)

    def hear(self, peer_id: str, now_s: float) -> str:
        """Note a message; returns why its sender was lost, if it is back; empty otherwise."""
        self._heard_s[peer_id] = now_s
        if peer_id not in self.lost or peer_id in self._left or peer_id in self._deaf:
            return ""
        return self.lost.pop(peer_id)

    def beat(self, peer_id: str, heartbeat: Heartbeat) -> bool:
        """Note where a peer stands; returns whether it is news that it does not hear this one."""
        self.heartbeats[peer_id] = heartbeat
        if self._me in heartbeat.deaf_to:
            if peer_id in self.lost:
                return False
            self._deaf.add(peer_id)
            return self.lose(peer_id, "does not hear this peer")
        if peer_id in self._deaf:
            self._deaf.discard(peer_id)
            if peer_id not in self._left:
                self.lost.pop(peer_id, None)
        return False

    def lose(self, peer_id: str, why: str) -> bool:
        """Returns whether that is news."""
        if peer_id in self.lost or peer_id not in self._heard_s:
            return False
        self.lost[peer_id] = why
        return True

    def leave(self, peer_id: str) -> bool:
        self._left.add(peer_id)
        self._deaf.discard(peer_id)
        was_lost = self.lost.pop(peer_id, None) is not None
        return self.lose(peer_id, "left") and not was_lost

    def was_heard_since(self, peer_id: str, began_s: float) -> bool:
        """Whether a call that began then, and failed, says nothing about the peer any more."""
        return self._heard_s.get(peer_id, began_s) > began_s

    def slept(self, slept_s: float, now_s: float) -> None:
        """This peer itself stood still (a suspended machine): others were not silent meanwhile."""
        for peer, heard_s in self._heard_s.items():
            self._heard_s[peer] = min(now_s, heard_s + slept_s)

    def silent(self, limit_s: float, now_s: float) -> dict[str, str]:
        """Peers that were silent for longer than the limit and are not lost yet, and the reason."""
        silent_s = {peer: now_s - heard_s for peer, heard_s in self._heard_s.items()}
        silent = {peer for peer, so_long in silent_s.items() if so_long > limit_s}
        # One that was deaf may hear by now: this peer does not hear it, and has to tell it so.
        self._deaf -= silent
        news = sorted(silent - self.lost.keys())
        return {peer: f"silent for {silent_s[peer]:.0f} s" for peer in news}
