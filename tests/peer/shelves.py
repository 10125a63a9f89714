"""Peers with something to give, over gRPC on loopback, for tests of fetching and joining."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np

from peer.checkpoint import Checkpoints
from peer.grpc_fetch import Source
from peer.grpc_transport import GrpcTransport
from peer.pacer import Lanes
from peer.secure import Caller, Security
from protocol.digest import digest
from protocol.state import CHUNK_BYTES, Offer
from protocol.wire import diloco_pb2 as pb
from tests.peer.people import contact, security
from tests.protocol.makers import DIGEST, entry
from tests.protocol.signed import decided
from tests.sim.disk import SimDisk

RUN = DIGEST
VALUES = (7, 3 * CHUNK_BYTES // 8 + 5, CHUNK_BYTES)
"""1, 4 and 8 chunks."""
PART = b"an encoded mean" * 100_000


def states_of(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [(draw.random(n, dtype=np.float32), draw.random(n, dtype=np.float32)) for n in VALUES]


def checkpoints_of(seed: int, *rounds: int, disk: SimDisk | None = None) -> Checkpoints:
    checkpoints = Checkpoints(disk or SimDisk(), RUN)
    for round_ in rounds:
        by = decided(entry(round=round_), ("a", "b"))
        checkpoints.save(round_, by, states_of(seed + round_), [round_] * 3, None, {})
    return checkpoints


class Shelf:
    """A library of checkpoints and one part, whose owner may be anything but honest."""

    def __init__(
        self, checkpoints: Checkpoints, spoil: Callable[[bytes], bytes] = lambda d: d
    ) -> None:
        self.is_healthy = True
        self.chunks_given = 0
        self._checkpoints = checkpoints
        self._spoil = spoil

    def part(self, digest_: str) -> bytes | None:
        return self._spoil(PART) if digest_ == digest(PART) else None

    def offers(self) -> tuple[Offer, ...]:
        return self._checkpoints.offers()

    def chunk_digests(self, root: str) -> tuple[str, ...] | None:
        return self._checkpoints.chunk_digests(root)

    def chunk(self, root: str, index: int) -> bytes | None:
        data = self._checkpoints.chunk(root, index)
        if data is None:
            return None
        self.chunks_given += 1
        return self._spoil(data)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


class NoDesk:
    async def hello(self, request: pb.HelloRequest, caller: Caller) -> pb.HelloReply:
        return pb.HelloReply()

    def status(self) -> pb.StatusReply:
        return pb.StatusReply()

    def revoked(self, told: pb.SignedRevocations, caller: Caller) -> pb.SignedRevocations:
        return told


def joiner(run_id: str = RUN) -> Security:
    """What the peer that fetches shows."""
    return security("joiner", run_id)


@asynccontextmanager
async def served(peer_id: str, shelf: Shelf | None, lanes: Lanes | None = None):
    """A peer that listens on loopback, and a source that fetches from it."""
    transport = GrpcTransport(security(peer_id, RUN), lanes or Lanes(None), NoDesk())
    port = await transport.listen("127.0.0.1", 0)
    if shelf is not None:
        transport.lend(shelf)
    try:
        listens = contact(peer_id, RUN, f"127.0.0.1:{port}")
        async with Source(listens, joiner(), Lanes(None)) as source:
            yield source, transport
    finally:
        await transport.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())
