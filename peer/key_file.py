"""Private keys on disk: 32 raw bytes of Ed25519, which nobody but their owner can read."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import InputError

KEY_BYTES = 32


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Into a file that is not there yet, with mode 0600.

    Raises:
        InputError: it is there, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes_raw())
    except FileExistsError as error:
        raise InputError(f"{path} exists: move it away first") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def read_key(path: Path) -> Ed25519PrivateKey:
    """Raises InputError when there is no key, or somebody else could have read it."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            raw = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise InputError(
            f"{path} can be read by others than its owner: run 'chmod 600 {path}'; if somebody may"
            " have copied it, move it away to get a new one"
        )
    if len(raw) != KEY_BYTES:
        raise InputError(f"{path} is not a key; move it away to get a new one")
    return Ed25519PrivateKey.from_private_bytes(raw)
