"""The log of a directory as a table and as JSON: everything is there, and it fits 80 columns."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from peer.directory import STATE_FOLDER
from peer.disk import FolderDisk
from peer.logbook import LogBook
from peer.metrics import METRICS_FILE
from peer.runfile import RunFile
from peer.show_log import lines_in, show_directory
from protocol.digest import digest
from protocol.errors import InputError
from protocol.log import Entry, Part
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb
from tests.peer.chains import LOTS, SHARED, decide, extend, make_chain, make_empty
from tests.peer.people import contact, peer_id
from tests.protocol.makers import DIGEST, entry

NAMES = {peer_id(name): name for name in ("anna", "bert", "cleo")}
MEMBERS = sorted(NAMES)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A peer's directory: three full entries, and one that is empty."""
    book = LogBook(FolderDisk(tmp_path / STATE_FOLDER), limit_bytes=LOTS)
    chain = make_chain(3, members=MEMBERS)
    extend(book, chain)
    last = chain[-1][0]
    empty, parts = make_empty(3, last.digest)
    book.append(decide(empty), parts)
    remembered = RunFile(FolderDisk(tmp_path / STATE_FOLDER))
    manifest = Manifest()
    remembered.remember_run(manifest, pb.SignedGenesis())
    others = [NAMES[peer] for peer in MEMBERS[1:]]
    remembered.remember_peers([contact(name, manifest.run_id) for name in others])
    record = [
        {"t": 1.0, "kind": "start", "peer_id": MEMBERS[0], "name": NAMES[MEMBERS[0]]},
        {
            "t": 2.0,
            "kind": "round",
            "digest": last.digest,
            "ready_s": 0.25,
            "exchange_s": 12.5,
            "apply_s": 0.75,
            "resent_bytes": 7_400,
        },
    ]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in record))
    return tmp_path


def shown(home: Path, *, width: int = 150, as_json: bool = False, count: int = 20) -> str:
    out = io.StringIO()
    show_directory(home, count, as_json, Console(file=out, width=width, force_terminal=True))
    return "".join(c for c in _without_colours(out.getvalue()))


def _without_colours(text: str) -> str:
    out, inside = [], False
    for character in text:
        inside = inside or character == "\x1b"
        if not inside:
            out.append(character)
        inside = inside and character != "m"
    return "".join(out)


@pytest.mark.parametrize("width", [80, 100, 150])
def test_every_column_is_whole(home: Path, width: int):
    text = shown(home, width=width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    last = lines_in(home, 20)[0][-2].decided.entry
    for fact in (
        NAMES[MEMBERS[0]],
        "33%",
        NAMES[MEMBERS[1]],
        "67%",
        "d: ",
        "0.25",
        "12.50",
        "0.75",
        last.digest[:6],
        "lost",
    ):
        assert fact in text, fact


def test_bytes_are_those_of_the_parts(home: Path):
    lines, damaged = lines_in(home, 20)
    assert damaged == []
    parts = make_chain(3)[2][1]
    assert lines[2].part_bytes == sum(len(data) for data in parts if data is not None)
    assert (lines[2].exchange_s, lines[2].resent_bytes) == (12.5, 7_400)
    assert lines[3].part_bytes == 0 and lines[3].exchange_s == 0.0


def test_json_has_an_entry_a_line_the_newest_last(home: Path):
    told = [json.loads(line) for line in shown(home, as_json=True, count=2).splitlines()]
    assert [line["round"] for line in told] == [2, 3]
    assert Entry.from_json(told[0]).digest == told[0]["digest"]
    assert told[0]["accepted_by"] == ["a", "b"]


def test_who_is_in_some_parts_only_and_forced_terms_are_marked(tmp_path: Path):
    book = LogBook(FolderDisk(tmp_path / STATE_FOLDER), limit_bytes=LOTS)
    parts = tuple(Part(digest(SHARED), tokens) for tokens in ((1, 1, 0), (0, 1, 0)))
    made = entry(round=0, parent=DIGEST, parts=parts, term=1, missing=(("c", "silent for 6 s"),))
    book.append(decide(made), (SHARED, SHARED))
    text = shown(tmp_path)
    assert "0 t1" in text and "a 33% 1/2, b 67%" in text and "c: silent for 6 s" in text


def test_damaged_files_are_said_and_the_rest_is_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
):
    folder = home / STATE_FOLDER / "log"
    (folder / "00000001.json").write_text("{")
    next(folder.glob("00000002-*")).unlink()
    text = shown(home)
    said = " ".join(capsys.readouterr().err.split())
    assert "log/00000001.json is damaged" in said and "bytes of round 2 are not here" in said
    assert "damaged" not in text and "lost" in text


def test_a_directory_without_a_log_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no log in"):
        lines_in(tmp_path, 5)
