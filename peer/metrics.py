"""The record of one peer: JSON lines in its directory, one object a line.

Every line has "t" (unix seconds) and "kind"; docs/operating.md lists the kinds and their fields.
"""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """An append-only file; each line reaches the system before `write` returns.

    A peer that is started again goes on in the same file, with another line of kind "start".
    """

    def __init__(self, path: Path) -> None:
        _end_last_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, kind: str, **fields: Any) -> None:
        """Add a line. NaN becomes null, since JSON has none."""
        line = {"t": round(time.time(), 3), "kind": kind, **fields}
        self._file.write(json.dumps({k: _plain(v) for k, v in line.items()}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _end_last_line(path: Path) -> None:
    """Complete the last line, or take away what a killed process left of it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        torn = file.read().rpartition(b"\n")[2]
        if not torn:
            return
        try:
            json.loads(torn)
        except ValueError:
            file.truncate(file.tell() - len(torn))
        else:
            file.write(b"\n")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
