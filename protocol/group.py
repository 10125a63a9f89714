"""Who does the next round together: one pure function that also says why in words."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.log import Head, is_quorum
from protocol.messages import Ready


@dataclass(frozen=True, slots=True)
class Group:
    """The peers of one round. `contributors` are a subset of `members`."""

    members: tuple[str, ...]
    """In peer_id order: all contributors, and the live voters that only receive."""
    contributors: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    """(peer_id, why) for everybody expected who does not contribute."""


def form_group(
    head: Head,
    readies: Mapping[str, Ready],
    live: Mapping[str, bool],
    *,
    waited_s: float,
    grace_s: float,
    exact: bool,
) -> tuple[Group | None, str]:
    """Decide whether the round can start now, and with whom.

    Args:
        head: the entry that the round continues.
        readies: who is ready for exactly this round.
        live: every peer heard of, and whether it counts as alive.
        waited_s: since a quorum of the voters was ready; 0 while there is none.
        grace_s: how long to wait for live peers that are not ready yet.
        exact: lockstep mode: nobody may be missing, however long it takes.

    Returns:
        The group, or None, and the reason in words.
    """
    ready = {peer for peer, message in readies.items() if message.parent == head.digest}
    expected = set(head.voters) | set(head.contributors)
    waiting_for = sorted(p for p in expected - ready if exact or live.get(p, False))
    count = f"{len(ready)} of {len(expected)} ready"
    if not is_quorum(ready, head.voters, head.tie_breaker):
        return None, f"{count}: no quorum of the voters yet"
    if waiting_for and (exact or waited_s < grace_s):
        names = ", ".join(peer[:8] for peer in waiting_for)
        patience = "" if exact else f" for {grace_s - waited_s:.1f} s more"
        return None, f"{count}: waiting{patience} for {names}"
    receivers = {peer for peer in waiting_for if peer in head.voters}
    missing = {
        peer: "not ready in time" if live.get(peer, False) else "lost" for peer in expected - ready
    }
    group = Group(
        members=tuple(sorted(ready | receivers)),
        contributors=tuple(sorted(peer for peer in ready if readies[peer].tokens > 0)),
        missing=tuple(sorted(missing.items())),
    )
    return group, count
