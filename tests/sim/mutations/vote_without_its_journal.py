"""A peer that came back without its journal votes on, under an incarnation that no entry lists.

It may have voted otherwise before. I4: it votes again once an entry lists its new journal.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.member import Member
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,),
    storm_s=12.0,
    longest_s=2.0,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("crash and come back without a disk",),
)


def votes(member: Member) -> bool:
    return member.me in member.head.voters and member.standing == "in step"


def apply() -> AbstractContextManager[object]:
    return patch.object(Member, "votes", property(votes))
