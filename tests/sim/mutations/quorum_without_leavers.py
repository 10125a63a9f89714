"""A voter that has announced its leave is no longer counted, before an entry has omitted it.

Whoever has not heard the goodbye still counts it, and both sides decide. I4: nothing outside the
log changes who votes.
"""

from contextlib import AbstractContextManager

from protocol.presence import Presence
from tests.sim.climate import Climate
from tests.sim.mutating import STORM
from tests.sim.mutations.quorum_without_the_lost import counting_only

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,),
    storm_s=STORM.storm_s,
    longest_s=STORM.longest_s,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("leave", "crash", "crash and come back", "deaf link", "partition"),
)


def has_not_left(presence: Presence, peer_id: str) -> bool:
    return presence.lost.get(peer_id) != "left"


def apply() -> AbstractContextManager[object]:
    return counting_only(has_not_left)
