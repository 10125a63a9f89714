"""What a coordinator puts together: the roster of a round, and the entry that ends it.

Pure functions. When a coordinator acts is `protocol/member.py`'s business; who may be in a round is
`protocol/group.py`'s.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from protocol.group import Group
from protocol.log import Entry, Head, Part, coordinators, tokens_times_values
from protocol.messages import Mean, Member, Ready, Roster
from protocol.partition import Link, assign_parts, owner_shares, round_traffic, transfer_time_s
from protocol.schedule import median_pace
from protocol.terms import Terms

MIN_TRANSFER_S = 0.05
FLAT_SHARE = 0.6
"""Of the time between two rounds that an exchange is given at least, where deciding takes long: on
a busy machine, or with a slow disk. The cost: rounds then take longer than planned; a shorter one
would be a burst, and what makes them long would still be there."""
_UNKNOWN_LINK = Link(1e9, 1e9, dialable=False)
"""Of a live voter that is not ready: it owns nothing, and is known only to be slow."""


def plan_roster(
    terms: Terms,
    head: Head,
    group: Group,
    readies: Mapping[str, Ready],
    incarnations: Mapping[str, str],
    ballot: int,
) -> Roster:
    """Owners, time and deadline for a group: the exchange fills the time until the next round.

    Args:
        incarnations: of each member's journal, as far as it is known.
    """
    round_ = head.round + 1
    told = [readies.get(peer) for peer in group.members]
    links = [
        Link(r.up_bytes_per_s, r.down_bytes_per_s, r.dialable) if r else _UNKNOWN_LINK for r in told
    ]
    part_bytes = [terms.codec.encoded_bytes(values) for values in terms.parts_of(round_)]
    ready = [r for r in told if r]
    target_s = _time_to_next_round_s(terms, round_, ready)
    shares = owner_shares(links, sum(part_bytes), target_s)
    owners = assign_parts(shares, len(part_bytes))
    traffic = round_traffic(owners, part_bytes, [p in group.contributors for p in group.members])
    planned_s = transfer_time_s(traffic, links, target_s)
    longest_s = terms.limits.round_deadline_s
    transfer_s = min(max(planned_s, MIN_TRANSFER_S), longest_s)
    # Room for a machine that is busy: what takes its processor for a step may hold up all else.
    step_s = max((1 / r.pace_steps_per_s for r in ready if r.pace_steps_per_s > 0), default=0.0)
    close_s = 1.5 * transfer_s + terms.limits.grace_s / 2 + step_s
    deadline_s = 2 * transfer_s + terms.limits.grace_s + step_s
    return Roster(
        round=round_,
        ballot=ballot,
        parent=head.digest,
        members=tuple(
            Member(
                peer_id=peer,
                incarnation=incarnations.get(peer, ""),
                tokens=r.tokens if r and peer in group.contributors else 0,
                pace_steps_per_s=r.pace_steps_per_s if r else 0.0,
            )
            for peer, r in zip(group.members, told, strict=True)
        ),
        owners=owners,
        missing=group.missing,
        transfer_s=transfer_s,
        close_s=min(longest_s * 0.75, close_s),
        deadline_s=min(longest_s, deadline_s),
    )


def _time_to_next_round_s(terms: Terms, round_: int, readies: list[Ready]) -> float:
    """Until the next round is due, less what is measured to come after the exchange: deciding."""
    steps = terms.schedule.planned_steps(round_ + 1)
    pace = median_pace(ready.pace_steps_per_s for ready in readies)
    if terms.lockstep or steps == 0 or pace == 0:
        return 0.0
    gap_s = steps / pace
    return max(FLAT_SHARE * gap_s, gap_s - max(ready.overhead_s for ready in readies))


def resend_time_s(
    terms: Terms, roster: Roster, readies: Mapping[str, Ready], moved: Sequence[int]
) -> float:
    """How long it is planned to take until the next owners of these parts have averaged them.

    Half of each link: what was planned before still travels on it.
    """
    if not moved:
        return 0.0
    part_bytes = [terms.codec.encoded_bytes(v) for v in terms.parts_of(roster.round)]
    narrowest = min(
        (min(r.up_bytes_per_s, r.down_bytes_per_s) for r in readies.values()), default=1e6
    )
    # Every contributor sends all of these parts; every heir then sends its share to everybody.
    planned_s = 2 * sum(part_bytes[p] for p in moved) / narrowest + MIN_TRANSFER_S
    return min(planned_s, terms.limits.round_deadline_s)


def heirs_of(
    owners: Sequence[int], orphaned: Sequence[int], alive: Sequence[int]
) -> tuple[int, ...]:
    """New owners: each orphaned part goes to the live member that owns the fewest parts."""
    assert alive
    new = list(owners)
    owned = {member: sum(owner == member for owner in owners) for member in alive}
    for part_index in orphaned:
        heir = min(alive, key=lambda member: (owned[member], member))
        owned[heir] += 1
        new[part_index] = heir
    return tuple(new)


def choose_means(held: Mapping[str, Sequence[Mean]], part_count: int) -> tuple[Mean | None, ...]:
    """For each part the mean to commit, of those that somebody holds.

    The one with the most contributions; then the one that most peers hold; then the smaller digest.
    """
    holders = Counter(mean for means in held.values() for mean in means)
    chosen: list[Mean | None] = [None] * part_count
    for mean in sorted(holders, key=lambda m: (len(m.without), -holders[m], m.digest, m.without)):
        if chosen[mean.part_index] is None:
            chosen[mean.part_index] = mean
    return tuple(chosen)


def next_entry(
    terms: Terms,
    head: Head,
    *,
    members: Mapping[str, str],
    lost: Mapping[str, str],
    parts: Sequence[Part | None] | None,
    missing: tuple[tuple[str, str], ...],
    banned: Mapping[str, str] = MappingProxyType({}),
    reason: str = "",
) -> Entry:
    """The entry after `head`; `parts` None makes it empty, for the reason given.

    Args:
        members: the group in peer_id order, and the incarnation of each one's journal ("" for a
            peer of which none is known: it gets no vote).
        banned: who was proven to lie since `head`, and the digest of the proof.
    """
    round_ = head.round + 1
    banned = dict(head.banned) | dict(banned)
    old = without_banned(head, banned)
    if not old.voters:
        banned, old = dict(head.banned), head  # somebody has to decide
    voters = {p: i for p, i in members.items() if p not in lost and p not in banned and i}
    # Who sees no quorum is cut off itself and does not judge who is gone: dropping the others
    # would let it decide alone from then on. In lockstep nobody may be missing.
    if terms.lockstep or not terms.tally.is_quorum(set(voters), old):
        voters = dict(zip(old.voters, old.incarnations, strict=True))
    tie_breaker = head.tie_breaker
    if tie_breaker not in voters:
        tie_breaker = coordinators(terms.run_id, round_ + 1, tuple(voters))[0]
    values = terms.parts_of(round_)
    table = (None,) * len(values) if parts is None else tuple(parts)
    return Entry(
        round=round_,
        term=head.term,
        fragment_id=terms.schedule.fragment_of(round_),
        parent=head.digest,
        planned_steps=terms.schedule.planned_steps(round_),
        members=tuple(members),
        voters=tuple(voters),
        incarnations=tuple(voters.values()),
        tie_breaker=tie_breaker,
        parts=table,
        committed=head.committed + tokens_times_values(table, values),
        missing=missing,
        banned=tuple(sorted(banned.items())),
        reason=reason[:200],
    )


def without_banned(head: Head, banned: Container[str]) -> Head:
    """As if these were no voters: what they say must not count against the others."""
    voters = zip(head.voters, head.incarnations, strict=True)
    left = {peer: journal for peer, journal in voters if peer not in banned}
    return replace(head, voters=tuple(left), incarnations=tuple(left.values()))


def forced_entry(terms: Terms, head: Head, *, me: str, voters: Mapping[str, str]) -> Entry:
    """How peers that have been without a quorum for long go on: an empty entry in a new term."""
    entry = next_entry(
        terms,
        head,
        members=voters,
        lost={},
        parts=None,
        missing=tuple((peer, "cut off") for peer in head.voters if peer not in voters),
        reason=f"{me[:8]} forces a new term after {terms.limits.lonely_after_s:.0f} s of no quorum",
    )
    return replace(
        entry,
        term=head.term + 1,
        voters=tuple(voters),
        incarnations=tuple(voters.values()),
        tie_breaker=me,
    )
