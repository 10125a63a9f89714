"""Who may take part in a run: what this peer can show for itself, and whom it believes.

A closed run names its authority in the manifest, and takes who has a certificate of it (`invite`).
In an open run everybody makes such a certificate for itself, since its authority's key is public:
identities are as strong, and nobody is kept out.
"""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from peer.certificates import Authority, Certificate, Role, authority_key, read_certificate
from peer.contact import Contact
from peer.disk import Disk
from peer.identity import Identity
from peer.revocation import Revocations
from peer.sealed import seal, unseal
from protocol.digest import is_digest
from protocol.errors import InputError, RemoteError
from protocol.manifest import Manifest

MEMBERSHIP_FILE: Final = "membership.json"
MAX_SEEN: Final = 1024
"""Certificates that were checked already; checking one again takes half a millisecond."""


@dataclass(frozen=True, slots=True)
class Membership:
    """That one identity may take part in one run. DER."""

    run_id: str
    authority: bytes
    certificate: bytes

    @classmethod
    def of_open_run(cls, identity: Identity, run_id: str) -> Self:
        authority = Authority.of_open_run(run_id)
        certificate = authority.admit(
            identity.public_key, run_id, name="anybody", role=Role.TRAINER, days=None
        )
        return cls(run_id, authority.certificate, certificate)

    def remember(self, disk: Disk) -> None:
        """For the next start. Raises InputError when it cannot be written."""
        record = {
            "run_id": self.run_id,
            "authority": base64.b64encode(self.authority).decode(),
            "certificate": base64.b64encode(self.certificate).decode(),
        }
        try:
            disk.replace(MEMBERSHIP_FILE, [seal(record)])
        except OSError as error:
            raise InputError(f"the state directory cannot be written: {error.strerror}") from error

    @classmethod
    def remembered(cls, disk: Disk) -> Self | None:
        """Raises InputError when it is there and damaged."""
        try:
            record = unseal(disk.read(MEMBERSHIP_FILE))
            authority, certificate = (
                base64.b64decode(record[key]) for key in ("authority", "certificate")
            )
            if not is_digest(record["run_id"]):
                raise ValueError("of no run")
            return cls(record["run_id"], authority, certificate)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{MEMBERSHIP_FILE} in this peer's state directory cannot be used ({error}): move"
                " it away and join with --invite again"
            ) from error


class Trust:
    """Whom the peers of one run believe."""

    def __init__(
        self,
        membership: Membership,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`now_s`: Unix time, by which certificates begin and end.

        Raises:
            RemoteError: the authority's certificate is none.
        """
        self.run_id = membership.run_id
        self.authority = authority_key(membership.authority)
        self.is_open = self.authority == Authority.of_open_run(self.run_id).public_key
        self.revocations = Revocations(self.run_id, None if self.is_open else self.authority)
        self._now_s = now_s
        self._seen: dict[bytes, Certificate] = {}

    def admit(self, der: bytes) -> Certificate:
        """A certificate that counts now.

        Raises:
            RemoteError: it is not of this run's authority, has ended or not begun, or was revoked.
        """
        certificate = self._seen.get(der)
        if certificate is None:
            certificate = read_certificate(der, self.authority, self.run_id)
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen[der] = certificate
        if not certificate.is_valid(self._now_s()):
            raise RemoteError(certificate.peer_id, "a certificate that has ended or not begun")
        if certificate.peer_id in self.revocations:
            raise RemoteError(certificate.peer_id, "a certificate that was revoked")
        return certificate

    def check_contact(self, contact: Contact) -> Certificate:
        """What a peer's contact shows for it; raises RemoteError as `admit` does."""
        if not contact.certificate:
            raise RemoteError(contact.peer_id, "a contact without a certificate")
        certificate = self.admit(contact.certificate)
        if certificate.peer_id != contact.peer_id:
            raise RemoteError(contact.peer_id, "a contact with another peer's certificate")
        return certificate

    def check_founder(self, peer_id: str, der: bytes) -> None:
        """Raises RemoteError unless the authority let this peer found the run, at whatever time."""
        certificate = read_certificate(der, self.authority, self.run_id)
        if certificate.peer_id != peer_id or not self.may(certificate.role, Role.FOUNDER):
            raise RemoteError(peer_id, "a genesis by somebody who may not found the run")

    def may(self, role: Role, *roles: Role) -> bool:
        """Whether a role is one of these. In an open run everybody chose it for itself."""
        return self.is_open or role in roles


def refuse_unfit(membership: Membership | None, manifest: Manifest, is_insecure: bool) -> None:
    """Raises InputError unless the run's authority is the one that admitted this peer."""
    authority = manifest.admission.authority
    if authority and is_insecure:
        raise InputError(
            f"run {manifest.name} takes invited peers only, and without encryption nobody could"
            " tell who is: leave --insecure out"
        )
    if is_insecure:
        return
    if authority and (membership is None or authority_key(membership.authority).hex() != authority):
        raise InputError(not_invited(manifest.name))


def not_invited(run: str) -> str:
    return (
        f"run {run} takes invited peers only: ask its founder for an invitation ('diloco-peer"
        " invite'), and join with --invite FILE"
    )
