"""Taking the shared state from others: whom to believe, and how it comes here.

The newest checkpoint that a majority vouches for is downloaded from all of them at once, chunk by
chunk, each verified before it is kept. Verified chunks are files, snapshot/<root>-<index>, so that
a download that was cut off goes on where it was; a fragment that is complete becomes a file like
those of any checkpoint (peer/fragment_files.py). At the end there is a checkpoint like any other.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from peer.checkpoint import Checkpoints
from peer.disk import Disk
from peer.download import Plan, Request
from peer.fragment_files import FOLDER as FRAGMENTS
from peer.fragment_files import file_of
from peer.threads import in_thread
from protocol.digest import digest
from protocol.errors import RemoteError, UnavailableError
from protocol.log import Head
from protocol.state import (
    CHUNK_BYTES,
    FragmentState,
    Offer,
    chunk_bytes_of,
    list_bytes,
    parse_list,
    state_bytes,
)
from protocol.tally import Tally

FOLDER: Final = "snapshot"
REQUESTS_PER_DONOR: Final = 2
"""At once: while one has its round trip, the other one's chunks come."""
IDLE_S: Final = 0.2

Item = TypeVar("Item", bound=Hashable)
Chunk: TypeAlias = tuple[str, int]
"""Root and index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to download, and from whom."""

    offer: Offer
    donors: tuple[str, ...]
    """All that offer the same state, in peer_id order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a download is; bytes that were here already count as done."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    """Of what came since it began or was resumed."""


class Donor(Protocol):
    """Another peer as a source of bytes; peer/grpc_fetch.py has the real one.

    Both raise RemoteError when it sends something wrong, UnavailableError when it does not answer.
    """

    async def fetch_parts(
        self, wanted: Mapping[str, int], rate_bytes_per_s: float = 0.0
    ) -> dict[str, bytes]: ...

    async def fetch_chunks(
        self,
        root: str,
        wanted: Mapping[int, tuple[str, int]],
        on_chunk: Callable[[int, bytes], Awaitable[None]],
        rate_bytes_per_s: float = 0.0,
    ) -> None: ...


def _newest(offer: Offer) -> int:
    return -offer.round


def choose(
    tally: Tally,
    offers: Mapping[str, Sequence[Offer]],
    fragment_values: Sequence[int],
    after: Collection[str] | None = None,
    cost: Callable[[Offer], int] = _newest,
    *,
    without_quorum: bool = False,
) -> tuple[Choice | None, str]:
    """The cheapest offer that can be believed, or a sentence why there is none.

    It needs a quorum of the voters that its own entry names, and at least half of all who offer
    anything that would help: an entry alone proves nothing, since anybody can name itself its only
    voter. When its voters are gone for good, that half must do, or what an archive kept would be
    lost. Cost: whoever is there alone with a lonely peer is believed. An offer counts for nothing
    unless its accepts are signed; that they are a quorum, only the entry before it could tell.

    Args:
        offers: of every peer that was asked and is healthy.
        fragment_values: the run's number of values in each fragment.
        after: digests of the entries after which a state helps; None: any.
        cost: of each offer; of equal ones the newest is taken.
        without_quorum: an offer without one is taken if there is none with it.
    """
    by_digest: dict[str, Offer] = {}
    vouchers: dict[str, set[str]] = {}
    for peer_id, offered in offers.items():
        for offer in offered:
            values = tuple(fragment.values for fragment in offer.fragments)
            helps = after is None or offer.decided.entry.digest in after
            if helps and values == tuple(fragment_values) and _is_signed(tally, offer):
                by_digest.setdefault(offer.digest, offer)
                vouchers.setdefault(offer.digest, set()).add(peer_id)
    if not vouchers:
        return None, "nobody has a checkpoint to give"
    peers = set().union(*vouchers.values())
    # Newest first; the digest only makes the order the same everywhere.
    ranked = sorted(
        by_digest, key=lambda d: (by_digest[d].round, len(vouchers[d]), d), reverse=True
    )
    cheapest = sorted(ranked, key=lambda d: cost(by_digest[d]))
    by_half = [name for name in cheapest if 2 * len(vouchers[name]) >= len(peers)]
    by_voters = [name for name in by_half if _vouch(tally, vouchers[name], by_digest[name])]
    believed = by_voters or (by_half if without_quorum else [])
    if believed:
        name = believed[0]
        return Choice(offer=by_digest[name], donors=tuple(sorted(vouchers[name]))), ""
    newest, entry = ranked[0], by_digest[ranked[0]].decided.entry
    return None, (
        f"no majority vouches for one checkpoint: the newest, of round {entry.round}, is offered by"
        f" {len(vouchers[newest])} of {len(peers)} peers, {len(entry.voters)} vote there"
    )


def _is_signed(tally: Tally, offer: Offer) -> bool:
    try:
        tally.check("", offer.decided, before=None)
    except RemoteError:
        return False
    return True


def _vouch(tally: Tally, vouchers: set[str], offer: Offer) -> bool:
    return tally.is_quorum(vouchers, Head.of_entry(offer.decided.entry))


def missing_bytes(disk: Disk, offer: Offer) -> int:
    """About how much of a state is not here, as the names of the files say."""
    whole = set(disk.names(FRAGMENTS))
    chunks = Counter(map(_root, disk.names(FOLDER)))
    return sum(
        max(0, state_bytes(f.values) - chunks[f.root] * CHUNK_BYTES)
        for f in offer.fragments
        if file_of(f.root) not in whole
    )


class Download:
    """One download. A new one for the same offer goes on where this one ended."""

    def __init__(
        self,
        disk: Disk,
        checkpoints: Checkpoints,
        offer: Offer,
        donors: Mapping[str, Donor],
        *,
        down_bytes_per_s: float | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """
        Args:
            donors: those of the `Choice`, connected.
            down_bytes_per_s: all of them together send no faster; None lets them.
            on_progress: called when it is known what is missing, and after every chunk.
            note: takes a sentence about each donor that is given up.
        """
        self._disk = disk
        self._checkpoints = checkpoints
        self._offer = offer
        self._donors = donors
        self._down_bytes_per_s = down_bytes_per_s
        self._on_progress = on_progress
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self.fetched_bytes = 0
        """Payload of chunks and of their lists that came by now."""
        self._fragments = {f.root: f for f in offer.fragments}
        self._digests: dict[str, tuple[str, ...]] = {}
        """Chunk lists, by root."""
        self._missing: dict[str, int] = {}
        """How many chunks of each root are not on disk yet."""
        self._writing: set[Chunk] = set()
        self._complete: asyncio.Queue[FragmentState] = asyncio.Queue()

    async def run(self, facts: Mapping[str, Any]) -> None:
        """Download everything and make a checkpoint of it, with these private facts.

        Raises:
            UnavailableError: no donor is left.
            OSError: the disk is full or broken. What is verified stays for the next attempt.
        """
        self._checkpoints.expect(self._offer)
        wanted = await in_thread(self._not_held)
        await self._work(Plan(wanted, self._donors), self._ask_for_lists)
        chunks = [chunk for root in wanted for chunk in await in_thread(self._not_here, root)]
        for root in wanted:
            if not self._missing[root]:
                self._complete.put_nowait(self._fragments[root])
        self._tell_progress()
        adopting = asyncio.create_task(self._adopt(len(wanted)))
        try:
            await self._work(Plan(chunks, self._donors), self._ask_for_chunks)
            await adopting
        finally:
            adopting.cancel()
            await asyncio.gather(adopting, return_exceptions=True)
        await _to_the_end(self._checkpoints.adopt, self._offer, facts)

    # --- whom to ask -----------------------------------------------------------------------------

    async def _work(
        self, plan: Plan[Item], ask: Callable[[Donor, Plan[Item], Request[Item]], Awaitable[None]]
    ) -> None:
        """Carry out a plan with all donors at once."""
        workers = {
            asyncio.create_task(self._keep_asking(name, plan, ask))
            for name in self._donors
            for _ in range(REQUESTS_PER_DONOR)
        }
        busy = workers
        noted = 0
        try:
            while not plan.is_complete and not plan.is_hopeless:
                finished, busy = await asyncio.wait(
                    busy, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in finished:
                    task.result()
                for sentence in plan.notes[noted:]:
                    self._note(sentence)
                noted = len(plan.notes)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        self._donors = {name: d for name, d in self._donors.items() if plan.is_asked(name)}
        if plan.is_hopeless:
            raise UnavailableError(
                f"no donor of the snapshot of round {self._offer.round} is left;"
                " what came stays for the next attempt"
            )

    async def _keep_asking(
        self,
        name: str,
        plan: Plan[Item],
        ask: Callable[[Donor, Plan[Item], Request[Item]], Awaitable[None]],
    ) -> None:
        while plan.is_asked(name):
            request = plan.begin(name, self._loop.time())
            if request is None:
                await asyncio.sleep(IDLE_S)
                continue
            failure = ""
            try:
                await ask(self._donors[name], plan, request)
            except RemoteError as error:
                plan.drop(name, error.why)
            except UnavailableError as error:
                failure = str(error)
            finally:
                plan.end(request, self._loop.time(), failure)

    def _rate(self) -> float:
        streams = REQUESTS_PER_DONOR * len(self._donors)
        return (self._down_bytes_per_s or 0.0) / streams

    # --- what to ask for -------------------------------------------------------------------------

    async def _ask_for_lists(self, donor: Donor, plan: Plan[str], request: Request[str]) -> None:
        sizes = {root: list_bytes(self._fragments[root].values) for root in request.items}
        for root, data in (await donor.fetch_parts(sizes, self._rate())).items():
            self.fetched_bytes += len(data)
            try:
                self._digests[root] = parse_list(data, self._fragments[root].values)
            except ValueError as error:
                raise RemoteError("", f"what the offer calls a state is {error}") from error
            plan.arrived(request, root)

    async def _ask_for_chunks(
        self, donor: Donor, plan: Plan[Chunk], request: Request[Chunk]
    ) -> None:
        for root, chunks in itertools.groupby(tuple(request.items), key=lambda chunk: chunk[0]):
            values, digests = self._fragments[root].values, self._digests[root]
            wanted = {i: (digests[i], chunk_bytes_of(values, i)) for _, i in chunks}

            async def keep(index: int, data: bytes, root: str = root) -> None:
                await self._keep(plan, request, (root, index), data)

            await donor.fetch_chunks(root, wanted, keep, self._rate())

    async def _keep(
        self, plan: Plan[Chunk], request: Request[Chunk], chunk: Chunk, data: bytes
    ) -> None:
        """Put a verified chunk on disk, unless another donor's has come or is just coming there."""
        if chunk in self._writing or not plan.needs(chunk):
            return
        self._writing.add(chunk)
        try:
            await _to_the_end(self._disk.replace, _name(*chunk), [data])
        finally:
            self._writing.discard(chunk)
        plan.arrived(request, chunk)
        root = chunk[0]
        self._missing[root] -= 1
        if not self._missing[root]:
            self._complete.put_nowait(self._fragments[root])
        self.fetched_bytes += len(data)
        self._tell_progress()

    # --- files -----------------------------------------------------------------------------------

    def _not_held(self) -> list[str]:
        """Roots of the fragments that are not here yet; files of other downloads are removed."""
        wanted = [root for root, f in self._fragments.items() if not self._checkpoints.holds(f)]
        self._remove(name for name in self._disk.names(FOLDER) if _root(name) not in wanted)
        return wanted

    def _not_here(self, root: str) -> list[Chunk]:
        """Chunks of a fragment that no verified file has."""
        digests, here = self._digests[root], set(self._disk.names(FOLDER))
        missing = []
        for index, wanted in enumerate(digests):
            name = _name(root, index)
            if name not in here or digest(self._disk.read_at(name, 0, CHUNK_BYTES + 1)) != wanted:
                missing.append((root, index))
        self._missing[root] = len(missing)
        return missing

    async def _adopt(self, count: int) -> None:
        """Make files of fragments as they are complete; their chunks are no longer needed then."""
        for _ in range(count):
            fragment = await self._complete.get()
            await _to_the_end(self._adopt_fragment, fragment)

    def _adopt_fragment(self, fragment: FragmentState) -> None:
        root, digests = fragment.root, self._digests[fragment.root]
        self._checkpoints.adopt_fragment(
            fragment,
            digests,
            lambda index: self._disk.read_at(_name(root, index), 0, CHUNK_BYTES + 1),
        )
        self._remove(_name(root, index) for index in range(len(digests)))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._disk.remove(name)

    def _tell_progress(self) -> None:
        left_bytes = sum(
            min(count * CHUNK_BYTES, state_bytes(self._fragments[root].values))
            for root, count in self._missing.items()
        )
        total_bytes = sum(state_bytes(f.values) for f in self._fragments.values())
        elapsed_s = max(self._loop.time() - self._began_s, 1e-3)
        self._on_progress(
            Progress(
                done_bytes=total_bytes - left_bytes,
                total_bytes=total_bytes,
                bytes_per_s=self.fetched_bytes / elapsed_s,
            )
        )


async def _to_the_end(function: Callable[..., None], *args: Any) -> None:
    """Run in a thread, and wait for it even when cancelled: the next download finds no writer."""
    work = asyncio.create_task(in_thread(function, *args))
    try:
        await asyncio.shield(work)
    finally:
        await asyncio.wait([work])


def _name(root: str, index: int) -> str:
    return f"{FOLDER}/{root}-{index}"


def _root(name: str) -> str:
    return name.removeprefix(f"{FOLDER}/").partition("-")[0]
