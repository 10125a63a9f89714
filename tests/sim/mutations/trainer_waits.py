"""A trainer that has told its share trains no further before the round is decided.

Every late peer then stops all the others, as in lockstep. I3: training never waits for the network.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from tests.sim.peer import SimPeer

INVARIANT = "I3"


def apply() -> AbstractContextManager[object]:
    step = SimPeer._step

    def unless_waiting(peer: SimPeer, took_s: float) -> None:
        is_waiting = peer._told_round == peer.member.round
        peer._hold_at = peer.steps if is_waiting else None
        step(peer, took_s)

    return patch.object(SimPeer, "_step", unless_waiting)
