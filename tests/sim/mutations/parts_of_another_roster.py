"""A part is taken whatever roster it was sent for.

A roster that was replaced had other contributors, so its means are credited to the wrong ones. I7:
a mean is that of exactly those that it credits.
"""

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

from protocol.events import Effect, Leg, PartReceived
from protocol.member import Member
from tests.sim.climate import Climate

INVARIANT = "I7"
CLIMATE = Climate(
    peers=(3, 4),
    storm_s=15.0,
    longest_s=4.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("freeze", "deaf link", "join", "leave and come back", "clogged link"),
    delays_s=((0.05, 0.8),),
)


def apply() -> ExitStack:
    expected_bytes, on_part = Member.expected_bytes, Member._on_part

    def of_any(member: Member, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        exchange = member._round.exchange
        in_force = roster if exchange is None else exchange.roster_digest
        return expected_bytes(member, sender, in_force, leg, part_index)

    def take(member: Member, event: PartReceived) -> list[Effect]:
        exchange = member._round.exchange
        in_force = event.roster if exchange is None else exchange.roster_digest
        return on_part(member, replace(event, roster=in_force))

    with ExitStack() as stack:
        stack.enter_context(patch.object(Member, "expected_bytes", of_any))
        stack.enter_context(patch.object(Member, "_on_part", take))
        return stack.pop_all()
