"""Who this peer is: an Ed25519 key in its directory, and the peer_id derived from it.

peer_id = lower-case base32 of SHA-256 of the public key, without padding: 52 characters that cannot
be chosen. The founder's key signs the genesis of its run (DESIGN section 1).
"""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from peer.key_file import read_key, write_key
from protocol.errors import RemoteError
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.tally import Tally
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_genesis

KEY_FILE = "identity.key"


def peer_id_of(public_key: bytes) -> str:
    """The id of the peer that holds this raw Ed25519 public key."""
    return base64.b32encode(hashlib.sha256(public_key).digest()).decode().rstrip("=").lower()


def verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this raw Ed25519 key signed the message; False for what is no key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=4096)
def is_signed_by(peer_id: str, public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this peer's key signed the message. What was asked lately is not computed again.

    A decision comes several times, from others and from disk: 0.15 ms for each of its accepts.
    """
    return peer_id_of(public_key) == peer_id and verifies(public_key, signature, message)


def tally_of(manifest: Manifest) -> Tally:
    """How votes are counted in this run, by real keys."""
    return Tally(run_id=manifest.run_id, quorum=manifest.commit.quorum, is_signed_by=is_signed_by)


class Identity:
    """A private key and what follows from it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_key)

    @classmethod
    def load_or_create(cls, directory: Path) -> "Identity":
        """The identity kept in `directory`, made on the first call with mode 0600.

        Raises:
            InputError: the directory cannot be written, or the key file is not a key or not only
                its owner's.
        """
        path = directory / KEY_FILE
        if path.exists():
            return cls(read_key(path))
        return cls.keep(directory, Ed25519PrivateKey.generate())

    @classmethod
    def ephemeral(cls) -> "Identity":
        """One that is kept nowhere, for whoever only asks."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def keep(cls, directory: Path, key: Ed25519PrivateKey) -> "Identity":
        """This key from now on. Raises InputError: there is one, or it cannot be written."""
        write_key(directory / KEY_FILE, key)
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """What is signed must begin with what it is for: see its callers."""
        return self._key.sign(message)

    def certify(self, certificate: x509.CertificateBuilder) -> x509.Certificate:
        return certificate.sign(self._key, None)

    def sign_genesis(self, genesis: Genesis, certificate: bytes = b"") -> pb.SignedGenesis:
        """`certificate`: that this peer may found the run, DER."""
        data = genesis.to_bytes()
        return pb.SignedGenesis(
            genesis=data,
            public_key=self.public_key,
            signature=self._key.sign(data),
            certificate=certificate,
        )


def check_genesis(sender: str, signed: pb.SignedGenesis, run_id: str) -> Genesis:
    """The genesis, once its founder's signature and its run are checked.

    Raises:
        RemoteError: malformed, of another run, or not signed by the founder that it names.
    """
    genesis = decode_genesis(sender, signed.genesis)
    if genesis.run_id != run_id:
        raise RemoteError(sender, "a genesis of another run")
    if peer_id_of(signed.public_key) != genesis.founder:
        raise RemoteError(sender, "a genesis that was signed by somebody else than its founder")
    if not verifies(signed.public_key, signed.signature, signed.genesis):
        raise RemoteError(sender, "a genesis with a wrong signature")
    if not genesis.voters or genesis.tie_breaker not in genesis.voters:
        raise RemoteError(sender, "a genesis without voters")
    return genesis
