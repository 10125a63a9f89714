"""The directory of one peer, held by one process at a time.

Two processes in one directory would share an identity and hand out the same batches twice. The lock
is the kernel's (flock): whatever ends the process releases it.
"""

import contextlib
import fcntl
import itertools
from collections.abc import Iterator
from pathlib import Path

from protocol.errors import InputError

DEFAULT = "peer-state"
LOCK_FILE = "lock"
STATE_FOLDER = "state"
"""Journal, log and checkpoints, within the directory."""


@contextlib.contextmanager
def claim(directory: Path | None) -> Iterator[Path]:
    """Hold a peer's directory, made if need be, until the block ends.

    Args:
        directory: None takes the first of `peer-state`, `peer-state-2`, ... that no running peer
            has, so that one command can be typed in several terminals.

    Raises:
        InputError: it is in use, or it cannot be written.
    """
    if directory is not None:
        candidates: Iterator[Path] = iter([directory])
    else:
        later = (Path(f"{DEFAULT}-{number}") for number in itertools.count(2))
        candidates = itertools.chain([Path(DEFAULT)], later)
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True)
            lock = (candidate / LOCK_FILE).open("wb")
        except OSError as error:
            raise InputError(
                f"cannot use {candidate} for this peer: {error.strerror}; name another directory"
                " with --dir"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield candidate
            return
    raise InputError(
        f"another peer is running in {directory}: give this one a directory of its own with --dir"
    )
