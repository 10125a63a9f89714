"""Streams of bulk data: chunks of parts that others push, and pieces of what was asked for.

An input is a message whose first field is repeated: the messages of one stream, in their order.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from peer.grpc_fetch import _Assembly as PieceAssembly
from peer.grpc_server import _Assembly as ChunkAssembly
from peer.pacer import Lanes
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import Leg, PartReceived
from protocol.wire import diloco_pb2 as pb
from tests.fuzz import mutations
from tests.fuzz.target import Target
from tests.protocol.makers import roster

ROSTER = roster().digest
PARTS = {
    (Leg.SCATTER, 1): b"\xff" * 9000,
    (Leg.GATHER, 0): b"\xfe" * 9,
    (Leg.GATHER, 2): b"8 bytes!",
}
"""What the sender may send under the roster."""


def stream_of(messages: Sequence[Any]) -> bytes:
    fields = [mutations.Field(1, 2, message.SerializeToString()) for message in messages]
    return mutations.serialize(fields)


def messages_in(data: bytes, kind: Any) -> list[Any]:
    """Raises DecodeError: gRPC would not have handed it over."""
    fields = mutations.parse(data)
    if fields is None:
        raise DecodeError("no stream")
    bodies = [field.value for field in fields if field.number == 1 and field.kind == 2]
    return [
        kind.FromString(mutations.serialize(body) if isinstance(body, list) else body)
        for body in bodies
    ]


class Stream(Target):
    structured = staticmethod(mutations.protobuf)
    refusals = (RemoteError, DecodeError)


class Chunks(Stream):
    """What one peer pushes here, up to the hand-over of whole parts."""

    name = "chunks"
    refusals = (RemoteError, DecodeError, TimeoutError)

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lanes = self._runner.run(_lanes())
        self._handed: list[tuple[Leg, int, bytes, tuple[int, ...]]] = []
        whole = [_chunk(Leg.GATHER, 0, 0, 9), _chunk(Leg.GATHER, 2, 0, 8, without=(1,))]
        cut = [_chunk(Leg.SCATTER, 1, 0, 4096), _chunk(Leg.SCATTER, 1, 4096, 9000)]
        self.samples = [stream_of(chunks) for chunks in (whole, cut, [*cut, *whole])]

    def on_part(self, part: PartReceived) -> None:
        self._handed.append((part.leg, part.part_index, part.data, part.without))

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        """As a member does, but that a roster which is not here does not come either."""
        if roster != ROSTER:
            raise TimeoutError("a stream that stalled")
        if (leg, part_index) not in PARTS:
            raise RemoteError(sender, "there is no such part")
        return len(PARTS[leg, part_index])

    def feed(self, data: bytes) -> list[tuple[Leg, int, bytes, tuple[int, ...]]]:
        self._handed = []
        chunks = messages_in(data, pb.Chunk)
        self._runner.run(
            ChunkAssembly("a", lambda: None, self, self._lanes).take(_one_by_one(chunks))
        )
        return self._handed

    def is_right(self, data: bytes, made: list[tuple[Leg, int, bytes, tuple[int, ...]]]) -> bool:
        """Every part has its size, and is what the digest on its first chunk says."""
        told = {chunk.digest for chunk in messages_in(data, pb.Chunk)}
        return all(
            len(part) == len(PARTS[leg, index]) and digest(part) in told
            for leg, index, part, _ in made
        )

    def close(self) -> None:
        self._runner.close()


async def _lanes() -> Lanes:
    return Lanes(None)


async def _one_by_one(chunks: Sequence[pb.Chunk]) -> AsyncIterator[pb.Chunk]:
    for chunk in chunks:
        yield chunk


def _chunk(leg: Leg, index: int, start: int, stop: int, without: tuple[int, ...] = ()) -> pb.Chunk:
    data = PARTS[leg, index]
    chunk = pb.Chunk(
        roster=ROSTER if start == 0 else "",
        leg=pb.LEG_SCATTER if leg is Leg.SCATTER else pb.LEG_GATHER,
        part_index=index,
        offset=start,
        part_bytes=len(data),
        data=data[start:stop],
        without=without,
    )
    if start == 0:
        chunk.digest = digest(data)
    return chunk


class Pieces(Stream):
    """What a donor sends in answer to a request."""

    name = "pieces"
    ITEMS = (b"the first item", b"\xff" * 9000, b"the last")

    def __init__(self) -> None:
        cuts = [(0, 0, 14), (1, 0, 4096), (1, 4096, 9000), (2, 0, 8)]
        pieces = [self._piece(*cut) for cut in cuts]
        self.samples = [stream_of(kept) for kept in (pieces, pieces[:1], pieces[3:], pieces[1:3])]

    def _piece(self, item: int, start: int, stop: int) -> pb.Piece:
        whole = self.ITEMS[item]
        return pb.Piece(item=item, offset=start, item_bytes=len(whole), data=whole[start:stop])

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        assembly = PieceAssembly("a", [(digest(item), len(item)) for item in self.ITEMS])
        found = [assembly.add(piece) for piece in messages_in(data, pb.Piece)]
        return [item for item in found if item is not None]

    def is_right(self, data: bytes, made: list[tuple[int, bytes]]) -> bool:
        places = [place for place, _ in made]
        is_ordered = places == sorted(set(places))
        return is_ordered and all(self.ITEMS[place] == item for place, item in made)


TARGETS: list[Callable[[], Target]] = [Chunks, Pieces]
