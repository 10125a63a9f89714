"""What a peer remembers of its run between two starts: manifest, genesis, and where the others are.

run.json     manifest and signed genesis, once the run has begun
peers.json   the last known addresses of the other peers
revoked.json who was thrown out of the run, signed by its authority
"""

import base64
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from peer.contact import Contact, read_contact
from peer.disk import Disk
from peer.sealed import seal, unseal
from protocol.errors import InputError, ManifestError, RemoteError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

RUN_FILE: Final = "run.json"
PEERS_FILE: Final = "peers.json"
REVOKED_FILE: Final = "revoked.json"
MAX_PEERS: Final = 256


class RunFile:
    """The two files. Addresses are hints: a damaged list is an empty one."""

    def __init__(self, disk: Disk) -> None:
        """Raises InputError when the run is there and cannot be read."""
        self._disk = disk
        self.manifest: Manifest | None = None
        self.genesis: pb.SignedGenesis | None = None
        self._remembered: set[tuple[str, str, str]] = set()
        self._read_run()

    def _read_run(self) -> None:
        try:
            record = unseal(self._disk.read(RUN_FILE))
            self.manifest = Manifest.from_bytes(base64.b64decode(record["manifest"]))
            self.genesis = pb.SignedGenesis.FromString(base64.b64decode(record["genesis"]))
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{RUN_FILE} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, ManifestError, DecodeError) as error:
            raise InputError(
                f"{RUN_FILE} in this peer's state directory is damaged ({error}): move it away and"
                " join again with --initial-peers, which costs nothing but a download"
            ) from error

    def remember_run(self, manifest: Manifest, genesis: pb.SignedGenesis) -> None:
        """The run has begun. Raises InputError when that cannot be written."""
        if self.manifest is not None:
            return
        record = {
            "manifest": base64.b64encode(manifest.to_bytes()).decode(),
            "genesis": base64.b64encode(genesis.SerializeToString()).decode(),
        }
        try:
            self._disk.replace(RUN_FILE, [seal(record)])
        except OSError as error:
            raise InputError(
                f"the state directory cannot be written: {error.strerror}; make room, or name"
                " another one with --dir"
            ) from error
        self.manifest, self.genesis = manifest, genesis

    def peers(self) -> list[Contact]:
        """Who was in the run the last time."""
        if self.manifest is None:
            return []
        try:
            texts = unseal(self._disk.read(PEERS_FILE))["peers"][:MAX_PEERS]
            known = [pb.SignedContact.FromString(base64.b64decode(text)) for text in texts]
            return [read_contact(signed, self.manifest.run_id, PEERS_FILE) for signed in known]
        except (OSError, ValueError, KeyError, TypeError, DecodeError, RemoteError):
            return []

    def remember_peers(self, peers: Iterable[Contact]) -> None:
        """Replace the list, if somebody is new or elsewhere. Raises OSError."""
        peers = list(peers)[:MAX_PEERS]
        reached_at = {(peer.peer_id, peer.address, peer.dht) for peer in peers}
        if reached_at != self._remembered:
            encoded = [base64.b64encode(p.signed.SerializeToString()).decode() for p in peers]
            self._disk.replace(PEERS_FILE, [seal({"peers": encoded})])
            self._remembered = reached_at

    def revocations(self) -> list[pb.SignedRevocations]:
        """The newest list that was kept; none when there is none, or it is damaged."""
        try:
            text = unseal(self._disk.read(REVOKED_FILE))["signed"]
            return [pb.SignedRevocations.FromString(base64.b64decode(text))]
        except (OSError, ValueError, KeyError, TypeError, DecodeError):
            return []

    def remember_revocations(self, signed: pb.SignedRevocations) -> None:
        """Raises OSError."""
        record = {"signed": base64.b64encode(signed.SerializeToString()).decode()}
        self._disk.replace(REVOKED_FILE, [seal(record)])
