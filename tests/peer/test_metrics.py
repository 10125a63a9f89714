"""The metrics file of a peer that is started again."""

import json
from pathlib import Path
from typing import Any

import pytest

from peer.metrics import Metrics


@pytest.mark.parametrize("torn", ["", '{"t": 1', '{"t": 1, "kind": "x"', "\u00e9"])
def test_a_restarted_peer_goes_on_in_its_file_on_a_fresh_line(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write("start", run_id="1")
    with path.open("a") as file:
        file.write(torn)
    with Metrics(path) as metrics:
        metrics.write("start", run_id="2")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run_id"] for line in lines] == ["1", "2"]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"t": 1, "kind": "start"}')
    with Metrics(path) as metrics:
        metrics.write("steps", loss=float("nan"))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {"t": 1, "kind": "start"}
    assert second["kind"] == "steps" and second["loss"] is None


class _Disk:
    """A file on a disk with so many bytes of room; each write takes what fits."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.room_bytes = 10**6

    def write(self, data: bytes) -> int:
        fits = data[: self.room_bytes]
        self.room_bytes -= len(fits)
        if not fits:
            raise OSError(28, "No space left on device")
        return int(self._file.write(fits))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_costs_lines_and_leaves_whole_ones(tmp_path: Path) -> None:
    path, notes = tmp_path / "metrics.jsonl", list[str]()
    with Metrics(path, notes.append) as metrics:
        disk = _Disk(metrics._file)
        metrics._file = disk  # type: ignore[assignment]
        metrics.write("steps", step=1)
        for room in (20, 0):
            disk.room_bytes = room
            metrics.write("steps", step=2)
        assert notes == ["the record cannot be written (no room): make room on the disk"]
        disk.room_bytes = 10**6
        metrics.write("steps", step=3)
        assert notes[1:] == ["the record goes on, without 2 lines"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]


def test_a_last_line_that_no_parser_can_bear_goes_like_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"t": 1, "kind": "start"}\n' + "[" * 100_000)
    with Metrics(path) as metrics:
        metrics.write("steps")
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [
        "start",
        "steps",
    ]
