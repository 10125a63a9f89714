"""Does owners' work again: parts drawn by chance after each round, and what somebody is accused of.

For as long as others may ask, each peer keeps what its own means were made of, and what it gave to
others' (`Inputs`); how it is lent and fetched is that of missing parts. All of it goes with the
lowest class of the uplink: a round is held up by an audit no more than by a newcomer.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from protocol.audit import (
    Accusation,
    Average,
    contradicts,
    doubt,
    drawn,
    is_forged,
    is_true,
    loudness,
)
from protocol.claims import Claim
from protocol.codec import Codec
from protocol.digest import digest
from protocol.errors import CodecError
from protocol.events import CompareMean, FetchParts, Judged, MeanDoubted
from protocol.terms import Terms

KEPT_ROUNDS: Final = 4
"""An audit begins when a round is decided, and has the time of the next ones."""
KEPT_PROOFS: Final = 8
"""Of parts that proved somebody to lie; others may have to see them much later."""
MOST_UNDERWAY: Final = 2
"""Rounds that are audited at a time: with a slow link the others go unaudited."""

OnPart: TypeAlias = Callable[[str, bytes], None]
Fetch: TypeAlias = Callable[[FetchParts, OnPart], Coroutine[Any, Any, None]]
Calculate: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


class Inputs:
    """What means were made of, by digest. `get` may be called from any thread."""

    def __init__(self) -> None:
        self._rounds: dict[int, dict[str, bytes]] = {}
        self._proofs: list[dict[str, bytes]] = []
        self._all: dict[str, bytes] = {}

    def keep(self, round_: int, contributions: Iterable[bytes]) -> None:
        """What this peer gave, or was given to average, in a round."""
        self._rounds.setdefault(round_, {}).update((digest(data), data) for data in contributions)
        for other in list(self._rounds):
            if not round_ - KEPT_ROUNDS < other <= round_:
                del self._rounds[other]
        self._merge()

    def keep_proof(self, inputs: dict[str, bytes]) -> None:
        """What proves that somebody lied."""
        self._proofs = [*self._proofs, inputs][-KEPT_PROOFS:]
        self._merge()

    def get(self, digest: str) -> bytes | None:
        return self._all.get(digest)

    def _merge(self) -> None:
        every = [*self._rounds.values(), *self._proofs]
        self._all = {name: data for kept in every for name, data in kept.items()}


class Auditor:
    """One peer's. Nothing here convicts anybody: that is protocol/court.py's business."""

    def __init__(
        self,
        me: str,
        terms: Terms,
        *,
        average: Average,
        calculate: Calculate,
        fetch: Fetch,
        note: Callable[[str], None],
    ) -> None:
        """Args:
        average: as owners do it.
        calculate: runs a function off the event loop.
        fetch: gets parts by digest; what nobody gives does not come.
        """
        self.inputs = Inputs()
        self.is_on = terms.audits > 0
        self.found: Counter[str] = Counter()
        """Means that were done again, by what came of it: true, false, or nothing was shown; and
        those that contradict what this peer gave."""
        self._me = me
        self._terms = terms
        self._average = average
        self._calculate = calculate
        self._fetch = fetch
        self._note = note
        self._chance = random.SystemRandom()
        self._underway = 0
        self._own: _Own | None = None
        self._doubts: dict[str, float] = {}
        """Of the means of that round, by digest."""

    def keep(self, round_: int, contributions: Iterable[bytes]) -> None:
        """As `Inputs.keep`, if anybody will ask for it."""
        if self.is_on:
            self.inputs.keep(round_, contributions)

    async def gave(self, round_: int, parts: Sequence[bytes]) -> None:
        """What this peer itself gives to a round, all parts in order."""
        self.keep(round_, parts)
        if self.is_on:
            values = self._terms.parts_of(round_)
            usual = await self._calculate(_loudness, parts, values, self._terms.codec)
            self._own, self._doubts = _Own(round_, tuple(parts), usual), {}

    async def compare(self, mean: CompareMean) -> MeanDoubted | None:
        """Set a mean against what this peer gave to it; how they agree counts in the draw."""
        if self._own is None or self._own.round != mean.round:
            return None
        values = self._terms.parts_of(mean.round)[mean.part_index]
        far, is_wrong = await self._calculate(_compare, self._own, mean, values, self._terms.codec)
        name = digest(mean.data)
        self._doubts[name] = far
        self.found["contradicted"] += is_wrong
        return MeanDoubted(mean.part_index, name) if is_wrong else None

    async def find_false(self, claims: Sequence[Claim]) -> list[Claim]:
        """Those of a round's claims that this peer draws, and that are not true."""
        if self._underway >= MOST_UNDERWAY:
            return []
        self._underway += 1
        try:
            doubts = [self._doubts.get(claim.mean, 0.0) for claim in claims]
            numbers = [self._chance.random() for _ in claims]
            chosen = drawn(claims, self._me, self._terms.audits, numbers, doubts)
            return [claim for claim in chosen if await self._is_true(claim, ()) is False]
        finally:
            self._underway -= 1

    async def is_false(self, claim: Claim) -> bool:
        """Whether a claim that is doubted is proven to be false."""
        return await self._is_true(claim, ()) is False

    async def judge(self, accusation: Accusation, others: Iterable[str]) -> Judged:
        """Args:
        others: who may have looked into it before, and kept the bytes.
        """
        sources = (accusation.accuser, *others)
        is_true_ = await self._is_true(accusation.claim, sources)
        return Judged(accusation=accusation.digest, is_true=is_true_)

    async def _is_true(self, claim: Claim, others: Sequence[str]) -> bool | None:
        """Whether the owner's work comes to the same once more; None: its inputs are not shown."""
        if is_forged(claim, self._terms.tally.is_signed_by):
            return False
        slot = claim.slot
        values = self._terms.parts_of(slot.round)[slot.part_index]
        inputs = await self._inputs_of(claim, self._terms.codec.encoded_bytes(values), others)
        if len(inputs) < len({given.digest for given in claim.contributions}):
            where = f"part {slot.part_index} of round {slot.round}"
            self.found["not shown"] += 1
            self._note(f"nobody shows this peer what {claim.owner[:8]} averaged in {where}")
            return None
        # A lie is looked at twice: this machine may have slipped, and must not accuse for it.
        for _ in range(2):
            if await self._calculate(is_true, claim, inputs, values, self._average):
                self.found["true"] += 1
                if others:
                    self.inputs.keep_proof(inputs)  # the accuser has lied
                return True
        self.found["false"] += 1
        self.inputs.keep_proof(inputs)
        return False

    async def _inputs_of(self, claim: Claim, size: int, others: Sequence[str]) -> dict[str, bytes]:
        """The bytes that went into a mean, as far as contributor, owner or others show them."""
        found: dict[str, bytes] = {}
        for given in claim.contributions:
            if (data := self.inputs.get(given.digest)) is not None:
                found[given.digest] = data
            if given.digest in found:
                continue
            known = dict.fromkeys((given.peer_id, claim.owner, *others))
            sources = tuple(peer for peer in known if peer != self._me)
            await self._fetch(FetchParts(((given.digest, size),), sources), found.__setitem__)
        return found


@dataclass(frozen=True, slots=True)
class _Own:
    """What this peer gave to a round."""

    round: int
    parts: tuple[bytes, ...]
    usual: float
    """Its loudness."""


def _loudness(parts: Sequence[bytes], values: Sequence[int], codec: Codec) -> float:
    return loudness([codec.decode(data, n) for data, n in zip(parts, values, strict=True)])


def _compare(own: _Own, mean: CompareMean, values: int, codec: Codec) -> tuple[float, bool]:
    """How little the mean agrees with what this peer gave, and whether it contradicts that."""
    given = codec.decode(own.parts[mean.part_index], values)
    try:
        averaged = codec.decode(mean.data, values)
    except CodecError:
        return math.inf, True
    return doubt(given, averaged, own.usual), contradicts(given, averaged, own.usual)
