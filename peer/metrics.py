"""The record of one peer: JSON lines in its directory, one object a line.

Every line has "t" (unix seconds) and "kind"; docs/operating.md lists the kinds and their fields.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """An append-only file; each line reaches the system before `write` returns.

    A peer that is started again goes on in the same file, with another line of kind "start". A full
    disk costs lines and nothing else: the file holds whole lines only.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = lambda sentence: None) -> None:
        """
        Args:
            note: takes a sentence when lines begin to be lost, and when they no longer are.

        Raises:
            OSError: the file cannot be opened.
        """
        self._note = note
        self._lost_lines = 0
        self._before_line = _end_last_line(path)
        self._file = path.open("ab", buffering=0)
        self._whole_bytes = self._file.tell()

    def write(self, kind: str, **fields: Any) -> bool:
        """Add a line, and say whether it is there. NaN becomes null, since JSON has none."""
        line = {"t": round(time.time(), 3), "kind": kind, **fields}
        text = json.dumps({k: _plain(v) for k, v in line.items()}) + "\n"
        data = self._before_line + text.encode()
        try:
            is_whole = self._file.write(data) == len(data)
            why = "" if is_whole else "no room"
        except OSError as error:
            why = error.strerror or str(error)
        if why:
            self._lose_line(why)
            return False
        self._before_line = b""
        self._whole_bytes += len(data)
        if self._lost_lines:
            lost, self._lost_lines = self._lost_lines, 0
            self._note(f"the record goes on, without {lost} lines")
        return True

    def _lose_line(self, why: str) -> None:
        with contextlib.suppress(OSError):  # what is left of the line; readers skip a torn end
            self._file.truncate(self._whole_bytes)
        self._lost_lines += 1
        if self._lost_lines == 1:
            self._note(f"the record cannot be written ({why}): make room on the disk")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _end_last_line(path: Path) -> bytes:
    """What completes the last line; what a killed process left of one that is torn goes."""
    if not path.exists():
        return b""
    with path.open("r+b") as file:
        torn = file.read().rpartition(b"\n")[2]
        if not torn:
            return b""
        try:
            json.loads(torn)
        except (ValueError, RecursionError):
            file.truncate(file.tell() - len(torn))
            return b""
        return b"\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
