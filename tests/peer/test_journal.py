"""The journal: no vote that was answered is ever forgotten, and no lost journal goes unnoticed."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.disk import Disk, FolderDisk
from peer.journal import Journal
from peer.sealed import seal, unseal
from protocol.ballots import Ballots
from tests.peer.disks import flip_bit, full, tear
from tests.protocol import makers
from tests.sim.disk import Crash, SimDisk

NAME = "journal.json"


class Incarnations:
    """Gives "1", "2", ..."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return str(next(self._numbers))


def ballots(ballot: int) -> Ballots:
    return Ballots(
        round=7,
        parent=makers.DIGEST,
        promised=ballot,
        accepted_ballot=ballot,
        accepted=makers.entry(round=7),
    )


PROMISED = Ballots(round=3, parent=makers.DIGEST, promised=4)


def test_a_new_disk_gets_a_journal(disk: Disk) -> None:
    journal, sentence = Journal.open(disk, Incarnations())
    assert journal.incarnation == "1" and journal.ballots is None
    assert sentence == "there is no journal: this peer votes again once an entry lists it as 1"
    again, sentence = Journal.open(disk, lambda: "other")
    assert again.incarnation == "1" and again.ballots is None and sentence == ""


@pytest.mark.parametrize("written", [PROMISED, ballots(2)])
def test_ballots_survive_a_restart(disk: Disk, written: Ballots) -> None:
    journal, _ = Journal.open(disk, Incarnations())
    journal.write(ballots(1))
    journal.write(written)
    assert journal.ballots == written
    again, sentence = Journal.open(disk, lambda: "other")
    assert again.incarnation == "1" and again.ballots == written and sentence == ""


def test_renewing_forgets_the_votes_under_another_incarnation(disk: Disk) -> None:
    incarnations = Incarnations()
    journal, _ = Journal.open(disk, incarnations)
    journal.write(ballots(1))
    journal.renew(incarnations)
    assert journal.incarnation == "2" and journal.ballots is None
    again, sentence = Journal.open(disk, incarnations)
    assert again.incarnation == "2" and again.ballots is None and sentence == ""


def test_a_full_disk_keeps_the_old_votes(disk: Disk) -> None:
    journal, _ = Journal.open(disk, Incarnations())
    journal.write(ballots(1))
    with full(disk):
        with pytest.raises(OSError, match="No space left on device"):
            journal.write(ballots(2))
        with pytest.raises(OSError, match="No space left on device"):
            journal.renew(lambda: "other")
    for found in (journal, Journal.open(disk, lambda: "other")[0]):
        assert found.incarnation == "1" and found.ballots == ballots(1)


def test_a_lost_journal_on_a_full_disk_is_said_and_written_with_the_first_vote(disk: Disk) -> None:
    with full(disk):
        journal, sentence = Journal.open(disk, Incarnations())
    assert sentence.endswith("; a new one cannot be written (No space left on device)")
    journal.write(ballots(1))
    again, sentence = Journal.open(disk, lambda: "other")
    assert again.incarnation == "1" and again.ballots == ballots(1) and sentence == ""


@given(data=st.data(), written=st.sampled_from([None, PROMISED, ballots(2)]))
def test_no_damage_brings_back_a_changed_vote(data: st.DataObject, written: Ballots | None) -> None:
    disk = SimDisk()
    journal, _ = Journal.open(disk, lambda: "old")
    if written is not None:
        journal.write(written)
    if data.draw(st.booleans()):
        flip_bit(disk, NAME, data.draw(st.integers(0, 8 * disk.size(NAME) - 1)))
    else:
        tear(disk, NAME, data.draw(st.integers(0, disk.size(NAME) - 1)))
    again, sentence = Journal.open(disk, lambda: "new")
    if again.incarnation == "old":  # a flip that JSON reads as the same value, such as \u00E9
        assert again.ballots == written and sentence == ""
    else:
        assert again.incarnation == "new" and again.ballots is None
        assert sentence.startswith("the journal is damaged (") and sentence.endswith(" as new")
    assert Journal.open(disk, lambda: "newer")[0].incarnation == again.incarnation


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"7", b'"x"', b"[" * 10_000, b"\xff{}"])
def test_garbage_is_no_journal(disk: Disk, content: bytes) -> None:
    disk.replace(NAME, [content])
    journal, sentence = Journal.open(disk, lambda: "new")
    assert journal.incarnation == "new" and "damaged" in sentence and "\n" not in sentence


def test_a_giant_journal_is_not_read(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    disk.replace(NAME, [b"{"])
    os.truncate(tmp_path / NAME, 2**40)
    journal, sentence = Journal.open(disk, lambda: "new")
    assert journal.incarnation == "new" and "larger than" in sentence
    assert disk.size(NAME) < 1000


@given(count=st.integers(0, 5), crash_after=st.integers(0, 6))
def test_a_crash_at_any_moment_loses_no_vote(count: int, crash_after: int) -> None:
    disk = SimDisk()
    disk.crash_after = crash_after
    last = None
    try:
        journal, _ = Journal.open(disk, lambda: "old")
        for ballot in range(count):
            journal.write(ballots(ballot))
            last = ballot
    except Crash:
        pass
    disk.crash_after = None
    again, _ = Journal.open(disk, lambda: "new")
    if crash_after == 0:
        assert again.incarnation == "new"
    else:
        assert again.incarnation == "old"
        assert again.ballots == (None if last is None else ballots(last))


@pytest.mark.parametrize(
    "changed", [{"promised": 2**63}, {"promised": "3"}, {"round": -5}, {"parent": 7}], ids=str
)
def test_votes_that_nobody_can_have_cast_are_no_votes(changed: dict[str, object]) -> None:
    """However well they are sealed."""
    disk = SimDisk()
    Journal.open(disk, lambda: "first")[0].write(Ballots(round=0, parent=makers.DIGEST))
    record = unseal(disk.read("journal.json"))
    disk.replace("journal.json", [seal({**record, "ballots": {**record["ballots"], **changed}})])
    journal, note = Journal.open(disk, lambda: "anew")
    assert journal.ballots is None and journal.incarnation == "anew" and "damaged" in note
