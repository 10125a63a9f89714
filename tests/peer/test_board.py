"""What a peer says of itself while it gets to the group, and of the others."""

from types import SimpleNamespace

import pytest

from peer.board import GATHERING, Board
from peer.settings import Settings
from peer.snapshot import Progress
from peer.view import plain_line
from protocol.manifest import Manifest
from tests.protocol.makers import heartbeat
from tests.protocol.members import hear, member


def board_of(machine, *, is_new: bool = True, is_away: bool = True, progress=None) -> Board:
    board = Board(Settings(initial_peers=("x",), insecure=True), "me")
    board.driver = SimpleNamespace(
        member=machine,
        is_new=is_new,
        catchup=SimpleNamespace(is_away=is_away, progress=progress),
        manifest=Manifest(),
    )
    board.be("loading")
    board.name_state()
    return board


def words(board: Board) -> str:
    return board._state_in_words()


def behind(rounds: int):
    machine = member()
    hear(machine, "a", heartbeat("a", round=rounds - 1, head="far"))
    return machine


def alone():
    machine = member()
    for peer in "ac":
        machine._others.lose(peer, "silent")
    return machine


def test_the_way_of_a_newcomer():
    assert words(board_of(alone())) == "looking for peers"
    assert words(board_of(behind(12))) == "catching up: 12 entries behind"
    progress = Progress(done_bytes=34_000_000, total_bytes=100_000_000, bytes_per_s=1e6)
    board = board_of(behind(12), progress=progress)
    assert words(board) == "downloading 34 of 100 MB"
    assert board._state == "downloading", "since when does not begin anew with every MB"
    assert words(board_of(member(), is_away=False)) == "training"


@pytest.mark.parametrize(
    ("rounds", "said"), [(0, "training"), (1, "training"), (2, "catching up: 2 entries behind")]
)
def test_a_peer_that_missed_something(rounds: int, said: str):
    assert words(board_of(behind(rounds), is_new=False, is_away=False)) == said


def test_without_the_others_a_peer_that_is_not_new_is_alone():
    board = board_of(alone(), is_new=False, is_away=False)
    assert words(board) == "alone"


def test_an_archive_follows():
    machine = member("z", trains=False)
    assert words(board_of(machine, is_away=False)) == "following"


def test_others_are_told_apart():
    machine = member()
    hear(machine, "a", heartbeat("a", trains=False))
    hear(machine, "c", heartbeat("c"))
    assert machine.peer_states() == {"a": "following", "c": "live"}


@pytest.mark.parametrize(
    ("present", "awaited", "said"),
    [
        ([], 2, "looking for peers"),
        (["a"], 1, "waiting for 1 more peer"),
        (["a", "b"], 0, "waiting for the founder to begin"),
    ],
)
def test_who_joins_looks_for_peers_before_it_counts_them(present, awaited, said):
    board = Board(Settings(initial_peers=("x",), insecure=True), "me")
    board.gathering = SimpleNamespace(genesis=None, present=present, awaited=awaited)
    board.be(GATHERING)
    assert words(board) == said
    assert plain_line(board.view()) == said
