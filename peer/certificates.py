"""X.509 as peers use it: the run's authority admits identities, and an identity makes its own leaf.

    authority  Ed25519. The manifest names its public key; that of an open run anybody can compute.
    identity   the Ed25519 key of a peer, as a CA of path length 0 for its own name and no other.
    leaf       P-256, made at every start of a process: gRPC's TLS takes no Ed25519 there.

A name is `PEER_ID.RUN.diloco` (RFC 5280, section 4.2.1.10 for the constraint to it), and peer_id is
the digest of the identity key: so a leaf proves the identity, and an identity the admission.
"""

import datetime
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peer.contact import MAX_CERTIFICATE_BYTES
from peer.identity import Identity, peer_id_of
from peer.key_file import read_key, write_key
from protocol.errors import RemoteError

AUTHORITY_FILE: Final = "authority.key"
MAX_NAME: Final = 64
RUN_DIGITS: Final = 16
"""Of the run_id in a name: a label has room for 63 characters, and nothing but mistakes differs
only behind these."""
SKEW: Final = datetime.timedelta(hours=1)
"""A certificate counts from so long before it was made: clocks differ."""
MALFORMED: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension),
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that nobody should have made."""
_BEGINNING: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NEVER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""No end, in the words of RFC 5280, section 4.1.2.5."""


class Role(StrEnum):
    """What a peer may do; who may call what stands in peer/grpc_server.py."""

    FOUNDER = "founder"
    TRAINER = "trainer"
    ARCHIVE = "archive"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Certificate:
    """An identity certificate that an authority was seen to have signed."""

    der: bytes
    peer_id: str
    public_key: bytes
    name: str
    """What the authority calls this peer."""
    role: Role
    begins_s: float
    ends_s: float
    """Unix time, as its authority wrote it."""

    def is_valid(self, now_s: float) -> bool:
        return self.begins_s <= now_s <= self.ends_s


class Authority:
    """The key that admits peers to a run."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.certificate = self._certificate()
        """DER; what the others of the run trust."""

    @classmethod
    def of_open_run(cls, run_id: str) -> "Authority":
        """The one that admits everybody: its key follows from the run_id."""
        seed = hashlib.sha256(b"diloco.v1 open run\0" + run_id.encode()).digest()
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> "Authority":
        """A new one, kept in a file that only its owner reads. Raises InputError."""
        key = Ed25519PrivateKey.generate()
        write_key(path, key)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> "Authority":
        """Raises InputError: not there, no key, or not only its owner's."""
        return cls(read_key(path))

    def admit(
        self, public_key: bytes, run_id: str, *, name: str, role: Role, days: float | None
    ) -> bytes:
        """An identity certificate, as DER. `days`: it is valid for so long; None: without end."""
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        begins, ends = _BEGINNING, _NEVER
        if days is not None:
            begins, ends = now - SKEW, now + datetime.timedelta(days=days)
        own_name = x509.DNSName(dns_name(peer_id_of(public_key), run_id))
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, peer_id_of(public_key)),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            ]
        )
        builder = (
            _builder(subject, _authority_name(self.public_key), begins, ends)
            .public_key(Ed25519PublicKey.from_public_bytes(public_key))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_only_signs(), critical=True)
            # Without it every admitted peer could make a leaf in any other's name.
            .add_extension(x509.NameConstraints([own_name], None), critical=True)
        )
        return builder.sign(self._key, None).public_bytes(serialization.Encoding.DER)

    def sign(self, message: bytes) -> bytes:
        """What is signed must begin with what it is for."""
        return self._key.sign(message)

    def _certificate(self) -> bytes:
        # Unlike any other's: OpenSSL and BoringSSL look issuers up by name.
        name = _authority_name(self.public_key)
        builder = (
            _builder(name, name, _BEGINNING, _NEVER)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_only_signs(), critical=True)
        )
        return builder.sign(self._key, None).public_bytes(serialization.Encoding.DER)


def dns_name(peer_id: str, run_id: str) -> str:
    """What a peer of a run is called in TLS."""
    return f"{peer_id}.{run_id[:RUN_DIGITS]}.diloco"


def authority_key(certificate: bytes) -> bytes:
    """The public key in an authority's certificate; raises RemoteError when that is none."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except MALFORMED as error:
        raise RemoteError("", "a malformed certificate") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RemoteError("", "a certificate with another kind of key")
    return key.public_bytes_raw()


def read_certificate(der: bytes, authority: bytes, run_id: str) -> Certificate:
    """What an identity certificate says, once it is found to be one.

    Args:
        authority: public key that must have signed it.

    Raises:
        RemoteError: malformed, of another run or authority, or not what this project issues.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise RemoteError("", "an oversized certificate")
    try:
        found = x509.load_der_x509_certificate(der)
        Ed25519PublicKey.from_public_bytes(authority).verify(
            found.signature, found.tbs_certificate_bytes
        )
        key = found.public_key()
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
        names = found.extensions.get_extension_for_class(x509.NameConstraints)
        said = {attribute.oid: str(attribute.value) for attribute in found.subject}
        role = Role(said[NameOID.ORGANIZATIONAL_UNIT_NAME])
        name = said[NameOID.ORGANIZATION_NAME]
    except InvalidSignature as error:
        raise RemoteError("", "a certificate of another authority") from error
    except (*MALFORMED, KeyError) as error:
        raise RemoteError("", "a malformed certificate") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RemoteError("", "a certificate with another kind of key")
    public_key = key.public_bytes_raw()
    peer_id = peer_id_of(public_key)
    permitted = names.value.permitted_subtrees
    is_bound = (
        said.get(NameOID.COMMON_NAME) == peer_id
        and constraints.critical
        and constraints.value == x509.BasicConstraints(ca=True, path_length=0)
        and names.critical
        and permitted == [x509.DNSName(dns_name(peer_id, run_id))]
    )
    if not is_bound or len(name) > MAX_NAME:
        raise RemoteError("", "a certificate that is not for one peer of this run")
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    return Certificate(der, peer_id, public_key, name, role, begins.timestamp(), ends.timestamp())


def make_leaf(identity: Identity, certificate: Certificate, run_id: str) -> tuple[bytes, bytes]:
    """A fresh key and a certificate for it, both PEM, for one start of one process."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = dns_name(identity.peer_id, run_id)
    issuer = x509.load_der_x509_certificate(certificate.der)
    leaf = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.peer_id)]),
            issuer.subject,
            issuer.not_valid_before_utc,
            issuer.not_valid_after_utc,
        )
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        identity.certify(leaf).public_bytes(serialization.Encoding.PEM),
    )


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, begins: datetime.datetime, ends: datetime.datetime
) -> x509.CertificateBuilder:
    # The same certificate whenever it is made again, so that nobody takes it for news.
    said = b"\0".join((subject.public_bytes(), issuer.public_bytes(), str(ends).encode()))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .serial_number(int.from_bytes(hashlib.sha256(said).digest()[:16]) | 1)
    )


def _authority_name(public_key: bytes) -> x509.Name:
    text = f"diloco run authority {public_key.hex()[:32]}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _only_signs() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
