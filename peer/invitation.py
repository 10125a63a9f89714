"""An invitation: one file that a founder sends to one person, and all that this person needs.

It carries the key that the founder made for this peer, and the certificate for it. A token that is
exchanged for a certificate would keep the key on the other machine; but somebody would have to be
there to exchange it, who then holds the authority's key on a machine that everybody can reach. So
whoever gets hold of the file is that peer until it is revoked: send it over a channel you trust.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.admission import Membership
from peer.certificates import MAX_NAME
from peer.identity import KEY_FILE, Identity
from peer.sealed import seal, unseal
from protocol.digest import is_digest
from protocol.errors import InputError

KIND: Final = "diloco-peer invitation"
MAX_FILE_BYTES: Final = 64 * 1024
MAX_WAYS_IN: Final = 16


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the file says."""

    run: str
    """What people call the run."""
    name: str
    """What the founder calls this peer."""
    initial_peers: tuple[str, ...]
    membership: Membership
    key: bytes
    """Ed25519, raw; empty: the person has it already, and this is a new certificate for it."""

    @property
    def identity(self) -> Identity | None:
        """The one that it is for; None where the person has the key already."""
        if not self.key:
            return None
        return Identity(Ed25519PrivateKey.from_private_bytes(self.key))

    def write(self, path: Path) -> None:
        """As a file that only its owner can read.

        Raises:
            InputError: it is there already, or cannot be written.
        """
        data = seal(
            {
                "kind": KIND,
                "run": self.run,
                "name": self.name,
                "initial_peers": list(self.initial_peers),
                "run_id": self.membership.run_id,
                "authority": base64.b64encode(self.membership.authority).decode(),
                "certificate": base64.b64encode(self.membership.certificate).decode(),
                "key": base64.b64encode(self.key).decode(),
            }
        )
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise InputError(f"{path} exists: move it away first") from error
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises InputError when it is no invitation, or was damaged on its way."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read the invitation {path}: {error.strerror}") from error
        try:
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("too large")
            record = unseal(data)
            if record["kind"] != KIND:
                raise ValueError("something else")
            authority, certificate, key = (
                base64.b64decode(record[field], validate=True)
                for field in ("authority", "certificate", "key")
            )
            texts = [record["run"], record["name"], *record["initial_peers"]]
            fits = (
                all(isinstance(text, str) for text in texts)
                and isinstance(record["initial_peers"], list)
                and is_digest(record["run_id"])
                and len(key) in (0, 32)
            )
            if not fits:
                raise ValueError("not what a founder writes")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not an invitation, or was damaged on its way ({error}): ask for it"
                " again"
            ) from error
        return cls(
            run=record["run"],
            name=record["name"][:MAX_NAME],
            initial_peers=tuple(record["initial_peers"][:MAX_WAYS_IN]),
            membership=Membership(record["run_id"], authority, certificate),
            key=key,
        )

    def identity_in(self, directory: Path) -> Identity:
        """The identity that it is for, kept in a peer's directory from now on.

        Raises:
            InputError: the directory belongs to another identity, or lacks this one's key.
        """
        if (directory / KEY_FILE).exists():
            mine = Identity.load_or_create(directory)
            if self.identity is not None and self.identity.peer_id != mine.peer_id:
                raise InputError(
                    f"{directory} belongs to another identity than the one invited: give this run a"
                    " directory of its own with --dir"
                )
            return mine
        if not self.key:
            raise InputError(
                f"this invitation renews that of {self.name}, whose key is not in {directory}: name"
                " its directory with --dir"
            )
        return Identity.keep(directory, Ed25519PrivateKey.from_private_bytes(self.key))
