"""Where a peer can be reached, in its own words and under its own signature.

A contact travels through the DHT and from peer to peer, so whoever passes it on could change it.
The signature binds address, run and time to the identity; an older one never replaces a newer one.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError

from peer.identity import Identity, peer_id_of, verifies
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb

MAX_BYTES: Final = 2304
"""Of a signed contact as it is stored. Every field at its longest fits, in any alphabet."""
MAX_DHT: Final = 256
MAX_CERTIFICATE_BYTES: Final = 768
TTL_S: Final = 60.0
"""In the DHT a contact is of use for so long; its peer signs and stores it anew every REFRESH_S."""
_PURPOSE: Final = b"diloco.v1 contact\0"
"""What is signed begins with it: no signature is good for anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """What a peer says about itself."""

    run_id: str
    peer_id: str
    name: str
    address: str
    """host:port of its gRPC server."""
    incarnation: str
    dht: str
    """Multiaddress of its DHT node; empty: none."""
    certificate: bytes
    """X.509 of its identity, DER, not checked yet; empty: it speaks plaintext."""
    signed_s: float
    """When, by its own clock, in Unix time."""
    signed: pb.SignedContact
    """To be passed on as it is."""

    def leads_where(self, other: "Contact") -> bool:
        """Whether both are dialled in the same way."""
        return (self.address, self.certificate) == (other.address, other.certificate)

    def refuse_stale(self, now_s: float, told_by: str) -> None:
        """Raises RemoteError unless it was signed within one TTL, by clocks that may differ."""
        if abs(now_s - self.signed_s) > TTL_S:
            raise RemoteError(told_by, "a stale contact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """This peer's own contact, signed anew whenever it is told."""

    identity: Identity
    run_id: str
    name: str
    incarnation: str = ""
    dht: str = ""
    certificate: bytes = b""
    address: str = ""
    """Not known before this peer listens."""

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    def at(self, address: str) -> "Introduction":
        return replace(self, address=address)

    def contact(self) -> Contact:
        body = pb.Contact(
            run_id=self.run_id,
            peer_id=self.peer_id,
            name=self.name,
            address=self.address,
            incarnation=self.incarnation,
            dht=self.dht[:MAX_DHT],
            certificate=self.certificate,
            signed_s=time.time(),
        )
        data = body.SerializeToString()
        signed = pb.SignedContact(
            contact=data,
            public_key=self.identity.public_key,
            signature=self.identity.sign(_PURPOSE + data),
        )
        return _contact(body, signed)


def read_contact(signed: pb.SignedContact, run_id: str, told_by: str) -> Contact:
    """What a peer of this run said about itself, whoever passed it on.

    Raises:
        RemoteError: malformed, of another run, or not signed by the peer that it names.
    """
    if signed.ByteSize() > MAX_BYTES:
        raise RemoteError(told_by, "an oversized contact")
    try:
        body = pb.Contact.FromString(signed.contact)
    except DecodeError as error:
        raise RemoteError(told_by, "a malformed contact") from error
    if not _fits(body):
        raise RemoteError(told_by, "a malformed contact")
    if body.run_id != run_id:
        raise RemoteError(told_by, "a contact of another run")
    if peer_id_of(signed.public_key) != body.peer_id or not verifies(
        signed.public_key, signed.signature, _PURPOSE + signed.contact
    ):
        raise RemoteError(told_by, "a contact that is not signed by its peer")
    return _contact(body, signed)


def _contact(body: pb.Contact, signed: pb.SignedContact) -> Contact:
    return Contact(
        run_id=body.run_id,
        peer_id=body.peer_id,
        name=body.name,
        address=body.address,
        incarnation=body.incarnation,
        dht=body.dht,
        certificate=body.certificate,
        signed_s=body.signed_s,
        signed=signed,
    )


def _fits(body: pb.Contact) -> bool:
    host, _, port = body.address.rpartition(":")
    return (
        len(body.name) <= 64
        and len(body.incarnation) <= 64
        and len(body.dht) <= MAX_DHT
        and len(body.certificate) <= MAX_CERTIFICATE_BYTES
        and 0 < len(host) <= 255
        and port.isascii()
        and port.isdecimal()
        and len(port) <= 5
        and 0 < int(port) < 65536
        # Nothing is newer than a time that is no number, and nothing is older.
        and math.isfinite(body.signed_s)
    )
