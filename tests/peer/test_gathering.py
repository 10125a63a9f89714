"""Saying hello: over real gRPC on loopback, with a peer that has not begun."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from peer.gathering import Gathering
from peer.grpc_client import ask_hello
from peer.grpc_transport import GrpcTransport
from peer.identity import Identity
from peer.pacer import Lanes
from protocol.errors import InputError, RemoteError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

MANIFEST = Manifest.from_toml("start_peers = 3\n[limits]\nmax_peers = 3")
ME, B, C, D = (letter * 52 for letter in "abcd")


def announcement(peer_id: str, address: str = "127.0.0.1:9") -> pb.Announcement:
    return pb.Announcement(peer_id=peer_id, name=peer_id[0], address=address)


async def no_log(count: int) -> pb.LogReply:
    return pb.LogReply()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Gathering, GrpcTransport, str]]:
    gathering = Gathering(MANIFEST, announcement(ME), pb.StatusReply, no_log)
    transport = GrpcTransport(ME, MANIFEST.run_id, Lanes(None), gathering)
    port = await transport.listen("127.0.0.1", 0)
    try:
        yield gathering, transport, f"127.0.0.1:{port}"
    finally:
        await transport.close()


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(work())


def test_a_malformed_announcement_is_refused_and_counted() -> None:
    async def work() -> None:
        async with listening() as (gathering, transport, address):
            for bad in (
                announcement("short"),
                announcement(B, "no-port"),
                announcement(B, ":7"),
                announcement(B, "host:70000"),
                pb.Announcement(peer_id=B, name="n" * 65, address="127.0.0.1:9"),
            ):
                with pytest.raises(RemoteError, match="a malformed announcement"):
                    await ask_hello(address, pb.HelloRequest(me=bad))
            assert transport.refused == {"a malformed announcement": 5}
            assert gathering.present == []

    run(work)


def test_who_is_counted_already_is_not_told_that_the_run_is_full() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, address):
            for _ in range(3):
                for peer in (B, C):
                    reply = await ask_hello(address, pb.HelloRequest(me=announcement(peer)))
                    assert reply.refusal == ""
            reply = await ask_hello(address, pb.HelloRequest(me=announcement(D)))
            assert "is full" in reply.refusal
            assert gathering.present == [B, C] and gathering.awaited == 0

    run(work)


def test_a_peer_with_the_same_identity_is_refused() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, address):
            reply = await ask_hello(address, pb.HelloRequest(me=announcement(ME)))
            assert "--dir of its own" in reply.refusal
            assert gathering.present == []

    run(work)


def test_strangers_cannot_make_a_peer_know_everybody_but_the_present_ones() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, address):
            await ask_hello(address, pb.HelloRequest(me=announcement(B)))
            for number in range(40):
                crowd = [announcement(f"{number:03d}{i:03d}".ljust(52, "x")) for i in range(100)]
                gathering.adopt(pb.HelloReply(peers=crowd), ME)
            assert len(gathering.addresses()) < 300
            assert B in gathering.addresses()

    run(work)


class NoDht:
    """A DHT that knows one peer."""

    def __init__(self, known: list[pb.Announcement]) -> None:
        self._known = known

    async def announce(self, run_id: str, announcement: pb.Announcement) -> None:
        raise NotImplementedError

    async def peers(self, run_id: str) -> list[pb.Announcement]:
        return self._known

    async def runs(self) -> list[str]:
        return [MANIFEST.run_id]


def test_an_address_where_nobody_answers_holds_nobody_up(tmp_path) -> None:
    founder = Identity.load_or_create(tmp_path)

    async def work() -> None:
        me = announcement(founder.peer_id)
        founding = Gathering(MANIFEST, me, pb.StatusReply, no_log)
        transport = GrpcTransport(me.peer_id, MANIFEST.run_id, Lanes(None), founding)
        me.address = f"127.0.0.1:{await transport.listen('127.0.0.1', 0)}"
        # Nothing is ever routed to TEST-NET-1, and nobody says so.
        dead = announcement("e" * 52, "192.0.2.1:7000")
        async with asyncio.timeout(10):
            genesis, *joined = await asyncio.gather(
                founding.found(founder, "0" * 64),
                *(
                    Gathering(MANIFEST, announcement(peer), pb.StatusReply, no_log).join(
                        NoDht([dead, me])
                    )
                    for peer in (B, C)
                ),
            )
        assert joined == [genesis, genesis]
        assert set(genesis.voters) == {founder.peer_id, B, C}
        await transport.close()

    run(work)


def test_a_refusal_ends_the_search() -> None:
    async def work() -> None:
        async with listening() as (_, _, address):
            twin = Gathering(MANIFEST, announcement(ME), pb.StatusReply, no_log)
            other = announcement(B, address)
            with pytest.raises(InputError, match="identity"):
                await twin.join(NoDht([other]))

    run(work)
