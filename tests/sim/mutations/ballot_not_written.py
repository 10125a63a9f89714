"""A proposer does not write down which ballot it has begun.

After a crash it begins the same one again, with another entry. I4: a ballot has one entry, and
whatever a peer promises, itself included, is on disk before anybody hears of it.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from protocol.commit import Decision
from protocol.events import Record
from protocol.log import Entry
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(2, 3),
    storm_s=15.0,
    longest_s=3.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("crash in the middle of something", "deaf link"),
    losses=(0.05,),
)


def apply() -> AbstractContextManager[object]:
    propose = Decision.propose

    def without_a_word(decision: Decision, ballot: int, entry: Entry) -> list[Record]:
        before = decision._ballots
        return [replace(r, ballots=before) for r in propose(decision, ballot, entry)]

    return patch.object(Decision, "propose", without_a_word)
