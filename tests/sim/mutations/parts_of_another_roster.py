"""A part is taken whatever roster it was sent for.

What a frozen peer had still to send of an old round is then averaged in a new one, and means of a
roster that was replaced pass for those of its successor. I6: what comes from outside is checked for
its round before it is used; the mean is none of what was contributed.
"""

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

from protocol.attempt import Attempt
from protocol.events import Effect, Leg, PartReceived
from protocol.member import Member
from tests.sim.climate import Climate

INVARIANT = "I6"
CLIMATE = Climate(
    peers=(4, 5),
    storm_s=15.0,
    longest_s=4.0,
    most_disasters=16,
    lockstep=0.0,
    steps_s=(0.1,),
    total_steps=(400,),
    disasters=("freeze",),
    delays_s=((0.01, 0.03),),
    duplications=(0.5,),
)


def apply() -> ExitStack:
    expected_bytes, on_part = Member.expected_bytes, Attempt.on_part

    def of_any(member: Member, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        exchange = member._round.exchange
        in_force = roster if exchange is None else exchange.roster_digest
        return expected_bytes(member, sender, in_force, leg, part_index)

    def take(attempt: Attempt, event: PartReceived) -> list[Effect]:
        exchange = attempt.exchange
        in_force = event.roster if exchange is None else exchange.roster_digest
        return on_part(attempt, replace(event, roster=in_force))

    with ExitStack() as stack:
        stack.enter_context(patch.object(Member, "expected_bytes", of_any))
        stack.enter_context(patch.object(Attempt, "on_part", take))
        return stack.pop_all()
