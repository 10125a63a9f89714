"""The exchange of one round under one roster: reduce-scatter and all-gather, seen by one member.

Contributions go to the owner of each part; when an owner has all of a part's contributions it
averages them, encodes the mean once, and sends those bytes to every member, itself included (I1).
"""

from collections.abc import Sequence

from protocol.codec import Codec
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import AveragePart, Effect, Leg, SendPart
from protocol.messages import Roster
from protocol.partition import round_traffic

RATE_HEADROOM = 1.08
"""A link runs this much faster than planned, since the last means leave only after the last
contributions came in. The rates that a peer publishes leave room for it."""


class Exchange:
    """All that one member sends and receives in one round."""

    def __init__(self, me: str, roster: Roster, codec: Codec, part_values: Sequence[int]) -> None:
        """`part_values`: values in each part of the round's fragment."""
        self.roster = roster
        self.roster_digest = roster.digest
        self._me = me
        self._part_values = tuple(part_values)
        self._part_bytes = tuple(codec.encoded_bytes(values) for values in part_values)
        self._owners = tuple(roster.peer_ids[owner] for owner in roster.owners)
        self._contributors = tuple(m.peer_id for m in roster.members if m.tokens > 0)
        self._tokens = {m.peer_id: m.tokens for m in roster.members}
        self._inbox: list[dict[str, bytes]] = [{} for _ in part_values]
        self._means: list[bytes | None] = [None] * len(part_values)
        self._rates = self._planned_rates()

    def _planned_rates(self) -> dict[str, float]:
        """Bytes per second towards each other member: what it gets, over the planned time."""
        traffic = round_traffic(
            self.roster.owners, self._part_bytes, [m.tokens > 0 for m in self.roster.members]
        )
        mine = self.roster.peer_ids.index(self._me)
        return {
            peer: RATE_HEADROOM * traffic.link_bytes.get((mine, place), 0) / self.roster.transfer_s
            for place, peer in enumerate(self.roster.peer_ids)
        }

    @property
    def contributes(self) -> bool:
        return self._me in self._contributors

    @property
    def is_complete(self) -> bool:
        return all(mean is not None for mean in self._means)

    @property
    def means(self) -> tuple[bytes | None, ...]:
        return tuple(self._means)

    @property
    def mean_digests(self) -> tuple[str, ...]:
        assert self.is_complete
        return tuple(digest(mean) for mean in self._means if mean is not None)

    @property
    def parts_digest(self) -> str:
        """One digest over all means: equal on all members, or the round is void."""
        return digest("".join(self.mean_digests).encode())

    def expected_bytes(self, sender: str, leg: Leg, part_index: int) -> int:
        """Size of a part that `sender` may send here.

        Raises:
            RemoteError: this sender has no business with that part.
        """
        if not 0 <= part_index < len(self._owners):
            raise RemoteError(sender, f"there is no part {part_index}")
        owner = self._owners[part_index]
        if leg is Leg.SCATTER and (owner != self._me or sender not in self._contributors):
            raise RemoteError(sender, f"contribution to part {part_index} is not for this peer")
        if leg is Leg.GATHER and owner != sender:
            raise RemoteError(sender, f"mean of part {part_index}, which it does not own")
        return self._part_bytes[part_index]

    def contribute(self, parts: Sequence[bytes]) -> list[Effect]:
        """Send this member's encoded parts to their owners."""
        effects: list[Effect] = []
        for part_index, (owner, data) in enumerate(zip(self._owners, parts, strict=True)):
            if owner == self._me:
                effects += self._collect(self._me, part_index, data)
            else:
                effects.append(self._send(owner, Leg.SCATTER, part_index, data))
        return effects

    def receive(self, sender: str, leg: Leg, part_index: int, data: bytes) -> list[Effect]:
        """Take a part from another member. One that is here already changes nothing.

        Raises:
            RemoteError: not this sender's part, or the wrong size.
        """
        if len(data) != self.expected_bytes(sender, leg, part_index):
            raise RemoteError(sender, f"part {part_index} has {len(data)} bytes")
        if leg is Leg.SCATTER:
            return self._collect(sender, part_index, data)
        if self._means[part_index] is None:
            self._means[part_index] = data
        return []

    def averaged(self, part_index: int, data: bytes) -> list[Effect]:
        """The mean of an owned part is there: keep exactly these bytes and send them to all."""
        if self._means[part_index] is not None:
            return []
        self._means[part_index] = data
        self._inbox[part_index] = {}
        return [
            self._send(peer, Leg.GATHER, part_index, data)
            for peer in self.roster.peer_ids
            if peer != self._me
        ]

    def _collect(self, sender: str, part_index: int, data: bytes) -> list[Effect]:
        inbox = self._inbox[part_index]
        if sender in inbox or self._means[part_index] is not None:
            return []
        inbox[sender] = data
        if len(inbox) < len(self._contributors):
            return []
        return [
            AveragePart(
                roster=self.roster_digest,
                part_index=part_index,
                senders=self._contributors,
                contributions=tuple(inbox[peer] for peer in self._contributors),
                tokens=tuple(self._tokens[peer] for peer in self._contributors),
                values=self._part_values[part_index],
            )
        ]

    def _send(self, to: str, leg: Leg, part_index: int, data: bytes) -> SendPart:
        return SendPart(
            to=to,
            roster=self.roster_digest,
            leg=leg,
            part_index=part_index,
            data=data,
            rate_bytes_per_s=self._rates[to],
        )
