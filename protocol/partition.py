"""Who owns which parts of a round, and how fast each link carries them: pure functions.

Reduce-scatter and all-gather by parts (butterfly): every member sends each owner its parts, the
owner averages and sends the mean back to everybody. A member with share w of the parts sends and
receives V * (1 + (M - 2) w) bytes. In the time that there is, shares are as equal as links allow;
where time is short, slow links get small ones: the linear programme of hivemind (Ryabinin et al.,
arXiv 2103.03239, appendix) in closed form, by water-filling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """What a member can carry, in bytes per second of payload."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    dialable: bool = True
    """A peer that cannot be dialled owns nothing."""

    @property
    def narrow_bytes_per_s(self) -> float:
        return min(self.up_bytes_per_s, self.down_bytes_per_s)


def owner_shares(
    links: Sequence[Link], fragment_bytes: float = 1.0, time_s: float = 0.0
) -> list[float]:
    """Share of the parts for each member, as equal as the time allows; sums to 1.

    Of M members, one with share w and bandwidth b is done with a fragment of V bytes after
    `V (1 + (M - 2) w) / b`: so much may each own. Where that is not enough for all parts, the
    slowest link is to be done as early as can be. With two members the shares do not matter.

    Args:
        time_s: how long the exchange may take; a fast link has no reason to carry more than others
            then, and a rate that was measured too low does no harm.
    """
    able = [i for i, link in enumerate(links) if link.dialable] or list(range(len(links)))
    shares = [0.0] * len(links)
    if len(links) <= 2:
        for i in able:
            shares[i] = 1 / len(able)
        return shares
    spare = len(links) - 2
    carried = {i: links[i].narrow_bytes_per_s * time_s / fragment_bytes for i in able}
    most = {i: max(0.0, fragments - 1) / spare for i, fragments in carried.items()}
    if sum(most.values()) < 1:
        return _earliest(links, able)
    slowest = sorted(able, key=lambda i: (most[i], i))
    rest = 1.0
    while len(slowest) > 1 and most[slowest[0]] < rest / len(slowest):
        full = slowest.pop(0)
        shares[full] = most[full]
        rest -= most[full]
    for i in slowest:
        shares[i] = rest / len(slowest)
    return shares


def _earliest(links: Sequence[Link], able: Sequence[int]) -> list[float]:
    """All members that own something are done together, at `xi` for a fragment of 1 byte: for the k
    fastest `xi = (k + M - 2) / (b_1 + .. + b_k)`; k is as large as it can be with every share
    positive."""
    shares = [0.0] * len(links)
    fastest = sorted(able, key=lambda i: (-links[i].narrow_bytes_per_s, i))
    spare = len(links) - 2
    summed, xi, owners = 0.0, 0.0, 0
    for i in fastest:
        bandwidth = links[i].narrow_bytes_per_s
        with_it = (owners + 1 + spare) / (summed + bandwidth)
        if with_it * bandwidth <= 1:
            break
        summed, xi, owners = summed + bandwidth, with_it, owners + 1
    for i in fastest[:owners]:
        shares[i] = (xi * links[i].narrow_bytes_per_s - 1) / spare
    return shares


def assign_parts(shares: Sequence[float], part_count: int) -> tuple[int, ...]:
    """Owner (an index into the members) of each part; whole parts, spread evenly over the order.

    Each part goes to the member that is furthest behind its share, so that neighbouring parts have
    different owners and all links are busy from the first part on.
    """
    owned = [0] * len(shares)
    owners = []
    for part_index in range(part_count):
        behind = [
            share * (part_index + 1) - count for share, count in zip(shares, owned, strict=True)
        ]
        owner = max(range(len(shares)), key=lambda i: (behind[i], -i))
        owned[owner] += 1
        owners.append(owner)
    return tuple(owners)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes of one round on each directed link, by member index."""

    link_bytes: Mapping[tuple[int, int], int]

    def sent_bytes(self, member: int) -> int:
        return sum(size for (source, _), size in self.link_bytes.items() if source == member)

    def received_bytes(self, member: int) -> int:
        return sum(size for (_, target), size in self.link_bytes.items() if target == member)


def round_traffic(
    owners: Sequence[int], part_bytes: Sequence[int], contributing: Sequence[bool]
) -> Traffic:
    """Both legs: contributions to the owners, means from the owners to everybody."""
    link_bytes: dict[tuple[int, int], int] = {}
    members = range(len(contributing))
    for owner, size in zip(owners, part_bytes, strict=True):
        for member in members:
            if member == owner:
                continue
            if contributing[member]:
                link_bytes[member, owner] = link_bytes.get((member, owner), 0) + size
            link_bytes[owner, member] = link_bytes.get((owner, member), 0) + size
    return Traffic(link_bytes)


def transfer_time_s(traffic: Traffic, links: Sequence[Link], target_s: float) -> float:
    """How long the exchange is planned to take: the time there is, or longer where a link is slow.

    A link then carries a flat line at the lowest rate that works, instead of a burst at its own
    speed and silence afterwards.
    """
    slowest_s = max(
        (
            max(
                traffic.sent_bytes(member) / link.up_bytes_per_s,
                traffic.received_bytes(member) / link.down_bytes_per_s,
            )
            for member, link in enumerate(links)
        ),
        default=0.0,
    )
    return max(slowest_s, target_s)
