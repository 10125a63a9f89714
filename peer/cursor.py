"""The private data cursor of one peer, on disk so that no crash makes it train a batch twice."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from peer.disk import replace_file
from peer.sealed import seal, unseal
from protocol.errors import InputError

RESERVED_BATCHES = 256
"""How far the file runs ahead of training. A crash skips at most so many batches of a stream that
never ends."""
RENEWED_BATCHES = 128
"""With so many left, more are reserved: a disk that takes a second costs no step."""
RETRY_BATCHES = 16
"""So many batches are trained before a disk that failed is asked again."""
MAX_FILE_BYTES = 4096
MAX_CURSOR = 2**63
"""Nobody trains so many batches."""
RELEASE_S = 2.0

Beside: TypeAlias = Callable[[Callable[[], None]], threading.Thread | None]


def _in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="cursor", daemon=True)
    thread.start()
    return thread


class Cursor:
    """Numbers of batches, each handed out once in the life of a run.

    The file, sealed, holds the run_id and a number greater than every cursor that was ever handed
    out: training may read any batch below it, and a restart begins at it. A slow or full disk does
    not hold training up: it goes on without a reservation, and only a crash meanwhile repeats
    batches.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        start: int,
        note: Callable[[str], None] = lambda why: None,
        beside: Beside = _in_thread,
    ) -> None:
        self._path = path
        self._run_id = run_id
        self._note = note
        self._beside = beside
        self._next = start
        self._reserved = start
        self._retry_at = start
        self._writer: threading.Thread | None = None
        self._is_begun = False
        self._is_failing = False

    @classmethod
    def open(
        cls,
        path: Path,
        run_id: str,
        *,
        at_least: int = 0,
        note: Callable[[str], None] = lambda why: None,
        beside: Beside = _in_thread,
    ) -> "Cursor":
        """Go on where the file says; from 0 where there is none.

        Args:
            at_least: batches that the log has credited to this peer; it never starts below them.
            note: takes a sentence when the file cannot be written; called in any thread.
            beside: does the writing while training goes on.

        Raises:
            InputError: the file is torn, unreadable or of another run.
        """
        stored = _read(path, run_id) if path.exists() else 0
        return cls(path, run_id, max(stored, at_least), note, beside)

    @property
    def next_cursor(self) -> int:
        """The cursor that `take` hands out next."""
        return self._next

    def take(self) -> int:
        """The cursor of the next batch."""
        if not self._is_begun:
            self._is_begun = True
            self._write(self._next + RESERVED_BATCHES)
        elif self._reserved - self._next <= RENEWED_BATCHES and self._next >= self._retry_at:
            self._renew()
        self._next += 1
        return self._next - 1

    def _renew(self) -> None:
        if self._writer is not None and self._writer.is_alive():
            return
        self._retry_at = self._next + RETRY_BATCHES
        wanted = self._next + RESERVED_BATCHES
        self._writer = self._beside(lambda: self._write(wanted))

    def release(self) -> None:
        """Give back what was reserved and not used: for a clean exit."""
        if self._writer is not None:
            self._writer.join(RELEASE_S)
            if self._writer.is_alive():
                return  # a disk that hangs; the next start skips some batches
        self._write(self._next)

    def _write(self, reserved: int) -> None:
        """Put this number into the file; why that fails is said once."""
        record = {"run_id": self._run_id, "next_cursor": reserved}
        try:
            replace_file(self._path, [seal(record)])
        except OSError as error:
            if not self._is_failing:
                self._note(
                    f"the data cursor cannot be written ({error.strerror}): make room on the disk;"
                    " a crash before that would train some batches twice"
                )
            self._is_failing = True
        else:
            self._reserved, self._is_failing = reserved, False


def _read(path: Path, run_id: str) -> int:
    try:
        with path.open("rb") as file:
            record = unseal(file.read(MAX_FILE_BYTES))
        owner, cursor = record["run_id"], record["next_cursor"]
    except OSError as error:
        raise InputError(
            f"the data cursor {path} cannot be read: {error.strerror}; make it readable"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _torn(path) from error
    if type(cursor) is not int or not 0 <= cursor < MAX_CURSOR:
        raise _torn(path)
    if owner != run_id:
        raise InputError(
            f"the data cursor {path} is of another run ({str(owner)[:8]}, not {run_id[:8]});"
            " give this run a folder of its own, with --dir"
        )
    return cursor


def _torn(path: Path) -> InputError:
    return InputError(
        f"the data cursor {path} is torn or was edited; delete it to go on from what the log has"
        " credited to this peer (batches trained since may then be read twice)"
    )
