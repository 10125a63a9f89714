"""What a coordinator puts together: the roster of a round, and the entry that ends it.

Pure functions. When a coordinator acts is `protocol/member.py`'s business; who may be in a round is
`protocol/group.py`'s.
"""

from collections.abc import Mapping

from protocol.group import Group
from protocol.log import Entry, Head, Part, coordinators, is_quorum
from protocol.messages import Member, Ready, Roster
from protocol.partition import Link, assign_parts, owner_shares, round_traffic, transfer_time_s
from protocol.terms import Terms

MIN_TRANSFER_S = 0.05
_UNKNOWN_LINK = Link(1e9, 1e9, dialable=False)
"""Of a live voter that is not ready: it owns nothing, and is known only to be slow."""


def plan_roster(
    terms: Terms, head: Head, group: Group, readies: Mapping[str, Ready], ballot: int
) -> Roster:
    """Owners, time and deadline for a group: the exchange fills the time until the next round."""
    round_ = head.round + 1
    told = [readies.get(peer) for peer in group.members]
    links = [
        Link(r.up_bytes_per_s, r.down_bytes_per_s, r.dialable) if r else _UNKNOWN_LINK for r in told
    ]
    part_bytes = [terms.codec.encoded_bytes(values) for values in terms.parts_of(round_)]
    owners = assign_parts(owner_shares(links), len(part_bytes))
    traffic = round_traffic(owners, part_bytes, [p in group.contributors for p in group.members])
    ready = [r for r in told if r]
    planned_s = transfer_time_s(traffic, links, _time_to_next_round_s(terms, round_, ready))
    longest_s = terms.limits.round_deadline_s
    transfer_s = min(max(planned_s, MIN_TRANSFER_S), longest_s)
    # A snapshot waits for the end of an inner step.
    step_s = max((1 / r.pace_steps_per_s for r in ready if r.pace_steps_per_s > 0), default=0.0)
    return Roster(
        round=round_,
        ballot=ballot,
        parent=head.digest,
        members=tuple(
            Member(
                peer_id=peer,
                tokens=r.tokens if r and peer in group.contributors else 0,
                pace_steps_per_s=r.pace_steps_per_s if r else 0.0,
            )
            for peer, r in zip(group.members, told, strict=True)
        ),
        owners=owners,
        missing=group.missing,
        transfer_s=transfer_s,
        deadline_s=min(longest_s, 2 * transfer_s + terms.limits.grace_s + step_s),
    )


def _time_to_next_round_s(terms: Terms, round_: int, readies: list[Ready]) -> float:
    """Until the next round is due, less what readying and deciding were measured to take."""
    steps = terms.schedule.planned_steps(round_ + 1)
    paces = sorted(ready.pace_steps_per_s for ready in readies if ready.pace_steps_per_s > 0)
    if terms.lockstep or steps == 0 or not paces:
        return 0.0
    gap_s = steps / paces[len(paces) // 2]
    return max(0.0, gap_s - max(ready.overhead_s for ready in readies))


def full_parts(roster: Roster, mean_digests: tuple[str, ...]) -> tuple[Part, ...]:
    """The part table of a round in which every contributor is in every part."""
    tokens = tuple(member.tokens for member in roster.members)
    return tuple(Part(part_digest, tokens) for part_digest in mean_digests)


def next_entry(
    terms: Terms,
    head: Head,
    *,
    members: tuple[str, ...],
    lost: Mapping[str, str],
    parts: tuple[Part, ...] | None,
    missing: tuple[tuple[str, str], ...],
    reason: str = "",
) -> Entry:
    """The entry after `head`; `parts` None makes it empty, for the reason given."""
    round_ = head.round + 1
    voters = tuple(peer for peer in members if peer not in lost)
    # Who sees no quorum is cut off itself and does not judge who is gone: dropping the others
    # would let it decide alone from then on. In lockstep nobody may be missing.
    if terms.lockstep or not is_quorum(set(voters), head.voters, head.tie_breaker):
        voters = members
    tie_breaker = head.tie_breaker
    if tie_breaker not in voters:
        tie_breaker = coordinators(terms.run_id, round_ + 1, voters)[0]
    return Entry(
        round=round_,
        fragment_id=terms.schedule.fragment_of(round_),
        parent=head.digest,
        planned_steps=terms.schedule.planned_steps(round_),
        members=members,
        voters=voters,
        tie_breaker=tie_breaker,
        parts=(None,) * len(terms.parts_of(round_)) if parts is None else parts,
        missing=missing,
        reason=reason[:200],
    )
