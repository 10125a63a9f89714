"""Who gets through: the real server on loopback, and everybody who should not."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.admission import Membership, Trust
from peer.certificates import Authority, Role, dns_name, make_leaf, pem
from peer.contact import Contact, Introduction
from peer.grpc_client import Asker
from peer.grpc_fetch import Source
from peer.grpc_transport import GrpcTransport
from peer.identity import Identity
from peer.pacer import Lanes
from peer.revocation import sign_revocations
from peer.secure import Plaintext, Tls
from protocol.errors import RemoteError, UnavailableError
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from tests.peer.people import identity, peer_id
from tests.peer.shelves import NoDesk

RUN, OTHER = "a" * 64, "b" * 64
AUTHORITY = Authority(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
STRANGER = Authority(Ed25519PrivateKey.from_private_bytes(b"2" * 32))


def member(
    name: str,
    role: Role = Role.TRAINER,
    *,
    by: Authority = AUTHORITY,
    run_id: str = RUN,
    days: float | None = 1.0,
) -> Membership:
    public_key = identity(name).public_key
    certificate = by.admit(public_key, run_id, name=name, role=role, days=days)
    return Membership(run_id, AUTHORITY.certificate, certificate)


def security(name: str, role: Role = Role.TRAINER) -> Tls:
    membership = member(name, role)
    return Tls(identity(name), membership, Trust(membership))


@dataclass
class Listener:
    """Anna, who answers everybody that TLS and her roles let through."""

    contact: Contact
    transport: GrpcTransport
    security: Tls


@asynccontextmanager
async def anna() -> AsyncIterator[Listener]:
    hers = security("anna")
    transport = GrpcTransport(hers, Lanes(None), NoDesk())
    port = await transport.listen("127.0.0.1", 0)
    try:
        yield Listener(contact_of("anna", f"127.0.0.1:{port}"), transport, hers)
    finally:
        await transport.close()


def contact_of(name: str, address: str, membership: Membership | None = None) -> Contact:
    certificate = (membership or member(name)).certificate
    return Introduction(
        identity=identity(name), run_id=RUN, name=name, address=address, certificate=certificate
    ).contact()


async def status(credentials: grpc.ChannelCredentials, address: str, name: str) -> None:
    """One call with these credentials; raises AioRpcError."""
    options = [("grpc.ssl_target_name_override", name)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        stub = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
        await stub.Status(pb.StatusRequest(), timeout=5)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


NAME = dns_name(peer_id("anna"), RUN)


def test_a_member_is_known_by_its_certificate():
    async def work() -> None:
        async with anna() as her:
            reply = await Asker(security("bert")).status(her.contact)
            assert reply == pb.StatusReply()
            assert not her.transport.refused

    run(work)


# --- who calls -----------------------------------------------------------------------------------


def leaf(issuer: Identity, certificate: bytes, name: str) -> tuple[bytes, bytes]:
    """A key and a leaf for any name, signed with somebody's identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    found = x509.load_der_x509_certificate(certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(found.subject)
        .not_valid_before(found.not_valid_before_utc)
        .not_valid_after(found.not_valid_after_utc)
        .serial_number(1)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, issuer.certify(builder).public_bytes(serialization.Encoding.PEM)


def credentials(key: bytes, *chain: bytes) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        pem(member("anna").certificate), private_key=key, certificate_chain=b"".join(chain)
    )


def shown(name: str, membership: Membership, says: str | None = None) -> grpc.ChannelCredentials:
    """What this person shows, under any name."""
    says = says or dns_name(peer_id(name), membership.run_id)
    key, made = leaf(identity(name), membership.certificate, says)
    return credentials(key, made, pem(membership.certificate))


