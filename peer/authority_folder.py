"""What the founder of a closed run keeps beside its manifest, in a folder of its own.

authority/authority.key   who has it decides who takes part; readable by its owner only
authority/invited.json    who was invited, as whom
authority/revoked.json    who was thrown out, signed
authority/way-in.json     where the run's peers are to be found
"""

import base64
import time
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.admission import Membership
from peer.certificates import AUTHORITY_FILE, MAX_NAME, Authority, Role
from peer.disk import FolderDisk
from peer.identity import Identity, peer_id_of
from peer.invitation import Invitation
from peer.revocation import MAX_REVOKED, Revocations, sign_revocations
from peer.sealed import seal, unseal
from protocol.errors import InputError, RemoteError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

FOLDER: Final = "authority"
INVITED_FILE: Final = "invited.json"
REVOKED_FILE: Final = "revoked.json"
WAY_IN_FILE: Final = "way-in.json"
DAY_S: Final = 86_400.0


class AuthorityFolder:
    """The authority of one run, and what it did."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Args:
        directory: where manifest and folder are.

        Raises:
            InputError: the run is open, or the folder is not there, damaged or another run's.
        """
        if not manifest.admission.authority:
            raise InputError(
                f"run {manifest.name} is open: anybody may join it, and nobody is invited or thrown"
                " out ('diloco-peer new' makes a run that takes invited peers only)"
            )
        self._directory = directory
        self._manifest = manifest
        self._authority = Authority.load(directory / FOLDER / AUTHORITY_FILE)
        if self._authority.public_key.hex() != manifest.admission.authority:
            raise InputError(
                f"{directory / FOLDER} holds the authority of another run than the manifest names"
            )
        self._disk = FolderDisk(directory / FOLDER)

    @classmethod
    def create(cls, directory: Path) -> str:
        """A new authority, or the one that is there; returns what the manifest says of it.

        Raises:
            InputError: it cannot be written, or is not only its owner's.
        """
        path = directory / FOLDER / AUTHORITY_FILE
        authority = Authority.load(path) if path.exists() else Authority.create(path)
        return authority.public_key.hex()

    # --- inviting --------------------------------------------------------------------------------

    def invite(
        self, name: str, role: Role, days: float, initial_peers: tuple[str, ...] = ()
    ) -> Invitation:
        """An invitation, or for somebody who has one a new certificate for the same key.

        Args:
            initial_peers: ways in; none takes those that the founder's peer left here.

        Raises:
            InputError: the name is no name, the role is the founder's, or no way in is known.
        """
        if role is Role.FOUNDER:
            raise InputError(
                "a run has one founder, and nobody is invited as one: leave --role out"
            )
        if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "/" in name:
            raise InputError(f"{name!r} is no name: take one of 1 to {MAX_NAME} letters")
        initial_peers = initial_peers or self.way_in()
        invited = self._read(INVITED_FILE)
        known = invited.get(name)
        key = b"" if known else Ed25519PrivateKey.generate().private_bytes_raw()
        public_key = (
            base64.b64decode(known["public_key"])
            if known
            else Identity(Ed25519PrivateKey.from_private_bytes(key)).public_key
        )
        run_id = self._manifest.run_id
        membership = Membership(
            run_id,
            self._authority.certificate,
            self._authority.admit(public_key, run_id, name=name, role=role, days=days),
        )
        invited[name] = {
            "public_key": base64.b64encode(public_key).decode(),
            "role": str(role),
            "ends_s": int(time.time() + days * DAY_S),
        }
        self._write(INVITED_FILE, invited)
        return Invitation(self._manifest.name, name, initial_peers, membership, key)

    def admit(self, identity: Identity, name: str, role: Role, days: float | None) -> Membership:
        """What somebody on this machine shows: the founder's peer, and its messengers."""
        run_id, authority = self._manifest.run_id, self._authority
        certificate = authority.admit(identity.public_key, run_id, name=name, role=role, days=days)
        return Membership(run_id, authority.certificate, certificate)

    # --- throwing out ----------------------------------------------------------------------------

    def revoke(self, name: str) -> pb.SignedRevocations:
        """The list that throws out whoever was invited under this name.

        Raises:
            InputError: nobody was.
        """
        invited = self._read(INVITED_FILE)
        if name not in invited:
            known = ", ".join(sorted(invited)) or "nobody"
            raise InputError(f"nobody was invited as {name!r}; invited: {known}")
        before = self.revocations()
        revoked = {peer_id_of(base64.b64decode(invited.pop(name)["public_key"])), *before.peer_ids}
        if len(revoked) > MAX_REVOKED:
            raise InputError(f"more than {MAX_REVOKED} peers were thrown out: found a new run")
        run_id = self._manifest.run_id
        signed = sign_revocations(self._authority, run_id, before.number + 1, revoked)
        # In this order: whoever is still listed as invited can be revoked again.
        self._write(REVOKED_FILE, {"signed": base64.b64encode(signed.SerializeToString()).decode()})
        self._write(INVITED_FILE, invited)
        return signed

    def revocations(self) -> Revocations:
        """Whom this folder threw out. Raises InputError when its list is damaged."""
        revocations = Revocations(self._manifest.run_id, self._authority.public_key)
        record = self._read(REVOKED_FILE)
        if record:
            try:
                signed = pb.SignedRevocations.FromString(base64.b64decode(record["signed"]))
                revocations.take(signed, REVOKED_FILE)
            except RemoteError as error:
                raise InputError(
                    f"{REVOKED_FILE} is of another edition of the manifest ({error.why}): each edit"
                    " makes another run; move it away"
                ) from error
        return revocations

    # --- the way in ------------------------------------------------------------------------------

    def remember_way_in(self, initial_peers: list[str]) -> None:
        self._write(WAY_IN_FILE, {"initial_peers": initial_peers})

    def way_in(self) -> tuple[str, ...]:
        """Raises InputError when the run was not founded from here."""
        record = self._read(WAY_IN_FILE)
        if not record:
            manifest = self._directory / "manifest.toml"
            raise InputError(
                "nobody could find the run yet: found it with 'diloco-peer join --manifest"
                f" {manifest}' and invite people then, or name a peer of it with --initial-peers"
            )
        return tuple(record["initial_peers"])

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return unseal(self._disk.read(name))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            path = self._directory / FOLDER / name
            raise InputError(f"{path} is damaged ({error}): take it from a backup") from error

    def _write(self, name: str, record: dict[str, Any]) -> None:
        try:
            self._disk.replace(name, [seal(record)])
        except OSError as error:
            path = self._directory / FOLDER / name
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
