"""The server's half of catching up: bytes of log and checkpoints, whenever the uplink has room.

Whatever is asked for is bounded: items per request, streams of one peer and of all, how long a
stream may stand still. Memory: one item per stream.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from peer.grpc_settings import CALL_S, CHUNK_S
from peer.library import Library
from peer.pacer import Lanes
from peer.threads import in_thread
from protocol.digest import is_digest
from protocol.errors import RemoteError, UnavailableError
from protocol.pacing import Pace, chunk_bytes
from protocol.state import list_of
from protocol.wire import diloco_pb2 as pb
from protocol.wire.offers import encode_offers

MAX_PARTS: Final = 1024
"""Of one request by digest."""
MAX_CHUNKS_AT_ONCE: Final = 16
"""Of one request for chunks of a state: 16 MiB."""
MAX_STREAMS_PER_PEER: Final = 4
MAX_STREAMS: Final = 32
MAX_LATE_S: Final = 0.2
"""A stream that was held up so long, by rounds or by a busy machine, makes up for it."""


class Lending:
    """Gives away what the library holds."""

    def __init__(self, lanes: Lanes) -> None:
        self.library: Library | None = None
        """None: this peer has not begun, and has nothing to give."""
        self._lanes = lanes
        self._open: Counter[str] = Counter()

    async def offers(self) -> pb.OffersReply:
        """Raises UnavailableError when the uplink has no room for the reply."""
        library = self._opened()
        if not library.is_healthy:
            return pb.OffersReply()
        reply = encode_offers(await in_thread(library.offers))
        for paid in range(0, reply.ByteSize(), self._lanes.spare_chunk_bytes):
            rest = reply.ByteSize() - paid
            await self._turn(min(rest, self._lanes.spare_chunk_bytes), CALL_S)
        return reply

    async def give_parts(self, sender: str, request: pb.FetchRequest, context: Any) -> None:
        """Write the pieces of everything that was asked for by digest.

        Raises:
            RemoteError: the request is malformed.
            UnavailableError: the peer has too many streams, or the uplink no room.
            TimeoutError: the other side reads nothing.
        """
        library, digests = self._opened(), list(request.digests)
        if not 0 < len(digests) <= MAX_PARTS or not all(map(is_digest, digests)):
            raise RemoteError(sender, "a malformed request for parts")

        def read(place: int) -> bytes | None:
            part = library.part(digests[place])
            if part is None and (chunks := library.chunk_digests(digests[place])) is not None:
                return list_of(chunks)
            return part

        await self._give(sender, len(digests), read, request.rate_bytes_per_s, context)

    async def give_chunks(self, sender: str, request: pb.ChunksRequest, context: Any) -> None:
        """Write the pieces of chunks of one fragment's state; raises as `give_parts` does."""
        library, indices = self._opened(), list(request.indices)
        if not 0 < len(indices) <= MAX_CHUNKS_AT_ONCE or not is_digest(request.root):
            raise RemoteError(sender, "a malformed request for chunks")

        def read(place: int) -> bytes | None:
            # Asked again for each: a peer that lost its way stops in the middle.
            return library.chunk(request.root, indices[place]) if library.is_healthy else None

        await self._give(sender, len(indices), read, request.rate_bytes_per_s, context)

    def _opened(self) -> Library:
        if self.library is None:
            raise UnavailableError("nothing to give yet")
        return self.library

    async def _give(
        self,
        sender: str,
        count: int,
        read: Callable[[int], bytes | None],
        rate_bytes_per_s: float,
        context: Any,
    ) -> None:
        size, rate = self._lanes.spare_chunk_bytes, float("inf")
        if rate_bytes_per_s > 0:  # not for NaN either
            size, rate = min(size, chunk_bytes(rate_bytes_per_s)), rate_bytes_per_s
        loop = asyncio.get_running_loop()
        pace = Pace(loop.time(), MAX_LATE_S)
        with self._stream_of(sender):
            for place in range(count):
                data = await in_thread(read, place)
                if data is None:
                    continue
                for offset in range(0, len(data), size):
                    piece = pb.Piece(
                        item=place,
                        offset=offset,
                        item_bytes=len(data),
                        data=data[offset : offset + size],
                    )
                    wait_s = pace.delay_s(len(piece.data), rate, loop.time())
                    await asyncio.sleep(min(wait_s, CHUNK_S))
                    await self._turn(piece.ByteSize(), CHUNK_S)
                    async with asyncio.timeout(CHUNK_S):
                        await context.write(piece)

    async def _turn(self, payload_bytes: int, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await self._lanes.spare_turn(payload_bytes)
        except TimeoutError as error:
            raise UnavailableError("the uplink is busy with rounds") from error

    @contextmanager
    def _stream_of(self, sender: str) -> Iterator[None]:
        if self._open[sender] >= MAX_STREAMS_PER_PEER or self._open.total() >= MAX_STREAMS:
            raise UnavailableError("too many streams at once")
        self._open[sender] += 1
        try:
            yield
        finally:
            self._open[sender] -= 1
            if not self._open[sender]:
                del self._open[sender]  # names come from outside and must not pile up
