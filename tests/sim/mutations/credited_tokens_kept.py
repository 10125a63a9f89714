"""Tokens that an entry has credited stay pending, and are claimed once more.

Its contributor weighs too much in the next mean. I7: every token is contributed, pending or lost,
and only one of the three.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.ledger import Ledger
from protocol.log import Entry

INVARIANT = "I7"


def apply() -> AbstractContextManager[object]:
    decided = Ledger.decided

    def kept(ledger: Ledger, entry: Entry, me: str) -> None:
        account = ledger.accounts[entry.fragment_id]
        pending = list(account.pending)
        decided(ledger, entry, me)
        account.pending = pending

    return patch.object(Ledger, "decided", kept)
