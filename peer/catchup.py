"""Getting back to where the group is: bytes of single entries, or a whole snapshot, from others."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from peer.grpc_fetch import Source
from peer.snapshot import Download, Progress, choose
from peer.store import Recovered, Store
from peer.threads import in_thread
from protocol.chain import step_of
from protocol.errors import DilocoError, RemoteError, UnavailableError
from protocol.events import FetchParts
from protocol.log import Head
from protocol.state import Offer, state_bytes

FETCHES_AT_ONCE: Final = 4
PROGRESS_EVERY_S: Final = 2.0


class Roads(Protocol):
    """How other peers are reached (peer/grpc_transport.py)."""

    def source(self, peer_id: str) -> Source | None:
        """To fetch from; None while its address is unknown."""
        ...


class Catchup:
    """Fetches what the state machine asks for, and snapshots."""

    def __init__(
        self,
        roads: Roads,
        store: Store,
        fragment_values: Sequence[int],
        down_bytes_per_s: float | None,
        note: Callable[[str], None],
    ) -> None:
        """`fragment_values`: the run's number of values in each fragment."""
        self.fetched_bytes = 0
        """Of parts and snapshots, payload."""
        self._roads = roads
        self._store = store
        self._fragment_values = tuple(fragment_values)
        self._down_bytes_per_s = down_bytes_per_s
        self._note = note
        self._slots = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def fetch(self, fetch: FetchParts) -> Mapping[str, bytes]:
        """The bytes that were asked for, as far as any source gave them, each checked."""
        missing, found = dict(fetch.wanted), dict[str, bytes]()
        async with self._slots:
            for peer_id in fetch.sources:
                source = self._roads.source(peer_id)
                if source is None or not missing:
                    continue
                # A source that is gone or talks nonsense is one of several.
                with contextlib.suppress(UnavailableError, RemoteError):
                    async with source:
                        found |= await source.fetch_parts(missing, self._down_bytes_per_s or 0.0)
                missing = {d: size for d, size in missing.items() if d not in found}
        self.fetched_bytes += sum(map(len, found.values()))
        return found

    async def take_snapshot(self, peers: Iterable[str], after: Collection[str]) -> Recovered:
        """The newest state that a majority vouches for, on disk and in memory.

        Args:
            peers: all that are thought to be alive.
            after: digests of the entries after which a state helps.

        Raises:
            UnavailableError: there is no such state now, or its donors went away.
            OSError: the disk is full or broken.
        """
        async with contextlib.AsyncExitStack() as stack:
            sources = {}
            for peer_id in peers:
                if (source := self._roads.source(peer_id)) is not None:
                    sources[peer_id] = await stack.enter_async_context(source)
            answers = await asyncio.gather(*(_offers(source) for source in sources.values()))
            offers = {p: a for p, a in zip(sources, answers, strict=True) if a is not None}
            choice, why = choose(offers, self._fragment_values, after)
            if choice is None:
                raise UnavailableError(why)
            offer = choice.offer
            self._note(
                f"downloading the state of round {offer.round} from {len(choice.donors)} peers"
            )
            download = Download(
                self._store.disk,
                self._store.checkpoints,
                offer,
                {donor: sources[donor] for donor in choice.donors},
                down_bytes_per_s=self._down_bytes_per_s,
                on_progress=self._progress(),
                note=self._note,
            )
            await download.run({})
            self.fetched_bytes += sum(state_bytes(values) for values in self._fragment_values)
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

    def _progress(self) -> Callable[[Progress], None]:
        loop = asyncio.get_running_loop()
        told_s = loop.time()

        def tell(progress: Progress) -> None:
            nonlocal told_s
            if loop.time() - told_s > PROGRESS_EVERY_S:
                told_s = loop.time()
                self._note(
                    f"downloaded {progress.done_bytes / 1e6:.0f} of"
                    f" {progress.total_bytes / 1e6:.0f} MB,"
                    f" {progress.bytes_per_s * 8 / 1e6:.1f} mbit/s"
                )

        return tell


async def _offers(source: Source) -> tuple[Offer, ...] | None:
    try:
        return await source.ask_offers()
    except DilocoError:
        return None
