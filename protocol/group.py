"""Who does the next round together: one pure function that also says why in words."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from protocol.log import Head
from protocol.messages import Ready
from protocol.tally import Tally


@dataclass(frozen=True, slots=True)
class Group:
    """The peers of one round. `contributors` are a subset of `members`."""

    members: tuple[str, ...]
    """In peer_id order: all contributors, and the live peers that only receive."""
    contributors: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    """(peer_id, why) for everybody expected who does not contribute."""


def form_group(
    tally: Tally,
    head: Head,
    readies: Mapping[str, Ready],
    absent: Mapping[str, str],
    liars: Collection[str] = (),
    *,
    waited_s: float,
    grace_s: float,
    exact: bool,
) -> tuple[Group | None, str]:
    """Decide whether the round can start now, and with whom.

    Args:
        head: the entry that the round continues.
        readies: who is ready for exactly this round.
        absent: for every peer heard of, this one included, why it cannot take part (it is lost,
            or on another log); empty for those that can, and these are expected.
        liars: whom no round counts on. They count as ready all the same where they have votes.
        waited_s: since a quorum of the voters was ready; 0 while there is none.
        grace_s: how long to wait for live peers that are not ready yet.
        exact: lockstep mode: nobody may be missing, however long it takes.

    Returns:
        The group, or None, and the reason in words.
    """
    ready = {peer for peer, message in readies.items() if message.parent == head.digest}
    present = {peer for peer, why in absent.items() if not why}
    expected = {*head.voters, *head.contributors, *present} - {*liars}
    waiting_for = sorted(p for p in expected - ready if exact or p in present)
    count = f"{len(ready - {*liars})} of {len(expected)} ready"
    if not tally.is_quorum(ready, head):
        return None, f"{count}: no quorum of the voters yet"
    if waiting_for and (exact or waited_s < grace_s):
        names = ", ".join(peer[:8] for peer in waiting_for)
        patience = "" if exact else f" for {grace_s - waited_s:.1f} s more"
        return None, f"{count}: waiting{patience} for {names}"
    missing = {peer: absent.get(peer) or "not ready in time" for peer in expected - ready}
    missing |= {peer: absent.get(peer) or "was proven to lie" for peer in ready & {*liars}}
    ready -= {*liars}
    # Whoever is not ready receives the means: left out, it could not follow the log any more.
    group = Group(
        members=tuple(sorted(ready.union(waiting_for))),
        contributors=tuple(sorted(peer for peer in ready if readies[peer].tokens > 0)),
        missing=tuple(sorted(missing.items())),
    )
    return group, count
