"""A voter accepts an entry at once, and fetches its bytes when it is decided.

If the peers that had the bytes die, an entry is decided that nobody can ever apply. I4: accepting
needs all the bytes on the acceptor's disk.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from protocol.events import Effect
from protocol.member import Member
from protocol.messages import Accept
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,), storm_s=12.0, lockstep=0.0, disasters=("clogged link", "crash"), losses=(0.05,)
)


def apply() -> AbstractContextManager[object]:
    go_on = Member._go_on

    def accept_at_once(member: Member, now_s: float) -> list[Effect]:
        if member._round.awaiting is None or member.standing != "in step":
            return []
        sender, message = member._round.awaiting
        if not isinstance(message, Accept) or member._round.bytes_of(message.entry) is not None:
            return go_on(member, now_s)
        member._round.awaiting = None
        nothing: tuple[None, ...] = (None,) * len(message.entry.parts)
        records = member._round.decision.on_accept(sender, message, nothing)
        return [replace(record, parts=None) for record in records]

    return patch.object(Member, "_go_on", accept_at_once)
