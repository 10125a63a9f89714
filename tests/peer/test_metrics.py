"""The metrics file of a peer that is started again."""

import json
from pathlib import Path

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
