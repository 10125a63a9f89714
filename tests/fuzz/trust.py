"""Who may take part: certificates, what a caller shows, who was thrown out, and their files."""

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from google.protobuf.message import DecodeError

from peer.admission import MEMBERSHIP_FILE, Membership, Trust
from peer.certificates import Authority, Certificate, Role, dns_name
from peer.identity import peer_id_of, verifies
from peer.invitation import Invitation
from peer.revocation import Revocations, sign_revocations
from peer.runfile import REVOKED_FILE, RunFile
from peer.secure import Caller, Tls
from protocol.errors import InputError, RemoteError
from protocol.wire import diloco_pb2 as pb
from tests.fuzz import mutations
from tests.fuzz.files import StateFile
from tests.fuzz.folders import Folder
from tests.fuzz.meeting import NAMES, RUN
from tests.fuzz.target import Protobuf, Refused, Target
from tests.fuzz.wire import MANIFEST
from tests.peer.people import identity, membership, peer_id, security
from tests.sim.disk import SimDisk

AUTHORITY = Authority.of_open_run(RUN)
"""Everybody can sign with it: what is in a certificate is then the caller's choice."""
SIGNATURE_BYTES = 64


def certificate_of(name: str) -> bytes:
    return membership(name, RUN).certificate


class Certificates(Target):
    """Identity certificates, changed on their way or by whoever made them."""

    name = "certificate"

    def __init__(self) -> None:
        roles = zip(NAMES, (Role.FOUNDER, Role.ARCHIVE, Role.OBSERVER), strict=True)
        self.samples = [
            AUTHORITY.admit(identity(name).public_key, RUN, name=name, role=role, days=None)
            for name, role in roles
        ]

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        """What is signed is changed, and signed again."""
        before = x509.load_der_x509_certificate(data).tbs_certificate_bytes
        told = mutations.damaged(rng, before, other)
        behind = data[4 + len(before) : -SIGNATURE_BYTES]
        body = told + behind + AUTHORITY.sign(told)
        return b"\x30\x82" + (len(body) % 2**16).to_bytes(2) + body

    def feed(self, data: bytes) -> Certificate:
        return Trust(membership("me", RUN)).admit(data)

    def is_right(self, data: bytes, made: Certificate) -> bool:
        found = x509.load_der_x509_certificate(data)
        return (
            made.peer_id == peer_id_of(made.public_key)
            and verifies(AUTHORITY.public_key, found.signature, found.tbs_certificate_bytes)
            and dns_name(made.peer_id, RUN).encode() in data
        )


class Callers(Target):
    """The chain behind a connection, of which TLS has checked that some of it leads here."""

    name = "tls-caller"
    share = 0.5

    def __init__(self) -> None:
        self._tls = security("me", RUN)
        self.samples = [self._chain_of(name) for name in NAMES]

    def _chain_of(self, name: str) -> bytes:
        theirs = security(name, RUN)
        assert isinstance(theirs, Tls)
        return theirs._chain

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        """Certificates of two callers, in any order, or one of them damaged."""
        mark = b"-----BEGIN"
        cards = [mark + card for card in (data + other).split(mark)[1:]]
        chosen = [rng.choice(cards) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.5:
            chosen[0] = mutations.damaged(rng, chosen[0], other)
        return b"".join(chosen)

    def feed(self, data: bytes) -> Caller:
        facts = {"x509_pem_cert": [data]}
        return self._tls.caller(SimpleNamespace(auth_context=lambda: facts))

    def is_right(self, data: bytes, made: Caller) -> bool:
        return made.peer_id in map(peer_id, NAMES)


class RevocationLists(Protobuf):
    """Lists that are passed on, in a run whose authority has thrown out one peer so far."""

    name = "revocations"

    def __init__(self) -> None:
        lists = [NAMES[:1], NAMES[:2], NAMES]
        signed = [
            sign_revocations(AUTHORITY, RUN, number, map(peer_id, names))
            for number, names in enumerate(lists, start=2)
        ]
        self.samples = [x.SerializeToString() for x in (*signed, pb.SignedRevocations())]
        self.reset()

    def reset(self) -> None:
        self._revocations = Revocations(RUN, AUTHORITY.public_key)
        self._revocations.take(sign_revocations(AUTHORITY, RUN, 1, [peer_id("cleo")]), "a")

    def state(self) -> Any:
        known = self._revocations
        return known.peer_ids, known.number, known.signed

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.5:
            return mutations.protobuf(rng, data, other)
        body = mutations.protobuf(rng, pb.SignedRevocations.FromString(data).revocations, b"")
        signature = AUTHORITY.sign(b"diloco.v1 revocations\0" + body)
        return pb.SignedRevocations(revocations=body, signature=signature).SerializeToString()

    def feed(self, data: bytes) -> bool:
        return self._revocations.take(pb.SignedRevocations.FromString(data), "a")

    def is_right(self, data: bytes, made: bool) -> bool:
        known = self._revocations
        message = b"diloco.v1 revocations\0" + known.signed.revocations
        is_signed = verifies(AUTHORITY.public_key, known.signed.signature, message)
        return is_signed and made == (known.number > 1)


class MembershipFile(StateFile):
    name = file = MEMBERSHIP_FILE
    refusals = (InputError, RemoteError)

    def made(self) -> SimDisk:
        disk = SimDisk()
        membership("anna", RUN).remember(disk)
        return disk

    def feed(self, data: bytes) -> Membership:
        found = Membership.remembered(self.damaged(data))
        assert found is not None
        Trust(found).admit(found.certificate)
        return found


class RevokedFile(StateFile):
    name = file = REVOKED_FILE
    refusals = (InputError, RemoteError, DecodeError)

    def made(self) -> SimDisk:
        disk = SimDisk()
        signed = sign_revocations(AUTHORITY, RUN, 1, [peer_id("cleo")])
        RunFile(disk).remember_revocations(signed)
        return disk

    def feed(self, data: bytes) -> Any:
        found = RunFile(self.damaged(data)).revocations()
        if not found:
            raise Refused("no list")
        known = Revocations(RUN, AUTHORITY.public_key)
        known.take(found[0], "a")
        return known.peer_ids


class InvitationFile(Folder):
    """What a founder sends to one person."""

    name = "invitation"
    file = "anna.invite"
    structured = staticmethod(mutations.sealed)
    refusals = (InputError, RemoteError)

    def write_sample(self) -> None:
        key = identity("anna")._key.private_bytes_raw()
        shown = membership("anna", RUN)
        Invitation(MANIFEST.name, "anna", ("/ip4/h",), shown, key).write(self.path)

    def feed(self, data: bytes) -> Invitation:
        read = Invitation.read(self.put(data))
        Trust(read.membership).admit(read.membership.certificate)
        assert read.identity is None or len(read.identity.peer_id) == 52
        return read

    def is_right(self, data: bytes, made: Invitation) -> bool:
        return made == self.feed(self.samples[0]) or mutations.is_sealed(data)


TARGETS: list[Callable[[], Target]] = [
    Certificates,
    Callers,
    RevocationLists,
    MembershipFile,
    RevokedFile,
    InvitationFile,
]
