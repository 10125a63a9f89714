"""Fetching by content address: bounded, paced, and nothing that was not asked for is believed."""

import asyncio
import contextlib
from unittest import mock

import grpc
import pytest

from peer.grpc_fetch import Source
from peer.grpc_lending import MAX_CHUNKS_AT_ONCE, MAX_STREAMS_PER_PEER
from peer.grpc_transport import GrpcTransport
from peer.pacer import Lanes
from peer.secure import Plaintext
from protocol.digest import digest
from protocol.errors import RemoteError, UnavailableError
from protocol.state import list_bytes, list_of, state_bytes
from tests.peer.people import contact, peer_id
from tests.peer.shelves import (
    PART,
    VALUES,
    NoDesk,
    Shelf,
    checkpoints_of,
    flipped,
    joiner,
    run,
    served,
)
from tests.protocol.makers import DIGEST


def test_parts_and_chunk_lists_come_by_digest_and_what_is_unknown_is_left_out():
    async def work() -> None:
        shelf = Shelf(checkpoints_of(0, 6))
        lanes = Lanes(None)
        root = shelf.offers()[0].fragments[2].root
        async with served("a", shelf, lanes) as (source, _):
            wanted = {digest(b"unknown"): 7, digest(PART): len(PART), root: list_bytes(VALUES[2])}
            found = await source.fetch_parts(wanted)
        chunk_list = list_of(shelf.chunk_digests(root) or ())
        assert found == {digest(PART): PART, root: chunk_list}
        sent = lanes.sent_bytes
        assert len(PART) + len(chunk_list) < sent["catch-up"] < len(PART) + 2000
        assert sent["bulk"] == 0

    run(work)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (flipped, "not those that were asked for"),
        (lambda data: data[:-1], "wrong size"),
        (lambda data: data + b"x", "wrong size"),
    ],
)
def test_wrong_bytes_are_refused(spoil, why):
    async def work() -> None:
        async with served("liar", Shelf(checkpoints_of(0, 6), spoil)) as (source, _):
            with pytest.raises(RemoteError, match=why) as caught:
                await source.fetch_parts({digest(PART): len(PART)})
            assert caught.value.peer_id == peer_id("liar")

    run(work)


def test_an_unhealthy_peer_offers_and_gives_no_state_but_still_parts():
    async def work() -> None:
        shelf = Shelf(checkpoints_of(0, 6))
        [offer] = shelf.offers()
        digests = shelf.chunk_digests(offer.fragments[0].root) or ()
        shelf.is_healthy = False
        async with served("a", shelf) as (source, _):
            assert await source.ask_offers() == ()
            got = []

            async def keep(index: int, data: bytes) -> None:
                got.append(index)

            wanted = {0: (digests[0], state_bytes(VALUES[0]))}
            await source.fetch_chunks(offer.fragments[0].root, wanted, keep)
            assert got == []
            assert await source.fetch_parts({digest(PART): len(PART)})

    run(work)


def test_requests_that_are_out_of_bounds_are_refused_and_counted():
    async def work() -> None:
        shelf = Shelf(checkpoints_of(0, 6))
        root = shelf.offers()[0].fragments[0].root
        async with served("a", shelf) as (source, transport):
            for wanted in (
                {},
                {"../" + "a" * 61: 1},
                {digest(bytes([n % 256, n // 256])): 1 for n in range(1025)},
            ):
                with pytest.raises(RemoteError, match="malformed request for parts"):
                    await source.fetch_parts(wanted)

            async def keep(index: int, data: bytes) -> None: ...

            many = {index: (DIGEST, 1) for index in range(MAX_CHUNKS_AT_ONCE + 1)}
            for asked, indices in ((root, many), (root, {}), ("x", {0: (DIGEST, 1)})):
                with pytest.raises(RemoteError, match="malformed request for chunks"):
                    await source.fetch_chunks(asked, indices, keep)
            assert transport.refused.total() == 6

    run(work)


@pytest.mark.parametrize("call", ["Tell", "Hello", "Fetch", "Push"])
def test_bytes_that_are_no_message_are_refused_and_counted(call: str):
    """gRPC ends such a call by itself."""

    async def work() -> None:
        transport = GrpcTransport(Plaintext("a", DIGEST), Lanes(None), NoDesk())
        transport.connect(mock.Mock())
        address = f"127.0.0.1:{await transport.listen('127.0.0.1', 0)}"
        async with grpc.aio.insecure_channel(address) as channel:
            ask = channel.stream_unary(f"/diloco.v1.Peer/{call}")
            metadata = (("peer-id", "x"), ("run-id", DIGEST))
            asked = ask(iter([b"\xff\xff"]), metadata=metadata, timeout=10.0)
            with pytest.raises(grpc.aio.AioRpcError):
                await asked
        assert transport.refused == {"bytes that are no message": 1}
        await transport.close()

    run(work)


def test_callers_of_another_run_get_nothing():
    async def work() -> None:
        here, there = Plaintext("a", DIGEST), Plaintext("x", "f" * 64)
        transport = GrpcTransport(here, Lanes(None), NoDesk())
        address = f"127.0.0.1:{await transport.listen('127.0.0.1', 0)}"
        transport.lend(Shelf(checkpoints_of(0, 6)))
        async with Source(contact("a", DIGEST, address), there, Lanes(None)) as source:
            with pytest.raises(RemoteError, match="another run"):
                await source.ask_offers()
            with pytest.raises(RemoteError, match="another run"):
                await source.fetch_parts({digest(PART): len(PART)})
        await transport.close()

    run(work)


def test_a_peer_that_has_not_begun_and_one_that_is_gone_are_unavailable():
    async def work() -> None:
        async with served("a", None) as (source, _):
            with pytest.raises(UnavailableError, match="nothing to give yet"):
                await source.ask_offers()
        async with Source(contact("b", DIGEST), joiner(), Lanes(None)) as source:
            with pytest.raises(UnavailableError, match="connection refused"):
                await source.fetch_parts({digest(PART): len(PART)})

    run(work)


def test_one_peer_has_only_so_many_streams_at_once():
    wanted = {digest(PART): len(PART)}

    async def until_served(source: Source) -> dict[str, bytes]:
        while True:  # the server hears of the cancellations a moment later
            with contextlib.suppress(UnavailableError):
                return await source.fetch_parts(wanted)

    async def work() -> None:
        lanes = Lanes(125_000.0)
        async with served("a", Shelf(checkpoints_of(0, 6)), lanes) as (source, _):
            tasks = [asyncio.create_task(source.fetch_parts(wanted)) for _ in range(6)]
            done, pending = await asyncio.wait(tasks, timeout=1.0)
            assert len(pending) == MAX_STREAMS_PER_PEER and len(done) == 2
            for task in done:
                with pytest.raises(UnavailableError, match="too many streams"):
                    task.result()
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            with pytest.raises(TimeoutError):  # a slot is free again; the cap is not
                await asyncio.wait_for(until_served(source), 1.0)

    run(work)


def test_a_download_keeps_to_the_rate_that_it_asked_for():
    async def work() -> None:
        async with served("a", Shelf(checkpoints_of(0, 6))) as (source, _):
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            await source.fetch_parts({digest(PART): len(PART)}, rate_bytes_per_s=len(PART))
            assert 0.9 < loop.time() - began_s < 2.0

    run(work)