def direct() -> grpc.ChannelCredentials:
    """A leaf that the authority itself signed, of no identity."""
    own = Identity(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
    key, made = leaf(own, AUTHORITY.certificate, NAME)
    return credentials(key, made)


BERT = member("bert")

STRANGERS = {
    "nobody": grpc.ssl_channel_credentials(pem(member("anna").certificate)),
    "of another authority": shown("bert", member("bert", by=STRANGER)),
    "of another run": shown("bert", member("bert", run_id=OTHER)),
    "of an open run": shown("bert", Membership.of_open_run(identity("bert"), RUN)),
    "expired": shown("bert", member("bert", days=-0.01)),
    "in another's name": shown("bert", BERT, NAME),
    "with any name": shown("bert", BERT, f"*.{RUN[:16]}.diloco"),
    "with a name below its own": shown("bert", BERT, f"x.{dns_name(peer_id('bert'), RUN)}"),
    "with a leaf of the authority": direct(),
    "with somebody else's certificate": credentials(
        *leaf(identity("carl"), BERT.certificate, NAME), pem(BERT.certificate)
    ),
    "with somebody else's beside its own": credentials(
        *leaf(identity("bert"), BERT.certificate, dns_name(peer_id("bert"), RUN)),
        pem(member("anna").certificate),
        pem(BERT.certificate),
    ),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_caller_who_is_not_let_in(who: str) -> None:
    async def work() -> None:
        async with anna() as her:
            await status(shown("bert", BERT), her.contact.address, NAME)
            with pytest.raises(grpc.aio.AioRpcError):
                await status(STRANGERS[who], her.contact.address, NAME)

    run(work)


def test_a_caller_in_plaintext_is_not_let_in():
    async def work() -> None:
        async with anna() as her:
            plain = replace(her.contact, certificate=b"")
            with pytest.raises(UnavailableError):
                await Asker(Plaintext(peer_id("bert"), RUN)).status(plain)

    run(work)


def test_a_caller_is_refused_once_it_is_thrown_out_and_its_stream_ends_also():
    async def work() -> None:
        async with anna() as her:
            bert = security("bert")
            async with Source(her.contact, bert, Lanes(None)) as source:
                with pytest.raises(UnavailableError, match="nothing to give"):
                    await source.ask_offers()
                her.security.trust.revocations.take(
                    sign_revocations(AUTHORITY, RUN, 1, [peer_id("bert")]), ""
                )
                with pytest.raises(RemoteError, match="revoked"):  # on the connection that is open
                    await source.ask_offers()
            with pytest.raises(RemoteError, match="revoked"):
                await Asker(bert).status(her.contact)
            assert her.transport.refused["a certificate that was revoked"] == 2

    run(work)


def test_a_caller_is_refused_once_its_certificate_has_ended():
    async def work() -> None:
        async with anna() as her:
            bert = security("bert")
            await Asker(bert).status(her.contact)
            her.security.trust._now_s = lambda: time.time() + 90_000
            with pytest.raises(RemoteError, match="ended"):
                await Asker(bert).status(her.contact)

    run(work)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.OBSERVER, ["Hello", "Status", "Revoked"]),
        (Role.ARCHIVE, ["Hello", "Status", "Revoked", "Offers", "Tell"]),
        (Role.TRAINER, ["Hello", "Status", "Revoked", "Offers", "Tell", "Push"]),
    ],
)
def test_each_role_has_its_calls(role: Role, may: list[str]) -> None:
    """A peer that has not begun answers those that may call with something else than 'no'."""

    async def work() -> None:
        async with anna() as her:
            her.transport.disconnect()  # it answers, and has nothing
            async with security("olga", role).channel(her.contact, []) as channel:
                stub = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
                calls = {
                    "Hello": lambda: stub.Hello(pb.HelloRequest()),
                    "Status": lambda: stub.Status(pb.StatusRequest()),
                    "Revoked": lambda: stub.Revoked(pb.SignedRevocations()),
                    "Offers": lambda: stub.Offers(pb.OffersRequest()),
                    "Tell": lambda: stub.Tell(pb.Envelope(leave=pb.Leave(round=1))),
                    "Push": lambda: stub.Push(iter([pb.Chunk()])),
                }
                done = []
                for name, call in calls.items():
                    try:
                        await call()
                    except grpc.aio.AioRpcError as error:
                        if "not for the role" in (error.details() or ""):
                            continue
                    done.append(name)
                assert done == may

    run(work)


# --- whom one dials ------------------------------------------------------------------------------


@asynccontextmanager
async def impostor(key: bytes, *chain: bytes) -> AsyncIterator[str]:
    """A server with any certificate, at anna's address."""
    server = grpc.aio.server()
    stubs.add_PeerServicer_to_server(stubs.PeerServicer(), server)  # type: ignore[no-untyped-call]
    shows = grpc.ssl_server_credentials(
        [(key, b"".join(chain))], pem(AUTHORITY.certificate), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", shows)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


CARL = member("carl")
IMPOSTORS = {
    "itself": (*leaf(identity("carl"), CARL.certificate, "carl"), pem(CARL.certificate)),
    "her name under his own certificate": (
        *leaf(identity("carl"), CARL.certificate, NAME),
        pem(CARL.certificate),
    ),
    "her certificate without her key": (
        *leaf(identity("carl"), member("anna").certificate, NAME),
        pem(member("anna").certificate),
    ),
    "a leaf of the authority in her name": leaf(
        Identity(Ed25519PrivateKey.from_private_bytes(b"1" * 32)), AUTHORITY.certificate, NAME
    ),
}


@pytest.mark.parametrize("shows", IMPOSTORS)
def test_whoever_answers_in_anothers_place_hears_nothing(shows: str) -> None:
    async def work() -> None:
        async with impostor(*IMPOSTORS[shows]) as address:
            with pytest.raises(UnavailableError):
                await Asker(security("bert")).status(contact_of("anna", address))

    run(work)


def test_somebody_who_is_not_of_the_run_is_not_even_dialled():
    async def work() -> None:
        bert = Asker(security("bert"))
        for membership, why in (
            (member("anna", by=STRANGER), "another authority"),
            (member("anna", days=-0.01), "ended"),
            (member("carl"), "another peer's certificate"),
        ):
            with pytest.raises(RemoteError, match=why):
                await bert.status(contact_of("anna", "127.0.0.1:9", membership))
        with pytest.raises(RemoteError, match="without a certificate"):
            await bert.status(replace(contact_of("anna", "127.0.0.1:9"), certificate=b""))

    run(work)


def test_an_invitation_that_has_ended_or_is_anothers_is_said():
    for membership, why in ((member("anna", days=-0.01), "ended"), (member("bert"), "another key")):
        with pytest.raises(RemoteError, match=why):
            Tls(identity("anna"), membership, Trust(membership))


# --- the line ------------------------------------------------------------------------------------


def handshake(address: str, tmp_path: Path, newest: ssl.TLSVersion) -> str:
    """The version that the server agrees on with somebody who has a certificate."""
    membership = member("bert")
    own = security("bert")
    key, made = make_leaf(
        identity("bert"), own.trust.admit(membership.certificate), membership.run_id
    )
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "chain").write_bytes(made + pem(membership.certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    host, _, port = address.rpartition(":")
    with (
        contextlib.closing(socket.create_connection((host, int(port)), 10)) as line,
        context.wrap_socket(line, server_hostname=NAME) as secured,
    ):
        return secured.version() or ""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_before_1_2_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with anna() as her:
            address = her.contact.address
            for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.to_thread(handshake, address, tmp_path, version)
            newest = ssl.TLSVersion.MAXIMUM_SUPPORTED
            assert await asyncio.to_thread(handshake, address, tmp_path, newest) == "TLSv1.3"

    run(work)
