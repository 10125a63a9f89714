"""The client's half of catching up: what is fetched from one other peer, verified as it comes.

The rules of peer/grpc_client.py hold here too: every await has a timeout, every call is cancelled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import grpc

from peer.contact import Contact
from peer.grpc_client import failure_of
from peer.grpc_settings import BULK_OPTIONS, CALL_S
from peer.pacer import Lanes
from peer.secure import Security
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.pacing import MAX_CHUNK_BYTES
from protocol.state import Offer
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from protocol.wire.offers import decode_offers

PIECE_S: Final = 20.0
"""Without a piece for so long somebody else is asked: the donor's uplink is full, or it is gone."""

OnItem: TypeAlias = Callable[[int, bytes], Awaitable[None]]
"""Takes the place or index of an item and its verified bytes."""
OnPart: TypeAlias = Callable[[str, bytes], None]
"""Takes the digest of a part and its bytes."""


class Source:
    """One peer that we fetch from. Used as `async with`; several calls may be under way at once."""

    def __init__(self, contact: Contact, security: Security, lanes: Lanes) -> None:
        self._peer_id = contact.peer_id
        self._metadata = security.metadata
        self._lanes = lanes
        self._channel = security.channel(contact, BULK_OPTIONS)
        self._stub: Any = stubs.PeerStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def ask_offers(self) -> tuple[Offer, ...]:
        """The checkpoints that it can give, the newest first; none if it is not healthy.

        Raises:
            RemoteError: the reply is malformed.
            UnavailableError: there was none.
        """
        await self._lanes.control_turn(0)
        call = self._stub.Offers(pb.OffersRequest(), metadata=self._metadata, timeout=CALL_S)
        try:
            async with asyncio.timeout(CALL_S + 0.5):
                reply = await call
        except (grpc.RpcError, TimeoutError) as error:
            raise failure_of(error, self._peer_id) from error
        finally:
            call.cancel()
        self._lanes.received(reply.ByteSize())
        return decode_offers(self._peer_id, reply)

    async def fetch_parts(
        self,
        wanted: Mapping[str, int],
        rate_bytes_per_s: float = 0.0,
        on_part: OnPart | None = None,
    ) -> dict[str, bytes]:
        """Bytes by digest, as far as the other side has them.

        Args:
            wanted: size in bytes of each digest.
            rate_bytes_per_s: no faster than this; 0 for as fast as its uplink allows.
            on_part: called with each part as it comes; what has come when something goes wrong
                stays good.

        Raises:
            RemoteError: it sent something else than what was asked for, or refused.
            UnavailableError: it does not answer, or stopped doing so.
        """
        digests = list(wanted)
        found: dict[str, bytes] = {}

        async def keep(place: int, data: bytes) -> None:
            found[digests[place]] = data
            if on_part is not None:
                on_part(digests[place], data)

        request = pb.FetchRequest(digests=digests, rate_bytes_per_s=rate_bytes_per_s)
        await self._stream(self._stub.Fetch, request, list(wanted.items()), keep)
        return found

    async def fetch_chunks(
        self,
        root: str,
        wanted: Mapping[int, tuple[str, int]],
        on_chunk: OnItem,
        rate_bytes_per_s: float = 0.0,
    ) -> None:
        """Chunks of a fragment's state; raises as `fetch_parts` does.

        Args:
            wanted: digest and size in bytes of each chunk, by its index.
            on_chunk: awaited with each chunk as it comes; what has come when something goes wrong
                stays good.
        """
        indices = list(wanted)

        async def keep(place: int, data: bytes) -> None:
            await on_chunk(indices[place], data)

        request = pb.ChunksRequest(root=root, indices=indices, rate_bytes_per_s=rate_bytes_per_s)
        await self._stream(self._stub.Chunks, request, list(wanted.values()), keep)

    async def _stream(
        self, method: Any, request: Any, expected: Sequence[tuple[str, int]], keep: OnItem
    ) -> None:
        await self._lanes.control_turn(request.ByteSize())
        assembly = _Assembly(self._peer_id, expected)
        call = method(request, metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(PIECE_S):
                    piece = await call.read()
                if piece is grpc.aio.EOF:
                    break
                self._lanes.received(piece.ByteSize())
                if (item := assembly.add(piece)) is not None:
                    await keep(*item)
        except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError) as error:
            raise failure_of(error, self._peer_id) from error
        finally:
            call.cancel()


class _Assembly:
    """Puts the pieces of one stream together. Holds one item at a time."""

    def __init__(self, sender: str, expected: Sequence[tuple[str, int]]) -> None:
        """`expected`: digest and size of what was asked for, in that order."""
        self._sender = sender
        self._expected = expected
        self._item = 0
        self._buffer = bytearray()

    def add(self, piece: pb.Piece) -> tuple[int, bytes] | None:
        """An item when it is complete. Raises RemoteError when the piece is not part of it."""
        if not self._buffer:
            if not self._item <= piece.item < len(self._expected):
                raise RemoteError(self._sender, "sent what nobody asked for")
            self._item = piece.item
        wanted, size = self._expected[self._item]
        fits = (
            piece.item == self._item
            and piece.item_bytes == size
            and piece.offset == len(self._buffer)
            and 0 < len(piece.data) <= min(MAX_CHUNK_BYTES, size - piece.offset)
        )
        if not fits:
            raise RemoteError(self._sender, "sent a piece of the wrong size or out of order")
        self._buffer += piece.data
        if len(self._buffer) < size:
            return None
        data = bytes(self._buffer)
        if digest(data) != wanted:
            raise RemoteError(self._sender, "sent bytes that are not those that were asked for")
        self._item, self._buffer = piece.item + 1, bytearray()
        return piece.item, data
