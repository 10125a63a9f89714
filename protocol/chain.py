"""Which of two logs the swarm goes on with, when peers that were cut off meet again (I4).

Only logs with a common entry are compared. One whose quorums are unbroken since the fork beats any
with a forced term; between two broken ones the tokens committed since the fork decide, then the
smaller digest. What an entry may commit is bounded by its contributors' two cycles of tokens, so no
side gains by claiming more.
"""

from collections.abc import Sequence
from enum import Enum

from protocol.log import GENESIS_ROUND, Head
from protocol.messages import Step

MAX_TRAIL = 1024
"""Entries that a peer remembers for the comparison; a longer fork needs a snapshot anyway."""


class Verdict(Enum):
    """What a peer does about another one's log."""

    SAME = "same"
    """Neither has left the other: at most one of them is behind."""
    OURS = "ours"
    THEIRS = "theirs"
    FORCED = "forced"
    """Theirs continues ours, by force: right only for a peer that has no quorum either."""
    STRANGERS = "strangers"
    """No common entry: nothing can be said."""


def step_of(head: Head) -> Step:
    return Step(round=head.round, digest=head.digest, term=head.term, committed=head.committed)


def newest_common(ours: Sequence[Step], theirs: Sequence[Step]) -> Step | None:
    """The last entry that both logs have, as far as can be told; each newest first, not empty.

    After a snapshot a trail has a hole above genesis. Where the logs part in there, or one of them
    ends there, the other one's last entry before that is taken, with a term that fits: both sides
    come to the same answer, and whoever has to rewind without having it takes a snapshot.
    """
    mine, other = _end_of(ours), _end_of(theirs)
    known = {step.digest for step in other}
    shared = next((step for step in mine if step.digest in known), None)
    if shared is not None:
        return shared
    geneses = {trail[-1] for trail in (ours, theirs) if trail[-1].round == GENESIS_ROUND}
    if len(geneses) > 1:
        return None
    begins = max(mine[-1].round, other[-1].round)
    term = min(end[-1].term for end in (mine, other) if end[-1].round == begins)
    before = [s for s in (*mine, *other, *geneses) if s.round < begins and s.term <= term]
    return max(before, key=lambda step: (step.round, step.digest), default=None)


def with_history(steps: Sequence[Step], told: Sequence[Step]) -> tuple[Step, ...]:
    """A trail that begins with a snapshot, continued with what another peer says came before it.

    Believed as far as that peer's word was when its log was followed. Without it the comparison
    with a third log would have to guess where the two part.
    """
    before = [step for step in told if step.round < steps[-1].round]
    return (*steps, *before) if steps[-1] in told else tuple(steps)


def _end_of(trail: Sequence[Step]) -> list[Step]:
    """The newest steps without a hole."""
    return [step for place, step in enumerate(trail) if step.round == trail[0].round - place]


def compare(ours: Sequence[Step], theirs: Sequence[Step]) -> Verdict:
    """Which log to follow; both are newest first and not empty."""
    common = newest_common(ours, theirs)
    if common is None:
        return Verdict.STRANGERS
    mine, other = ours[0], theirs[0]
    if other.digest == common.digest:
        return Verdict.SAME
    if mine.digest == common.digest:
        return Verdict.FORCED if other.term > common.term else Verdict.SAME
    we_are_broken, they_are_broken = mine.term > common.term, other.term > common.term
    if we_are_broken != they_are_broken:
        return Verdict.THEIRS if we_are_broken else Verdict.OURS
    ours_is_better = (-mine.committed, mine.digest) < (-other.committed, other.digest)
    return Verdict.OURS if ours_is_better else Verdict.THEIRS
