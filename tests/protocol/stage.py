"""A simulated swarm with a transcript, and what a script needs to interfere with it."""

import random
from collections.abc import Callable, Iterator

from protocol.codec import codec_named
from protocol.events import (
    ApplyEntry,
    Effect,
    Leg,
    Send,
    SendPart,
)
from protocol.log import coordinators
from protocol.messages import Message
from tests.sim.invariants import Invariants
from tests.sim.network import Network
from tests.sim.plan import Plan
from tests.sim.saw import Sight
from tests.sim.swarm import Swarm
from tests.sim.transcript import Transcript


class Stage:
    """A swarm with a transcript, and what a script needs to interfere at the right moment."""

    def __init__(self, peer_ids: str, *, lockstep: bool = False, foreign: str = "") -> None:
        """The peers lead round 0 in the order of `peer_ids`; the first one is the tie-breaker."""
        ids = tuple(peer_ids)
        run_ids = (f"run {i}" for i in range(10_000))
        run_id = next(r for r in run_ids if coordinators(r, 0, ids) == ids)
        self.plan = Plan(peer_ids=ids, run_id=run_id, lockstep=lockstep, codec=codec_named("e3m0"))
        self.transcript = Transcript()
        self.invariants = Invariants(self.plan, frozenset(foreign))
        self.network = Network(random.Random(0))
        self.swarm = Swarm(self.plan, self.network, [self.invariants, self.transcript, self])
        self.swarm.tamper = self._arrives
        self._arrivals: list[tuple[str, str, Leg, Callable[[], None]]] = []
        self._triggers: list[tuple[str, Callable[[Sight], bool], Callable[[], None]]] = []

    def add(self, peer_ids: str, *, step_s: float = 0.25, started_from: str = "") -> None:
        for peer_id in peer_ids:
            self.swarm.add(peer_id, step_s=step_s, head=self.plan.genesis_head(started_from))

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        for trigger in list(self._triggers):
            who, matches, then = trigger
            if peer_id == who and matches(sight):
                self._triggers.remove(trigger)
                self.swarm.clock.at(now_s, then)

    def when(self, who: str, matches: Callable[[Sight], bool], then: Callable[[], None]) -> None:
        """Once, right after everything that `who` does in that moment."""
        self._triggers.append((who, matches, then))

    def when_part_arrives(self, sender: str, to: str, leg: Leg, then: Callable[[], None]) -> None:
        """Once, right after the first one."""
        self._arrivals.append((sender, to, leg, then))

    def _arrives(self, sender: str, part: SendPart) -> bytes:
        for arrival in list(self._arrivals):
            if arrival[:3] == (sender, part.to, part.leg):
                self._arrivals.remove(arrival)
                self.swarm.clock.after(0.0, arrival[3])
        return part.data

    def cut_off(self, peer_ids: str, for_s: float) -> None:
        """Nothing passes between these peers and the others for a while."""
        others = [peer for peer in self.swarm.peers if peer not in peer_ids]
        links = [link for a in peer_ids for b in others for link in ((a, b), (b, a))]
        names = " and ".join(peer_ids)
        self.swarm.cut(links, for_s, f"{names} and the others are apart")

    def play(self, *, rounds: int, at_most_s: float = 30.0) -> None:
        """Until all peers that are alive have applied so many rounds, or the time is over."""
        self.swarm.start()
        clock = self.swarm.clock
        while clock.now_s < at_most_s and not self._have_applied(rounds):
            clock.run(clock.now_s + 0.05)

    def _have_applied(self, rounds: int) -> bool:
        live = [peer for peer in self.swarm.peers.values() if not peer.is_dead]
        return all(peer.member.round >= rounds for peer in live if not peer.is_frozen)

    def text(self) -> str:
        return self.transcript.text + "".join(self._endings())

    def _endings(self) -> Iterator[str]:
        for me, peer in self.swarm.peers.items():
            if peer.is_dead:
                yield f"= {me} is dead\n"
                continue
            member = peer.member
            quorum = ", has no quorum" if member.lacks_quorum else ""
            why = f" ({member.waiting_for})" if member.waiting_for else ""
            resent = f", {member.resent_bytes} bytes sent twice" if member.resent_bytes else ""
            yield (
                f"= {me} is {member.standing}{quorum}, after round {member.head.round}"
                f" {member.head.digest[:6]}, {peer.steps} steps{resent}{why}\n"
            )


def sends(kind: type[Message]) -> Callable[[Sight], bool]:
    return lambda sight: isinstance(sight, Send) and isinstance(sight.message, kind)


def applies(round_: int) -> Callable[[Sight], bool]:
    return lambda sight: isinstance(sight, ApplyEntry) and sight.entry.round == round_


def does(kind: type[Effect]) -> Callable[[Sight], bool]:
    return lambda sight: isinstance(sight, kind)
