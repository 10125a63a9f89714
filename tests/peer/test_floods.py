"""Floods against the real server on loopback: whoever behaves is answered all the while."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from peer import grpc_server, turnstile
from peer.grpc_client import Asker
from peer.grpc_settings import SERVER_OPTIONS
from peer.turnstile import BURST, MAX_OPEN
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from tests.peer.test_secure import anna, run, security

CONNECTIONS = 400
HANDSHAKE_S = 1.0
MAX_GROWTH_BYTES = 64 << 20


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing is sent away after one second instead of five."""
    option = ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_S))
    rest = [other for other in SERVER_OPTIONS if other[0] != option[0]]
    assert len(rest) == len(SERVER_OPTIONS) - 1
    monkeypatch.setattr(grpc_server, "SERVER_OPTIONS", [*rest, option])


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def connections(address: str, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        lines = [socket.create_connection((host, int(port)), 10) for _ in range(count)]
        for line in lines:
            stack.enter_context(line)
        yield lines


def is_closed(line: socket.socket) -> bool:
    """Waits until the other side has closed; what it says before does not matter."""
    line.settimeout(60)
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "first_words",
    [b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
def test_connections_that_say_nothing_of_use_are_closed(first_words: bytes) -> None:
    async def work() -> None:
        async with anna() as her:
            bert = Asker(security("bert"))
            await bert.status(her.contact)
            before = resident_bytes()
            with connections(her.contact.address, CONNECTIONS) as lines:
                for line in lines:
                    line.sendall(first_words)
                await bert.status(her.contact)
                closed = [asyncio.to_thread(is_closed, line) for line in lines]
                assert all(await asyncio.gather(*closed))
            await bert.status(her.contact)
            assert resident_bytes() - before < MAX_GROWTH_BYTES

    run(work)


def test_a_member_that_calls_without_end_is_refused_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may not get as many calls through as a member is allowed.
    monkeypatch.setattr(turnstile, "CALLS_PER_S", 1.0)

    async def work() -> None:
        async with anna() as her:
            async with security("bert").channel(her.contact, []) as channel:
                stub = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
                calls = [stub.Status(pb.StatusRequest()) for _ in range(2 * int(BURST))]
                answers = await asyncio.gather(*calls, return_exceptions=True)
                assert any(isinstance(answer, pb.StatusReply) for answer in answers)
                await Asker(security("carl")).status(her.contact)
            assert her.transport.refused["calls too often"] > 0

    run(work)


def test_a_member_that_opens_streams_without_end_is_refused_and_the_others_are_not() -> None:
    async def work() -> None:
        async with anna() as her, security("bert").channel(her.contact, []) as channel:
            stub = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
            streams = [stub.Push(_silence()) for _ in range(MAX_OPEN + 10)]
            try:
                await _until(lambda: her.transport.refused["too many calls at once"] >= 10)
                await Asker(security("carl")).status(her.contact)
            finally:
                for stream in streams:
                    stream.cancel()

    run(work)


async def _silence() -> AsyncIterator[pb.Chunk]:
    await asyncio.Event().wait()
    yield pb.Chunk()


async def _until(holds) -> None:
    while not holds():
        await asyncio.sleep(0.01)
