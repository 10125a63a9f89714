"""Audits of a simulated peer, and what a liar does: it averages falsely, or accuses falsely."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from peer.auditing import Inputs
from protocol.audit import Accusation, drawn, is_forged, is_true
from protocol.claims import Claim
from protocol.digest import digest
from protocol.events import AveragePart, CompareMean, FoundFalse, Judged, MeanDoubted
from tests.sim.plan import Plan

if TYPE_CHECKING:
    from tests.sim.peer import SimPeer
    from tests.sim.swarm import Swarm

AUDIT_S = 0.3
LIES = 0.5
"""How often a liar lies when it could."""
GARBAGE = 0.3
"""How many of its false means nobody can decode."""
DOUBTS = 0.1
"""How many of the means that arrive are doubted, true or not."""


class Audits:
    """As peer/auditing.py, on a virtual clock."""

    def __init__(self, swarm: Swarm, peer: SimPeer, plan: Plan) -> None:
        self.inputs = Inputs()
        self._swarm = swarm
        self._peer = peer
        self._plan = plan
        self._chance = random.Random(f"audits of {peer.me} in {plan.run_id}")

    def keep(self, round_: int, contributions: Iterable[bytes]) -> None:
        if self._plan.audits:
            self.inputs.keep(round_, contributions)

    def audit(self, claims: Sequence[Claim]) -> None:
        peer, numbers = self._peer, [self._chance.random() for _ in claims]
        for claim in drawn(claims, peer.me, self._plan.audits, numbers, [0.0] * len(claims)):
            self.look_into(claim)
        if peer.habits.lies == "accuses":
            others = [claim for claim in claims if claim.owner != peer.me]
            if others and self._chance.random() < LIES:
                peer.handle(FoundFalse(self._chance.choice(others)))

    def compare(self, mean: CompareMean) -> None:
        if self._chance.random() < DOUBTS:
            doubted = MeanDoubted(mean.part_index, digest(mean.data))
            self._swarm.clock.after(0.0, lambda: self._peer.run(lambda: self._peer.handle(doubted)))

    def look_into(self, claim: Claim) -> None:
        self._look_into(claim, (), lambda is_so: self._found(claim, is_so))

    def judge(self, accusation: Accusation) -> None:
        def answer(is_so: bool | None) -> None:
            self._peer.handle(Judged(accusation=accusation.digest, is_true=is_so))

        self._look_into(accusation.claim, sorted(self._swarm.peers), answer)

    def mean(self, part: AveragePart, mean: bytes) -> bytes:
        """What this peer says that the mean is."""
        if self._peer.habits.lies != "averages" or self._chance.random() > LIES:
            return mean
        codec = self._plan.codec
        if self._chance.random() < GARBAGE:
            return b"\xff" * len(mean)
        return codec.encode(codec.decode(mean, part.values) * -1)

    def _found(self, claim: Claim, is_so: bool | None) -> None:
        if is_so is False:
            self._peer.handle(FoundFalse(claim))

    def _look_into(
        self, claim: Claim, others: Iterable[str], then: Callable[[bool | None], None]
    ) -> None:
        peer = self._peer
        self._swarm.clock.after(
            AUDIT_S, lambda: peer.run(lambda: then(self._is_true(claim, others)))
        )

    def _is_true(self, claim: Claim, others: Iterable[str]) -> bool | None:
        if is_forged(claim, self._plan.tally.is_signed_by):
            return False
        inputs: dict[str, bytes] = {}
        for given in claim.contributions:
            for source in (self._peer.me, given.peer_id, claim.owner, *others):
                data = self._swarm.shown(self._peer, source, given.digest)
                if data is not None:
                    inputs[given.digest] = data
        if len(inputs) < len({given.digest for given in claim.contributions}):
            return None
        slot = claim.slot
        values = self._plan.terms.parts_of(slot.round)[slot.part_index]
        is_so = is_true(claim, inputs, values, self._peer.replica.average)
        if others or not is_so:
            self.inputs.keep_proof(inputs)
        return is_so
