"""The log of a directory as a table and as JSON: everything is there, and it fits 80 columns."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from peer.directory import STATE_FOLDER
from peer.disk import FolderDisk
from peer.evidence import Evidence
from peer.identity import tally_of
from peer.logbook import LogBook
from peer.metrics import METRICS_FILE
from peer.runfile import RUN_FILE, RunFile
from peer.show_log import lines_in, lines_of, proofs_in, show_directory
from peer.verdicts import Verdicts
from protocol.accepts import Vote
from protocol.audit import Accusation
from protocol.claims import Claim, Contribution, Slot
from protocol.digest import digest
from protocol.errors import InputError, RemoteError
from protocol.events import Verdict
from protocol.evidence import DoubleVote
from protocol.log import Entry, Part
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import encode_message
from tests.peer.chains import LOTS, SHARED, Parts, make_chain, make_empty
from tests.peer.people import contact, decide, identity, peer_id
from tests.protocol.makers import DIGEST, entry

NAMES = {peer_id(name): name for name in ("anna", "bert", "cleo")}
MEMBERS = sorted(NAMES)
RUN = Manifest()


def append(book: LogBook, of: Entry, parts: Parts, by: Sequence[str] = ("anna", "cleo")) -> None:
    book.append(decide(of, by, RUN.run_id), parts)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A peer's directory: three full entries, and one that is empty."""
    book = LogBook(FolderDisk(tmp_path / STATE_FOLDER), limit_bytes=LOTS)
    chain = make_chain(3, members=MEMBERS)
    for made, parts in chain:
        append(book, made, parts)
    last = chain[-1][0]
    append(book, *make_empty(3, last.digest))
    remembered = RunFile(FolderDisk(tmp_path / STATE_FOLDER))
    remembered.remember_run(RUN, pb.SignedGenesis())
    others = [NAMES[peer] for peer in MEMBERS[1:]]
    remembered.remember_peers([contact(name, RUN.run_id) for name in others])
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
    assert told[0]["accepted_by"] == sorted([peer_id("anna"), peer_id("cleo")])


def test_who_is_in_some_parts_only_and_forced_terms_are_marked(tmp_path: Path):
    book = LogBook(FolderDisk(tmp_path / STATE_FOLDER), limit_bytes=LOTS)
    parts = tuple(Part(digest(SHARED), tokens) for tokens in ((1, 1, 0), (0, 1, 0)))
    made = entry(round=0, parent=DIGEST, parts=parts, term=1, missing=(("c", "silent for 6 s"),))
    append(book, made, (SHARED, SHARED))
    RunFile(FolderDisk(tmp_path / STATE_FOLDER)).remember_run(RUN, pb.SignedGenesis())
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


@pytest.mark.parametrize(
    ("by", "run_id"), [(("anna",), RUN.run_id), (("anna", "cleo"), "another"), ((), RUN.run_id)]
)
def test_what_its_voters_did_not_decide_is_said_and_not_shown(
    home: Path, capsys: pytest.CaptureFixture[str], by: Sequence[str], run_id: str
):
    book = LogBook(FolderDisk(home / STATE_FOLDER), limit_bytes=LOTS)
    last = make_chain(3, members=MEMBERS)[-1][0]
    made_up, parts = make_empty(3, last.digest)
    book.append(decide(made_up, by, run_id), parts)
    lines, damaged = lines_in(home, 20)
    assert [line.decided.round for line in lines] == [0, 1, 2]
    assert len(damaged) == 1 and "log/00000003.json is not believed" in damaged[0]
    assert [line.decided.round for line in lines_in(home, 1)[0]] == [2], "the newest, then"


def test_the_log_that_a_peer_tells_is_checked_in_the_same_way():
    first, second = (made for made, _ in make_chain(2, members=MEMBERS))
    told = [decide(first, ("anna", "bert"), RUN.run_id), decide(second, ("anna",), RUN.run_id)]
    lines = [pb.LogLine(decided=encode_message(decided).decided) for decided in told]
    tally = tally_of(RUN)
    assert len(lines_of(pb.LogReply(lines=lines[:1]), "x", tally)) == 1
    with pytest.raises(RemoteError, match="by no quorum"):
        lines_of(pb.LogReply(lines=lines), "x", tally)


def test_a_log_of_no_run_is_refused(home: Path):
    (home / STATE_FOLDER / RUN_FILE).unlink()
    with pytest.raises(InputError, match=f"{RUN_FILE} is missing"):
        lines_in(home, 5)


def test_a_directory_without_a_log_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no log in"):
        lines_in(tmp_path, 5)


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff",
        b'{"kind": "round", "digest"',
        b'{"kind": "round"}',
        b'{"kind": "start", "peer_id": 7, "name": []}',
        b'{"kind": "round", "digest": "x", "ready_s": NaN}',
        b'{"kind": "round", "digest": ' + b"[" * 100_000,
    ],
)
def test_whatever_a_damaged_record_says_the_log_is_shown(home: Path, damage: bytes):
    record = home / METRICS_FILE
    record.write_bytes(record.read_bytes() + damage + b"\n")
    lines, damaged = lines_in(home, 20)
    assert len(lines) == 4 and not damaged
    assert lines[2].exchange_s == 12.5
    assert NAMES[MEMBERS[0]] in shown(home)  # only the record says what this peer is called


def test_who_was_proven_to_lie_is_named_and_where_the_proof_is(home):
    store = FolderDisk(home / STATE_FOLDER)
    tally = tally_of(RUN)
    slot = Slot(run_id=RUN.run_id, round=2, roster=DIGEST, part_index=1)
    given = Contribution.of(slot, peer_id("anna"), 1, DIGEST, identity("anna"))
    claim = Claim.of(slot, peer_id("bert"), DIGEST, (given,), identity("bert"))
    accusation = Accusation.of(claim, peer_id("cleo"), identity("cleo"))
    Verdicts(store, tally).keep(Verdict(peer_id("bert"), accusation))
    first, second = (decide(entry(reason), ["cleo"], RUN.run_id) for reason in ("one", "other"))
    double_vote = DoubleVote(
        first=Vote.on(first.entry, 0),
        second=Vote.on(second.entry, 0),
        accepts=(first.accepts[0], second.accepts[0]),
    )
    Evidence(store, tally).keep(double_vote)
    name = f"state/verdicts/{accusation.digest}.json"
    said = " ".join(shown(home).split())
    assert f"proof: bert averaged part 1 of round 2 falsely: {name}" in said
    assert "proof: cleo voted for two entries in ballot 0 of round 0: state/evidence.json" in said
    (home / name).write_bytes(b"anything")
    proofs, damaged = proofs_in(home)
    assert len(proofs) == 1 and name.removeprefix("state/") in damaged[0]
