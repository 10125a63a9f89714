"""What a peer believes about another one that cannot be reached."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.processes import free_ports
from peer.grpc_client import Line
from peer.pacer import Lanes
from protocol.events import Leg, SendPart
from protocol.messages import Leave
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from tests.peer.people import contact, security

RUN = "a" * 64

PART = SendPart(
    to="p",
    roster="roster",
    leg=Leg.SCATTER,
    part_index=0,
    data=bytes(2**16),
    rate_bytes_per_s=1e6,
)
"""Several chunks."""


class Hearsay:
    """An inbox that notes failures, and when the attempts began."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, float]] = []
        self.failed = asyncio.Event()

    def on_unreachable(self, peer_id: str, why: str, began_s: float) -> None:
        self.failures.append((why, began_s))
        self.failed.set()


class GivesUp(stubs.PeerServicer):
    """The first stream of parts ends after a chunk, as one does that stalled; others are read."""

    def __init__(self) -> None:
        self.given_up, self.received = asyncio.Event(), asyncio.Event()

    async def Push(self, chunks: AsyncIterator[pb.Chunk], context: Any) -> None:
        received_bytes = 0
        async for chunk in chunks:
            received_bytes += len(chunk.data)
            if not self.given_up.is_set():
                self.given_up.set()
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "stalled")
            if received_bytes == len(PART.data):
                self.received.set()


def test_a_call_that_only_repeats_an_old_failure_is_no_news() -> None:
    async def fail_twice() -> None:
        inbox = Hearsay()
        line = line_to(f"127.0.0.1:{free_ports()}", inbox)
        try:
            line.tell(Leave(round=0))
            await line.drained()
            line.tell(Leave(round=0))  # gRPC has not dialled again since
            await line.drained()
        finally:
            await line.close()
        (why, first_s), (_, second_s) = inbox.failures
        assert why == "connection refused" and second_s == first_s

    asyncio.run(fail_twice())


def test_a_stream_that_was_given_up_is_opened_again_and_accuses_nobody() -> None:
    async def push() -> None:
        inbox, service = Hearsay(), GivesUp()
        server, line = await _connected(inbox, service)
        try:
            line.push(PART)
            await service.received.wait()
        finally:
            await line.close()
            await server.stop(None)
        assert not inbox.failures

    asyncio.run(push())


def test_a_peer_that_goes_in_the_middle_of_a_stream_is_noticed() -> None:
    async def push() -> None:
        inbox, service = Hearsay(), GivesUp()
        server, line = await _connected(inbox, service)
        try:
            line.push(PART)
            await service.given_up.wait()
            await server.stop(None)
            await inbox.failed.wait()
        finally:
            await line.close()
            await server.stop(None)
        assert len(inbox.failures) == 1

    asyncio.run(push())


async def _connected(inbox: Hearsay, service: GivesUp) -> tuple[grpc.aio.Server, Line]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    stubs.add_PeerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = security("p", RUN).bind(server, "127.0.0.1:0")
    await server.start()
    return server, line_to(f"127.0.0.1:{port}", inbox)


def line_to(address: str, inbox: Hearsay) -> Line:
    return Line(contact("p", RUN, address), security("me", RUN), Lanes(None), inbox)  # type: ignore[arg-type]
