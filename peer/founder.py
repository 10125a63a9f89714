"""What the founder of a closed run types: whom to invite, and whom to throw out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from peer.authority_folder import AuthorityFolder
from peer.certificates import Role
from peer.contact import Contact
from peer.identity import Identity
from peer.invitation import Invitation
from peer.outside import Entrance, Sight, look_at
from peer.preflight import read_manifest
from peer.secure import Credentials
from peer.status import heard_of
from protocol.errors import DilocoError, RemoteError, UnavailableError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

MANIFEST_FILE = "manifest.toml"
MESSENGER_DAYS = 1.0


def invite(
    directory: Path, name: str, role: Role, days: float, initial_peers: Sequence[str]
) -> tuple[Path, Invitation]:
    """Write an invitation into a run's directory; returns where it is.

    Raises:
        InputError: the run is open or not found there, or nobody knows a way in yet.
    """
    folder, _ = _folder_in(directory)
    path = directory / f"{name}.invite"
    invitation = folder.invite(name, role, days, tuple(initial_peers))
    invitation.write(path)
    return path, invitation


async def revoke(directory: Path, name: str, initial_peers: Sequence[str]) -> list[str]:
    """Throw somebody out, and tell those that are there; returns the names of who was told.

    Raises:
        InputError: nobody was invited under that name, or the run is open.
        UnavailableError: it is written down, and nobody of the run could be told.
    """
    folder, manifest = _folder_in(directory)
    signed = folder.revoke(name)
    messenger = Identity.ephemeral()
    membership = folder.admit(messenger, "founder's messenger", Role.OBSERVER, MESSENGER_DAYS)
    try:
        way_in = tuple(initial_peers) or folder.way_in()
        credentials = Credentials(messenger, membership)
        sight = await look_at(Entrance(way_in, manifest.run_id, credentials))
        contacts = [*sight.announced, *await heard_of(sight)]
        told = await asyncio.gather(*(_tell(sight, contact, signed) for contact in contacts))
    except DilocoError as error:
        raise UnavailableError(
            f"{name} is on the list of {manifest.name}, but nobody could be told ({error}): the"
            " founder's peer tells everybody when it is started again with --manifest"
        ) from error
    return [contact.name for contact, heard in zip(contacts, told, strict=True) if heard]


async def _tell(sight: Sight, contact: Contact, signed: pb.SignedRevocations) -> bool:
    try:
        await sight.asker.revoked(contact, signed)
    except (RemoteError, UnavailableError):
        return False
    return True


def _folder_in(directory: Path) -> tuple[AuthorityFolder, Manifest]:
    manifest = read_manifest(directory / MANIFEST_FILE)
    return AuthorityFolder(directory, manifest), manifest
