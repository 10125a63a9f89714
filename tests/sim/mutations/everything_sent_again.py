"""When a member is given up, everybody sends all its contributions once more.

One flapping peer then fills every uplink. I5, and section 4, step 4: nothing that has arrived is
sent again.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.events import Effect
from protocol.messages import Amend
from protocol.round import Exchange

INVARIANT = "I5"


def apply() -> AbstractContextManager[object]:
    amend = Exchange.amend

    def once_more(exchange: Exchange, leader: str, amendment: Amend) -> list[Effect]:
        exchange._sent.clear()
        effects = amend(exchange, leader, amendment)
        return effects + exchange._scatter(exchange._rates)

    return patch.object(Exchange, "amend", once_more)
