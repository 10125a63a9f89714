"""Getting to where the group is: bytes of single entries, or a whole snapshot, from others.

Both keep to the cap on what comes in: all streams of one kind share it, and a peer that takes a
snapshot fetches nothing else. What leaves the donors is what rounds do not need of their uplinks.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from peer.grpc_fetch import OnPart, Source
from peer.snapshot import Choice, Download, Progress, choose, missing_bytes
from peer.store import Recovered, Store
from peer.threads import in_thread
from protocol.chain import step_of
from protocol.errors import DilocoError, RemoteError, UnavailableError
from protocol.events import FetchParts
from protocol.following import replay_bytes
from protocol.log import Head
from protocol.pacing import OVERHEAD
from protocol.state import Offer
from protocol.terms import Terms

STREAMS: Final = 4
"""At once, of parts: several donors with slow uplinks fill one downlink."""
MIN_BATCH_BYTES: Final = 1 << 18
"""Less is not worth a stream of its own."""
INTAKE_SHARE: Final = 0.90
"""Of the cap on what comes in; several donors send at once, each in pieces of 20 ms."""
OFFERS_S: Final = 6.0
"""How long a majority for one checkpoint is waited for: donors write theirs one after another."""
OFFERS_AGAIN_S: Final = 0.5
ALL_ANSWER_S: Final = 1.5
"""How long the answers of the last donors are waited for once there is a majority."""


class Roads(Protocol):
    """How other peers are reached (peer/grpc_transport.py)."""

    def source(self, peer_id: str) -> Source | None:
        """To fetch from; None while its address is unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a peer came to where the group is."""

    from_round: int
    seconds: float
    """Since its first request for bytes."""
    snapshot_bytes: int
    """Chunks and their lists; 0 when it replayed everything that it had missed."""
    replay_bytes: int
    """Encoded parts."""

    @property
    def in_words(self) -> str:
        entries = f"{self.replay_bytes / 1e6:.1f} MB of entries"
        if self.snapshot_bytes:
            entries = f"a snapshot of {self.snapshot_bytes / 1e6:.1f} MB and {entries}"
        return f"in {self.seconds:.0f} s, by {entries}"


class Catchup:
    """Fetches what the state machine asks for, and snapshots."""

    def __init__(
        self,
        roads: Roads,
        store: Store,
        terms: Terms,
        down_bytes_per_s: float | None,
        note: Callable[[str], None],
    ) -> None:
        self.progress: Progress | None = None
        """Of the download under way."""
        self.snapshot_bytes = 0
        self.replay_bytes = 0
        """Payload fetched so far."""
        self._roads = roads
        self._store = store
        self._terms = terms
        self._fragment_values = tuple(map(sum, terms.part_values))
        self._rate_bytes_per_s = (down_bytes_per_s or 0.0) * INTAKE_SHARE / OVERHEAD
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._streams = asyncio.Semaphore(STREAMS)
        self._sources: dict[str, Source] = {}
        """Connected while anything is fetched: a connection costs round trips."""
        self._fetches = 0
        self._left: tuple[int, int, int] | None = None
        self._first_request_s: float | None = None

    # --- the way ---------------------------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        """Whether this peer has lost touch with the group and has not arrived yet."""
        return self._left is not None

    def leave(self, round_: int) -> None:
        """The group is further than this peer, which holds the entries up to this round."""
        self._left = (round_, self.snapshot_bytes, self.replay_bytes)
        self._first_request_s = None

    def arrive(self) -> Arrival:
        """It has caught up."""
        assert self._left is not None
        (round_, snapshot_bytes, replay_bytes), self._left = self._left, None
        began_s = self._first_request_s
        return Arrival(
            from_round=round_,
            seconds=0.0 if began_s is None else self._loop.time() - began_s,
            snapshot_bytes=self.snapshot_bytes - snapshot_bytes,
            replay_bytes=self.replay_bytes - replay_bytes,
        )

    def _request(self) -> None:
        if self._first_request_s is None:
            self._first_request_s = self._loop.time()

    # --- entries ---------------------------------------------------------------------------------

    async def fetch(self, fetch: FetchParts, on_part: OnPart) -> None:
        """Get the bytes that are asked for, as far as any source gives them.

        Args:
            on_part: takes the digest and the bytes of each part as it comes, checked.
        """
        self._request()
        self._fetches += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, batch in enumerate(_batches(fetch.wanted)):
                    first = number % min(fetch.holders, len(fetch.sources))
                    order = (*fetch.sources[first:], *fetch.sources[:first])
                    tasks.create_task(self._fetch_batch(dict(batch), order, on_part))
        finally:
            self._fetches -= 1
            if not self._fetches:
                sources, self._sources = self._sources, {}
                for source in sources.values():
                    await source.close()

    async def _fetch_batch(
        self, wanted: Mapping[str, int], order: Sequence[str], on_part: OnPart
    ) -> None:
        missing = dict(wanted)

        def take(digest: str, data: bytes) -> None:
            del missing[digest]
            self.replay_bytes += len(data)
            on_part(digest, data)

        async with self._streams:
            for peer_id in order:
                source = self._source(peer_id)
                if source is None or not missing:
                    continue
                # A source that is gone or talks nonsense is one of several.
                with contextlib.suppress(UnavailableError, RemoteError):
                    await source.fetch_parts(missing, self._rate_bytes_per_s / STREAMS, take)

    def _source(self, peer_id: str) -> Source | None:
        if peer_id not in self._sources:
            source = self._roads.source(peer_id)
            if source is None:
                return None
            self._sources[peer_id] = source
        return self._sources[peer_id]

    # --- snapshots -------------------------------------------------------------------------------

    async def take_snapshot(
        self,
        peers: Callable[[], Iterable[str]],
        after: Collection[str],
        *,
        without_quorum: bool = False,
    ) -> Recovered:
        """A state that a majority vouches for, on disk and in memory: that of the fewest bytes.

        Args:
            peers: all that are thought to be alive now.
            after: digests of the entries after which a state helps.
            without_quorum: if no majority of its voters vouches for any, another will do.

        Raises:
            UnavailableError: there is no such state now, or its donors went away.
            OSError: the disk is full or broken.
        """
        self._request()
        async with self._donors(peers, after, without_quorum) as (choice, sources):
            offer = choice.offer
            self._note(
                f"downloading the state of round {offer.round} from {len(choice.donors)} peers"
            )
            download = Download(
                self._store.disk,
                self._store.checkpoints,
                offer,
                {donor: sources[donor] for donor in choice.donors},
                down_bytes_per_s=self._rate_bytes_per_s,
                on_progress=self._show,
                note=self._note,
            )
            try:
                await download.run({})
            finally:
                self.progress = None
                self.snapshot_bytes += download.fetched_bytes
        loaded, notes = await in_thread(self._store.checkpoints.load_newest, offer.round)
        if loaded is None or loaded.round != offer.round:
            raise UnavailableError(f"the snapshot cannot be read back: {'; '.join(notes)}")
        head = Head.of_entry(offer.decided.entry)
        return Recovered(
            head=head,
            trail=(step_of(head),),
            states=list(loaded.states),
            versions=list(loaded.versions),
            private=None,
            private_round=offer.round,
            facts={},
        )

    @contextlib.asynccontextmanager
    async def _donors(
        self, peers: Callable[[], Iterable[str]], after: Collection[str], without_quorum: bool
    ) -> AsyncIterator[tuple[Choice, Mapping[str, Source]]]:
        """What to download, and connections to everybody who was asked.

        Raises:
            UnavailableError: no majority vouches for anything, also after OFFERS_S.
        """
        async with contextlib.AsyncExitStack() as stack:
            sources: dict[str, Source] = {}
            began_s = self._loop.time()
            while True:
                for peer_id in peers():
                    source = None if peer_id in sources else self._roads.source(peer_id)
                    if source is not None:
                        sources[peer_id] = await stack.enter_async_context(source)
                answers = await asyncio.gather(*(_offers(source) for source in sources.values()))
                offers = {p: a for p, a in zip(sources, answers, strict=True) if a is not None}
                cost = self._bytes_to_go(offers)
                waited_s = self._loop.time() - began_s
                may_lack_quorum = without_quorum and waited_s > OFFERS_S
                choice, why = choose(
                    self._terms.tally,
                    offers,
                    self._fragment_values,
                    after,
                    cost,
                    without_quorum=may_lack_quorum,
                )
                all_answered = set(peers()) <= offers.keys()
                if choice is not None and (all_answered or waited_s > ALL_ANSWER_S):
                    break
                if choice is None and waited_s > OFFERS_S:
                    raise UnavailableError(why)
                await asyncio.sleep(OFFERS_AGAIN_S)
            yield choice, sources

    def _bytes_to_go(self, offers: Mapping[str, Sequence[Offer]]) -> Callable[[Offer], int]:
        """What has still to be downloaded of a snapshot, and then to be replayed on top of it."""
        newest = max((o.round for offered in offers.values() for o in offered), default=-1)

        def bytes_to_go(offer: Offer) -> int:
            missing = missing_bytes(self._store.disk, offer)
            return missing + replay_bytes(self._terms, offer.round, newest)

        return bytes_to_go

    def _show(self, progress: Progress) -> None:
        self.progress = progress


def _batches(wanted: Sequence[tuple[str, int]]) -> list[Sequence[tuple[str, int]]]:
    """What is asked for at once: neighbours together, at most one batch for each stream."""
    total_bytes = sum(size for _, size in wanted)
    count = max(1, min(STREAMS, total_bytes // MIN_BATCH_BYTES, len(wanted)))
    each = -(-len(wanted) // count)
    return [wanted[start : start + each] for start in range(0, len(wanted), each)]


async def _offers(source: Source) -> tuple[Offer, ...] | None:
    try:
        return await source.ask_offers()
    except DilocoError:
        return None
