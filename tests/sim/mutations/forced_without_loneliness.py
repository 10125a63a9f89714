"""A peer that sees no quorum forces a new term at once, in place of after `lonely_after_s`.

Every hiccup of a link breaks the log in two. I4 gives the time that has to pass.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.member import Member

INVARIANT = "I4"


def is_lonely(member: Member, now_s: float) -> bool:
    return member._lonely_since_s is not None


def apply() -> AbstractContextManager[object]:
    return patch.object(Member, "_is_lonely", is_lonely)
