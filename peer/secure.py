"""How peers call each other: mutual TLS, or plaintext where `--insecure` was said.

Whoever dials trusts one certificate, that of the identity which it means to reach, and checks the
name; whoever answers takes everybody whom the run's authority admitted, and knows by the
certificate who calls. Both look at expiry and revocation at every call and not only when a
connection begins: connections live for days.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from peer.admission import Membership, Trust
from peer.certificates import MALFORMED, Role, dns_name, make_leaf, pem
from peer.contact import Contact
from peer.identity import Identity
from protocol.errors import InputError, RemoteError

MAX_CHAINS: Final = 1024
"""Chains of callers that were checked already."""

Options = Sequence[tuple[str, Any]]


class Credentials:
    """What this peer can show, whichever run it turns out to be in."""

    def __init__(
        self, identity: Identity, membership: Membership | None = None, is_insecure: bool = False
    ) -> None:
        """Args:
        membership: of a closed run; None: this peer has no invitation.
        is_insecure: speak plaintext.
        """
        self.membership = membership
        self.is_insecure = is_insecure
        self._identity = identity

    def for_run(self, run_id: str) -> "Security":
        """Raises InputError when the invitation has ended, or is another identity's."""
        if self.is_insecure:
            return Plaintext(self._identity.peer_id, run_id)
        membership = self.membership
        if membership is None or membership.run_id != run_id:
            membership = Membership.of_open_run(self._identity, run_id)
        try:
            return Tls(self._identity, membership, Trust(membership))
        except RemoteError as error:
            raise InputError(
                f"this peer's invitation to run {run_id[:12]} does not count ({error.why}): ask the"
                " founder for a new one, and join with --invite FILE"
            ) from error


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and in which role."""

    peer_id: str
    role: Role


class Security(Protocol):
    """What both halves of the transport need."""

    @property
    def certificate(self) -> bytes:
        """What others trust when they dial this peer, DER; empty: nothing is encrypted."""
        ...

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call."""
        ...

    @property
    def trust(self) -> Trust | None:
        """Whom this peer believes; None: everybody."""
        ...

    def channel(self, contact: Contact, options: Options) -> Any:
        """A channel to a peer and nobody else; its contact was checked before."""
        ...

    def bind(self, server: Any, address: str) -> int:
        """Let a server listen; returns the port. Raises RuntimeError when it is taken."""
        ...

    def caller(self, context: Any) -> Caller:
        """Who calls. Raises RemoteError when it may not, or not any more."""
        ...

    def check_contact(self, contact: Contact) -> None:
        """Raises RemoteError when this peer is not to be dialled."""
        ...


class Plaintext:
    """Nothing is encrypted, and callers are who they say they are."""

    certificate = b""
    trust = None

    def __init__(self, me: str, run_id: str) -> None:
        self._run_id = run_id
        self.metadata = (("peer-id", me), ("run-id", run_id))

    def channel(self, contact: Contact, options: Options) -> Any:
        return grpc.aio.insecure_channel(contact.address, options=options)

    def bind(self, server: Any, address: str) -> int:
        port: int = server.add_insecure_port(address)
        return port

    def caller(self, context: Any) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        sender = str(metadata.get("peer-id", ""))[:64]
        if metadata.get("run-id") != self._run_id:
            raise RemoteError(sender, "calls about another run")
        return Caller(sender, Role.TRAINER)

    def check_contact(self, contact: Contact) -> None:
        if contact.certificate:
            raise RemoteError(contact.peer_id, "a peer that speaks TLS only")


class Tls:
    """Both sides of every connection show who they are."""

    metadata = ()

    def __init__(self, identity: Identity, membership: Membership, trust: Trust) -> None:
        """Raises RemoteError when the membership does not count: expired, or of another key."""
        certificate = trust.admit(membership.certificate)
        if certificate.public_key != identity.public_key:
            raise RemoteError(identity.peer_id, "a certificate for another key")
        self.certificate = certificate.der
        self.trust = trust
        key, leaf = make_leaf(identity, certificate, trust.run_id)
        self._key, self._chain = key, leaf + pem(certificate.der)
        self._authority = pem(membership.authority)
        self._chains: dict[bytes, bytes] = {}
        """Identity certificates of callers, by what they showed."""

    def channel(self, contact: Contact, options: Options) -> Any:
        credentials = grpc.ssl_channel_credentials(
            pem(contact.certificate), private_key=self._key, certificate_chain=self._chain
        )
        name = dns_name(contact.peer_id, self.trust.run_id)
        return grpc.aio.secure_channel(
            contact.address,
            credentials,
            options=[*options, ("grpc.ssl_target_name_override", name)],
        )

    def bind(self, server: Any, address: str) -> int:
        credentials = grpc.ssl_server_credentials(
            [(self._key, self._chain)],
            root_certificates=self._authority,
            require_client_auth=True,
        )
        port: int = server.add_secure_port(address, credentials)
        return port

    def caller(self, context: Any) -> Caller:
        facts = context.auth_context()
        shown = b"".join((*facts.get("x509_pem_cert", ()), *facts.get("x509_pem_cert_chain", ())))
        der = self._chains.get(shown)
        if der is None:
            der = self._identity_in(shown)
            if len(self._chains) >= MAX_CHAINS:
                self._chains.clear()
            self._chains[shown] = der
        certificate = self.trust.admit(der)
        return Caller(certificate.peer_id, certificate.role)

    def check_contact(self, contact: Contact) -> None:
        self.trust.check_contact(contact)

    def _identity_in(self, shown: bytes) -> bytes:
        """The identity certificate behind a caller's leaf.

        TLS has checked that some chain leads from the leaf to the authority, and that the caller
        holds the leaf's key; which of the certificates that it sent made up that chain, it does not
        say.
        """
        try:
            leaf, *others = x509.load_pem_x509_certificates(shown)
            # Whether the chain of a server begins with the leaf differs from that of a client.
            issuer = next((other for other in others if other != leaf), leaf)
            certificate = self.trust.admit(issuer.public_bytes(serialization.Encoding.DER))
            Ed25519PublicKey.from_public_bytes(certificate.public_key).verify(
                leaf.signature, leaf.tbs_certificate_bytes
            )
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (*MALFORMED, InvalidSignature) as error:
            raise RemoteError("", "a caller without a certificate of its own") from error
        if list(names) != [x509.DNSName(dns_name(certificate.peer_id, self.trust.run_id))]:
            raise RemoteError(certificate.peer_id, "a certificate for another name")
        return certificate.der
