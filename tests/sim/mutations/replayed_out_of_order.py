"""A peer that is behind applies entries as they arrive, in place of one after another.

Momentum makes the order matter: its state is another one for ever. I2: an entry is applied to the
state of the entry before it.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.events import Effect
from protocol.member import Member
from protocol.messages import Decided, Message

INVARIANT = "I2"


def apply() -> AbstractContextManager[object]:
    on_message = Member._on_message

    def at_once(member: Member, sender: str, message: Message, now_s: float) -> list[Effect]:
        is_later = isinstance(message, Decided) and message.round > member.round
        if not is_later or member.standing != "in step":
            return on_message(member, sender, message, now_s)
        assert isinstance(message, Decided)
        member._round.awaiting = (sender, message)
        return member._go_on(now_s)

    return patch.object(Member, "_on_message", at_once)
