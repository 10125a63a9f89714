"""What a roster or an entry must satisfy before anything of it is used (I6)."""

from collections.abc import Collection
from typing import Final

from protocol.court import may_ban
from protocol.digest import is_digest
from protocol.errors import RemoteError
from protocol.log import Entry, Head, tokens_times_values
from protocol.messages import Decided, Roster
from protocol.terms import Terms

MAX_BANNED: Final = 1024
"""In a log: a run of strangers that has met more liars is better founded anew."""


def check_entry(sender: str, entry: Entry, terms: Terms, head: Head) -> None:
    """Raises RemoteError when an entry does not continue `head`, or contradicts itself or the run.

    An entry without a quorum of the voters before it (a forced term) has the next higher term and
    no parts; every other one has the term of its parent.
    """
    schedule = terms.schedule
    if entry.round != head.round + 1 or entry.parent != head.digest:
        raise RemoteError(sender, f"an entry that does not continue round {head.round}")
    fits = (
        entry.term in (head.term, head.term + 1)
        and (entry.term == head.term or entry.is_empty)
        and entry.fragment_id == schedule.fragment_of(entry.round)
        and entry.planned_steps == schedule.planned_steps(entry.round)
        and len(entry.parts) == len(terms.parts_of(entry.round))
        and entry.members == tuple(sorted(set(entry.members)))
        and 0 < len(entry.voters) <= terms.limits.max_peers
        and entry.voters == tuple(sorted(set(entry.voters)))
        and entry.tie_breaker in entry.voters
        and _are_banned_rightly(entry, head)
    )
    if fits:
        values = terms.parts_of(entry.round)
        fits = entry.committed == head.committed + tokens_times_values(entry.parts, values)
    if not fits:
        raise RemoteError(sender, f"entry of round {entry.round} is malformed")


def _are_banned_rightly(entry: Entry, head: Head) -> bool:
    """Once and for all, and nobody of them a voter from now on.

    Whether they lied, says protocol/court.py.
    """
    banned = dict(entry.banned)
    return (
        entry.banned == tuple(sorted(banned.items()))
        and len(banned) <= MAX_BANNED
        and set(head.banned) <= set(entry.banned)
        and (entry.banned == head.banned or may_ban(entry.term, head))
        and all(is_digest(proof) for proof in banned.values())
        and not banned.keys() & set(entry.voters)
        and not dict(head.banned).keys() & set(entry.members)
    )


def check_decided(sender: str, decided: Decided, terms: Terms, head: Head) -> None:
    """Raises RemoteError when it is not what the voters of `head` decided."""
    check_entry(sender, decided.entry, terms, head)
    terms.tally.check(sender, decided, head)


def check_roster(
    sender: str,
    roster: Roster,
    terms: Terms,
    me: str,
    my_tokens: int,
    banned: Collection[tuple[str, str]] = (),
) -> None:
    """Raises RemoteError when a roster cannot be followed.

    Args:
        banned: as in the entry that it continues.
        my_tokens: what this peer said that it would contribute; the roster may also say 0.
    """
    peer_ids = roster.peer_ids
    told_tokens = next((m.tokens for m in roster.members if m.peer_id == me), -1)
    fits = (
        peer_ids == tuple(sorted(set(peer_ids)))
        and told_tokens in (0, my_tokens)
        and len(roster.owners) == len(terms.parts_of(roster.round))
        and all(0 <= owner < len(peer_ids) for owner in roster.owners)
        and all(member.tokens >= 0 for member in roster.members)
        and any(member.tokens > 0 for member in roster.members)
        and not dict(banned).keys() & set(peer_ids)
        and 0 < roster.transfer_s < 1e6
        and 0 < roster.close_s <= roster.deadline_s <= terms.limits.round_deadline_s
    )
    if not fits:
        raise RemoteError(sender, f"roster of round {roster.round} is malformed")
