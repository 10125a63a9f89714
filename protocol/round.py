"""The exchange of one round under one roster: reduce-scatter and all-gather, seen by one member.

Contributions go to the owner of each part. The owner averages them, encodes the mean once, and
sends those bytes to every member, itself included (I1).

Partial credit: an owner closes a part when everybody's contribution is in whom nobody has given up
(`Amend`), or when `close_s` is over; the mean says whose is missing from it. When an owner is given
up, its parts go to another one, and only what that one lacks is sent again. What has arrived is
used, whatever became of its sender.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from protocol.claims import Claim, Contribution, Slot
from protocol.codec import Codec
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import AveragePart, CompareMean, Effect, Leg, Note, PartReceived, SendPart
from protocol.log import Part
from protocol.messages import Amend, Mean, Roster
from protocol.partition import round_traffic
from protocol.provenance import Provenance

RATE_HEADROOM = 1.08
"""A link runs this much faster than planned, since the last means leave only after the last
contributions came in. The rates that a peer publishes leave room for it."""


class Exchange:
    """All that one member sends and receives in one round."""

    def __init__(
        self,
        me: str,
        roster: Roster,
        codec: Codec,
        part_values: Sequence[int],
        provenance: Provenance,
    ) -> None:
        """`part_values`: values in each part of the round's fragment."""
        self.roster = roster
        self.roster_digest = roster.digest
        self.number = -1
        """Of the last amendment."""
        self.lost: frozenset[str] = frozenset()
        self.resent_bytes = 0
        """Contributions that this peer has sent a second time, to a part's next owner."""
        self.claims: dict[tuple[int, str], Claim] = {}
        """What owners claimed of the means that are here, by part_index and digest of the mean."""
        self._me = me
        self._provenance = provenance
        self._part_values = tuple(part_values)
        self._part_bytes = tuple(codec.encoded_bytes(values) for values in part_values)
        self._owners = tuple(roster.peer_ids[owner] for owner in roster.owners)
        self._ever_owned = {(owner, part) for part, owner in enumerate(self._owners)}
        self._tokens = {m.peer_id: m.tokens for m in roster.members}
        self._contributors = tuple(peer for peer in roster.peer_ids if self._tokens[peer] > 0)
        self._snapshot: Sequence[bytes] | None = None
        self._inbox: list[dict[str, bytes]] = [{} for _ in part_values]
        self._given: list[dict[str, Contribution]] = [{} for _ in part_values]
        """What stands behind the bytes in the inbox."""
        self._copied: set[tuple[int, str]] = set()
        """(part, contributor) of contributions that repeat others: they are not waited for."""
        self._averaging: dict[int, tuple[str, ...]] = {}
        self._means: list[dict[Mean, bytes]] = [{} for _ in part_values]
        self._by_digest: dict[str, bytes] = {}
        self._sent: set[tuple[int, str]] = set()
        """(part, owner) of the contributions that this peer has made."""
        self._means_from: set[tuple[int, str]] = set()
        self._rates = self._planned_rates(self._owners, range(len(part_values)), roster.transfer_s)

    def _planned_rates(
        self, owners: Sequence[str], parts: Iterable[int], planned_s: float
    ) -> dict[str, float]:
        """Bytes per second towards each other member: what it gets, over the planned time."""
        peers = self.roster.peer_ids
        chosen = list(parts)
        traffic = round_traffic(
            [peers.index(owners[part]) for part in chosen],
            [self._part_bytes[part] for part in chosen],
            [peer in self._contributors for peer in peers],
        )
        mine = peers.index(self._me)
        return {
            peer: RATE_HEADROOM * traffic.link_bytes.get((mine, place), 0) / planned_s
            for place, peer in enumerate(peers)
        }

    # --- what is here ----------------------------------------------------------------------------

    @property
    def contributes(self) -> bool:
        return self._me in self._contributors

    @property
    def owners(self) -> tuple[str, ...]:
        """Of each part, as the last amendment has it."""
        return self._owners

    @property
    def is_complete(self) -> bool:
        """Whether every mean is here that can still come: all but those of owners given up."""
        return all(
            means or owner in self.lost
            for means, owner in zip(self._means, self._owners, strict=True)
        )

    @property
    def means(self) -> tuple[Mean, ...]:
        """Every mean that is here, in the order of the parts."""
        return tuple(mean for means in self._means for mean in means)

    def bytes_of(self, part_digest: str) -> bytes | None:
        """A mean that is here, by content address. From any thread."""
        return self._by_digest.get(part_digest)

    def part_of(self, mean: Mean) -> Part:
        """The line of an entry's table that a mean stands for."""
        missing = {self._contributors[place] for place in mean.without}
        tokens = tuple(
            0 if peer in missing else self._tokens[peer] for peer in self.roster.peer_ids
        )
        return Part(mean.digest, tokens)

    def is_plausible(self, mean: Mean) -> bool:
        """Whether the part exists, and the mean leaves somebody in it."""
        return (
            0 <= mean.part_index < len(self._part_values)
            and list(mean.without) == sorted(set(mean.without))
            and all(0 <= place < len(self._contributors) for place in mean.without)
            and len(mean.without) < len(self._contributors)
        )

    def expected_bytes(self, sender: str, leg: Leg, part_index: int) -> int | None:
        """Size of a part that `sender` may send here; None if an amendment may yet allow it.

        Raises:
            RemoteError: there is no such part, or the sender has nothing to contribute.
        """
        if not 0 <= part_index < len(self._owners):
            raise RemoteError(sender, f"there is no part {part_index}")
        if leg is Leg.SCATTER and sender not in self._contributors:
            raise RemoteError(sender, f"contributes to part {part_index}, which it is not to")
        if sender not in self._tokens:
            raise RemoteError(sender, f"mean of part {part_index}, without being in the round")
        owner = self._me if leg is Leg.SCATTER else sender
        return self._part_bytes[part_index] if (owner, part_index) in self._ever_owned else None

    # --- sending and receiving -------------------------------------------------------------------

    def contribute(self, parts: Sequence[bytes]) -> list[Effect]:
        """Send this member's encoded parts to their owners."""
        self._snapshot = parts
        return self._scatter(self._rates)

    def _scatter(self, rates: Mapping[str, float]) -> list[Effect]:
        effects: list[Effect] = []
        for part_index, owner in enumerate(self._owners):
            if self._snapshot is None or (part_index, owner) in self._sent:
                continue
            data = self._snapshot[part_index]
            mine = self._provenance.contribution(
                self._slot(part_index), self._tokens[self._me], digest(data)
            )
            if owner == self._me:
                effects += self._collect(mine, part_index, data)
            else:
                if any(
                    (part_index, p) in self._sent for p in self.roster.peer_ids if p != self._me
                ):
                    self.resent_bytes += len(data)
                send = self._send(owner, Leg.SCATTER, part_index, data, rates)
                effects.append(replace(send, signature=mine.signature))
            self._sent.add((part_index, owner))
        return effects

    def receive(self, part: PartReceived) -> list[Effect]:
        """Take a part from another member. A second one of the same sender changes nothing.

        Raises:
            RemoteError: not this sender's part, the wrong size, or not signed as it has to be.
        """
        sender, part_index, data = part.sender, part.part_index, part.data
        if len(data) != self.expected_bytes(sender, part.leg, part_index):
            raise RemoteError(sender, f"part {part_index} has {len(data)} bytes")
        slot = self._slot(part_index)
        if part.leg is Leg.SCATTER:
            given = self._provenance.received(
                slot, sender, self._tokens[sender], digest(data), part.signature
            )
            return self._collect(given, part_index, data)
        mean = Mean(part_index=part_index, digest=digest(data), without=part.without)
        if not self.is_plausible(mean):
            raise RemoteError(sender, f"mean of part {part_index} of nobody's contributions")
        if (part_index, sender) in self._means_from:
            return []
        effects: list[Effect] = []
        if self._provenance.asks_for_claims:
            averaged = self._averaged_in(mean)
            claim = self._provenance.received_claim(
                slot, sender, mean.digest, averaged, part.inputs, part.signature
            )
            self.claims.setdefault((part_index, mean.digest), claim)
            if self._me in dict(averaged):
                effects = [CompareMean(round=slot.round, part_index=part_index, data=data)]
        self._means_from.add((part_index, sender))
        self._keep(mean, data)
        return effects

    def _averaged_in(self, mean: Mean) -> list[tuple[str, int]]:
        """peer_id and tokens of the contributors that a mean does not lack."""
        return [
            (peer, self._tokens[peer])
            for place, peer in enumerate(self._contributors)
            if place not in mean.without
        ]

    def _slot(self, part_index: int) -> Slot:
        return self._provenance.slot(self.roster.round, self.roster_digest, part_index)

    def amend(self, leader: str, amend: Amend) -> list[Effect]:
        """Give members up and follow other owners; send them what they lack.

        Raises:
            RemoteError: it does not fit the roster.
        """
        peers = self.roster.peer_ids
        fits = (
            len(amend.owners) == len(self._owners)
            and all(0 <= owner < len(peers) for owner in amend.owners)
            and set(amend.lost) <= set(peers)
        )
        if not fits:
            raise RemoteError(leader, f"an amendment of round {amend.round} that does not fit")
        self.number, self.lost = amend.number, frozenset(amend.lost)
        owners = tuple(peers[owner] for owner in amend.owners)
        moved = [
            p for p, (old, new) in enumerate(zip(self._owners, owners, strict=True)) if old != new
        ]
        self._owners = owners
        self._ever_owned |= {(owner, part) for part, owner in enumerate(owners)}
        effects: list[Effect] = []
        if moved:
            rates = self._planned_rates(owners, moved, max(amend.resend_s, 0.1))
            for peer, rate in rates.items():
                self._rates[peer] = max(self._rates[peer], rate)
            effects += self._scatter(self._rates)
        for part_index in range(len(owners)):
            effects += self._close_if_all_in(part_index)
        return effects

    def close(self) -> list[Effect]:
        """The time for contributions is over: average every owned part with what is there."""
        effects: list[Effect] = []
        for part_index in range(len(self._owners)):
            effects += self._close(part_index)
        return effects

    def refused(self, part_index: int, sender: str) -> list[Effect]:
        """A contribution cannot be decoded: average without it."""
        self._inbox[part_index].pop(sender, None)
        self._averaging.pop(part_index, None)
        return self._close(part_index)

    def averaged(self, part_index: int, data: bytes) -> list[Effect]:
        """The mean of an owned part is there: keep exactly these bytes and send them to all."""
        senders = self._averaging.get(part_index, ())
        without = tuple(
            place for place, peer in enumerate(self._contributors) if peer not in senders
        )
        mean = Mean(part_index=part_index, digest=digest(data), without=without)
        self._keep(mean, data)
        self._inbox[part_index] = {}
        claim: Claim | None = None
        if self._provenance.asks_for_claims:
            given = [self._given[part_index][peer] for peer in senders]
            claim = self._provenance.claim(self._slot(part_index), mean.digest, given)
            self.claims.setdefault((part_index, mean.digest), claim)
        effects: list[Effect] = []
        for peer in self.roster.peer_ids:
            if peer != self._me and peer not in self.lost:
                send = self._send(peer, Leg.GATHER, part_index, data, self._rates)
                if claim is not None:
                    send = replace(send, signature=claim.signature, inputs=claim.inputs)
                effects.append(replace(send, without=without))
        return effects

    def _keep(self, mean: Mean, data: bytes) -> None:
        self._means[mean.part_index].setdefault(mean, data)
        self._by_digest.setdefault(mean.digest, data)

    def _collect(self, given: Contribution, part_index: int, data: bytes) -> list[Effect]:
        sender, inbox = given.peer_id, self._inbox[part_index]
        if part_index in self._averaging or sender in inbox:
            return []
        if repeats := self._provenance.why_copied(self.roster.round, given, data):
            self._copied.add((part_index, sender))
            note = Note(f"left out: {sender[:8]} gives to part {part_index} {repeats}")
            return [note, *self._close_if_all_in(part_index)]
        inbox[sender] = data
        self._given[part_index][sender] = given
        return self._close_if_all_in(part_index)

    def _close_if_all_in(self, part_index: int) -> list[Effect]:
        awaited = {
            peer
            for peer in self._contributors
            if peer not in self.lost and (part_index, peer) not in self._copied
        }
        return self._close(part_index) if awaited <= self._inbox[part_index].keys() else []

    def _close(self, part_index: int) -> list[Effect]:
        inbox = self._inbox[part_index]
        mine = self._owners[part_index] == self._me
        if not mine or not inbox or part_index in self._averaging:
            return []
        senders = tuple(peer for peer in self._contributors if peer in inbox)
        self._averaging[part_index] = senders
        return [
            AveragePart(
                roster=self.roster_digest,
                part_index=part_index,
                senders=senders,
                contributions=tuple(inbox[peer] for peer in senders),
                tokens=tuple(self._tokens[peer] for peer in senders),
                values=self._part_values[part_index],
            )
        ]

    def _send(
        self,
        to: str,
        leg: Leg,
        part_index: int,
        data: bytes,
        rates: Mapping[str, float],
    ) -> SendPart:
        return SendPart(
            to=to,
            roster=self.roster_digest,
            leg=leg,
            part_index=part_index,
            data=data,
            rate_bytes_per_s=rates[to],
        )
