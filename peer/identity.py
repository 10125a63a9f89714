"""Who this peer is: an Ed25519 key in its directory, and the peer_id derived from it.

peer_id = lower-case base32 of SHA-256 of the public key, without padding: 52 characters that cannot
be chosen. The founder's key signs the genesis of its run (DESIGN section 1).
"""

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from protocol.errors import InputError, RemoteError
from protocol.log import Genesis
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
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                key = Ed25519PrivateKey.generate()
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(key.private_bytes_raw())
                return cls(key)
            mode, raw = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot use {directory} for this peer: {error.strerror}") from error
        if mode & 0o077:
            raise InputError(
                f"{path} can be read by others than its owner: run 'chmod 600 {path}'; if somebody"
                " may have copied it, move it away to get a new identity"
            )
        if len(raw) != 32:
            raise InputError(f"{path} is not an identity key; move it away to get a new identity")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def sign(self, message: bytes) -> bytes:
        """What is signed must begin with what it is for: see its callers."""
        return self._key.sign(message)

    def sign_genesis(self, genesis: Genesis) -> pb.SignedGenesis:
        data = genesis.to_bytes()
        return pb.SignedGenesis(
            genesis=data, public_key=self.public_key, signature=self._key.sign(data)
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
