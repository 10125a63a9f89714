"""Saying hello: over real gRPC on loopback, with a peer that has not begun."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from peer.contact import Contact
from peer.gathering import Gathering
from peer.grpc_client import Asker
from peer.grpc_transport import GrpcTransport
from peer.pacer import Lanes
from protocol.errors import RemoteError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb
from tests.peer.people import contact, identity, introduction, peer_id, security
from tests.protocol import makers

MANIFEST = Manifest.from_toml("start_peers = 3\n[limits]\nmax_peers = 3")
ME, B, C = map(peer_id, ("me", "b", "c"))


def told(name: str, address: str = "127.0.0.1:9") -> Contact:
    return contact(name, MANIFEST.run_id, address)


def hello(name: str, address: str = "127.0.0.1:9") -> pb.HelloRequest:
    return pb.HelloRequest(me=told(name, address).signed)


def gathering_of(name: str) -> Gathering:
    me = introduction(name, MANIFEST.run_id)
    return Gathering(MANIFEST, me, security(name, MANIFEST.run_id), pb.StatusReply, no_log)


async def say(name: str, to: Contact, request: pb.HelloRequest | None = None) -> pb.HelloReply:
    """What a peer answers to this person's hello."""
    asker = Asker(security(name, MANIFEST.run_id))
    return await asker.hello(to, request or hello(name))


async def no_log(count: int) -> pb.LogReply:
    return pb.LogReply()


@asynccontextmanager
async def listening(name: str = "me") -> AsyncIterator[tuple[Gathering, GrpcTransport, Contact]]:
    gathering = gathering_of(name)
    transport = GrpcTransport(security(name, MANIFEST.run_id), Lanes(None), gathering)
    port = await transport.listen("127.0.0.1", 0)
    gathering.me = gathering.me.at(f"127.0.0.1:{port}")
    try:
        yield gathering, transport, gathering.me.contact()
    finally:
        await transport.close()


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(work())


def test_a_malformed_contact_is_refused_and_counted() -> None:
    async def work() -> None:
        async with listening() as (gathering, transport, me):
            forged = hello("b")
            forged.me.contact = forged.me.contact.replace(b"127.0.0.1:9", b"127.0.0.2:9")
            for bad, why in (
                (hello("b", "no-port"), "a malformed contact"),
                (forged, "a contact that is not signed by its peer"),
                (pb.HelloRequest(me=contact("b", "f" * 64).signed), "a contact of another run"),
                (hello("c"), "a hello in another's name"),
            ):
                with pytest.raises(RemoteError, match=why):
                    await say("b", me, bad)
                assert transport.refused[why] == 1
            assert gathering.present == [] and gathering.contacts() == []

    run(work)


def test_an_older_contact_never_replaces_a_newer_one() -> None:
    """Whoever kept what a peer said once cannot lead the others back to where it was."""

    async def work() -> None:
        async with listening() as (gathering, _, me):
            old, new = hello("b", "127.0.0.1:7"), hello("b", "127.0.0.1:8")
            met = []
            gathering.genesis = makers.genesis((ME,), run_id=MANIFEST.run_id)
            gathering.greet(lambda known: met.append((known.peer_id, known.address)))
            for request in (new, old):
                await say("b", me, request)
            gathering.adopt(pb.HelloReply(peers=[old.me]), C)
            assert [known.address for known in gathering.contacts()] == ["127.0.0.1:8"]
            assert met == [(B, "127.0.0.1:8")]

    run(work)


def test_who_is_counted_already_is_not_told_that_the_run_is_full() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, me):
            for _ in range(3):
                for name in ("b", "c"):
                    reply = await say(name, me)
                    assert reply.refusal == ""
            reply = await say("d", me)
            assert "is full" in reply.refusal
            assert gathering.present == [B, C] and gathering.awaited == 0

    run(work)


def test_a_peer_with_the_same_identity_is_refused() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, me):
            reply = await say("me", me)
            assert "--dir of its own" in reply.refusal
            assert gathering.present == []

    run(work)


def test_strangers_cannot_make_a_peer_know_everybody_but_the_present_ones() -> None:
    async def work() -> None:
        async with listening() as (gathering, _, me):
            await say("b", me)
            for number in range(5):
                crowd = [told(f"stranger {number} {i}").signed for i in range(100)]
                gathering.adopt(pb.HelloReply(peers=crowd), C)
            known = [contact.peer_id for contact in gathering.contacts()]
            assert len(known) < 300
            assert B in known

    run(work)


def test_an_answer_with_one_false_contact_in_it_changes_nothing() -> None:
    gathering = gathering_of("me")
    forged = told("c").signed
    forged.signature = told("b").signed.signature
    with pytest.raises(RemoteError, match="not signed by its peer"):
        gathering.adopt(pb.HelloReply(peers=[told("b").signed, forged]), B)
    assert gathering.contacts() == []


class NoDht:
    """A DHT that knows one peer."""

    def __init__(self, known: list[Contact]) -> None:
        self._known = known

    async def announce(self, run_id: str, contact: Contact) -> None:
        raise NotImplementedError

    async def peers(self, run_id: str) -> list[Contact]:
        return self._known

    async def runs(self) -> list[str]:
        return [MANIFEST.run_id]


def test_an_address_where_nobody_answers_holds_nobody_up() -> None:
    founder = identity("me")

    async def work() -> None:
        async with listening() as (founding, _, _):
            # Nothing is ever routed to TEST-NET-1, and nobody says so.
            known = [told("e", "192.0.2.1:7000"), founding.me.contact()]
            async with asyncio.timeout(10):
                genesis, *joined = await asyncio.gather(
                    founding.found(founder, "0" * 64),
                    *(gathering_of(name).join(NoDht(known)) for name in ("b", "c")),
                )
        assert joined == [genesis, genesis]
        assert set(genesis.voters) == {ME, B, C}

    run(work)


def test_whoever_knows_somebody_that_is_out_is_believed_about_the_others() -> None:
    gathering = gathering_of("me")
    out = replace(introduction("b", MANIFEST.run_id), certificate=b"").contact()
    gathering.adopt(pb.HelloReply(peers=[out.signed, told("c").signed]), C)
    assert [known.peer_id for known in gathering.contacts()] == [C]
