"""Checkpoints: equal on all peers, whole or not used, and never more than fit."""

import errno
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load

from peer import fragment_files
from peer.checkpoint import LEASE_S, MAX_LEASED, Checkpoints
from peer.disk import Disk, FolderDisk, Pieces
from peer.fragment_files import DamagedError
from peer.sealed import seal, unseal
from protocol.errors import InputError
from protocol.log import GENESIS_ROUND
from protocol.messages import Decided
from protocol.state import CHUNK_BYTES, chunk, chunk_digests, root_of
from tests.protocol import signed
from tests.protocol.makers import DIGEST, entry
from tests.sim.disk import Crash, SimDisk

RUN = DIGEST
SIZES = (7, CHUNK_BYTES // 4 + 3)
"""Values of the two fragments: one chunk, and three of which one has the seam in it."""

State = tuple[np.ndarray, np.ndarray]


def states_of(seed: int) -> list[State]:
    draw = np.random.default_rng(seed)
    return [
        (draw.random(values, dtype=np.float32), draw.random(values, dtype=np.float32))
        for values in SIZES
    ]


def decided(round_: int) -> Decided:
    return signed.decided(entry(round=round_), ("a", "b"))


def save(checkpoints: Checkpoints, round_: int, states: list[State], **changed) -> None:
    fields = {
        "decided": None if round_ == GENESIS_ROUND else decided(round_),
        "states": states,
        "versions": [round_, round_],
        "private": {"adam/step": np.array(3.0), "moment": np.arange(5, dtype=np.float32)},
        "facts": {"step": 12, "loss": 0.25},
    }
    checkpoints.save(round_, **fields | changed)


def files_of(disk: Disk) -> dict[str, bytes]:
    return {
        name: whole(disk, name)
        for folder in ("checkpoints", "fragments", "private")
        for name in disk.names(folder)
    }


def whole(disk: Disk, name: str) -> bytes:
    return disk.read(name, limit_bytes=2**30)


def write(disk: Disk, name: str, data: bytes) -> None:
    disk.replace(name, [data])


def assert_equal_states(found: tuple[State, ...], expected: list[State]) -> None:
    for state, other in zip(found, expected, strict=True):
        for values, wanted in zip(state, other, strict=True):
            assert values.dtype == np.float32
            assert values.tobytes() == wanted.tobytes()


def flip(disk: Disk, name: str, offset: int) -> None:
    data = bytearray(whole(disk, name))
    data[offset] ^= 4
    write(disk, name, bytes(data))


def test_what_is_saved_is_loaded_after_a_restart(disk):
    states = states_of(1)
    save(Checkpoints(disk, RUN), 4, states, versions=[3, 4])
    loaded, notes = Checkpoints(disk, RUN).load_newest()
    assert loaded is not None and not notes
    assert (loaded.round, loaded.versions) == (4, (3, 4))
    assert loaded.decided == decided(4)
    assert loaded.facts == {"step": 12, "loss": 0.25}
    assert loaded.private is not None
    assert loaded.private["adam/step"].shape == () and loaded.private["adam/step"] == 3.0
    np.testing.assert_array_equal(loaded.private["moment"], np.arange(5, dtype=np.float32))
    assert_equal_states(loaded.states, states)


def test_genesis_is_kept_and_never_offered(disk):
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, GENESIS_ROUND, states_of(1))
    assert checkpoints.rounds() == (GENESIS_ROUND,)
    assert checkpoints.offer(GENESIS_ROUND) is None and checkpoints.offers() == ()
    loaded, _ = checkpoints.load_newest()
    assert loaded is not None and loaded.decided is None


def test_an_empty_directory_has_nothing_to_load():
    assert Checkpoints(SimDisk(), RUN).load_newest() == (None, ())


def test_two_peers_have_equal_fragment_files_and_equal_offers():
    disks = (SimDisk(), SimDisk())
    offers = []
    for position, disk in enumerate(disks):
        checkpoints = Checkpoints(disk, RUN)
        if position:
            save(checkpoints, 1, states_of(9), facts={"step": 1})
        states = [(a.copy(), b.copy()) for a, b in states_of(2)]
        save(checkpoints, 2, states, private=None, facts={"step": position})
        offers.append(checkpoints.offer(2))
        assert checkpoints.offers()[0] == offers[-1]
    assert offers[0] == offers[1]
    for name in disks[0].names("fragments"):
        assert whole(disks[0], name) == whole(disks[1], name)


def test_any_reader_of_safetensors_reads_a_fragment():
    disk, states = SimDisk(), states_of(3)
    save(Checkpoints(disk, RUN), 0, states)
    for global_params, momentum in states:
        root = root_of(chunk_digests(global_params, momentum))
        tensors = load(whole(disk, f"fragments/{root}.safetensors"))
        assert sorted(tensors) == ["global_params", "momentum"]
        np.testing.assert_array_equal(tensors["global_params"], global_params)
        np.testing.assert_array_equal(tensors["momentum"], momentum)


def test_fragments_that_did_not_change_are_neither_hashed_nor_written(monkeypatch):
    disk, states = SimDisk(), states_of(4)
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, 0, states, versions=[-1, 0])
    hashed, written = [], []
    replace = disk.replace
    monkeypatch.setattr(
        fragment_files, "chunk_digests", lambda g, m: hashed.append(g.size) or chunk_digests(g, m)
    )
    monkeypatch.setattr(disk, "replace", lambda n, p: written.append(n) or replace(n, p))
    changed = [states_of(5)[0], states[1]]
    save(checkpoints, 1, changed, versions=[1, 0], private=None)
    assert hashed == [SIZES[0]]
    assert [name.split("/")[0] for name in written] == ["fragments", "checkpoints"]
    # After a restart, or with copies, the arrays are others; their file is still the same.
    del written[:]
    save(checkpoints, 2, [(a.copy(), b.copy()) for a, b in changed], private=None)
    assert hashed == [SIZES[0], *SIZES]
    assert written == ["checkpoints/00000002.json"]


def test_the_newest_stay_and_nothing_else(disk):
    checkpoints = Checkpoints(disk, RUN, keep=2)
    for round_ in range(5):
        save(checkpoints, round_, states_of(round_))
    assert checkpoints.rounds() == (3, 4)
    assert len(disk.names("fragments")) == 4
    assert sorted(disk.names("checkpoints")) == [f"checkpoints/{r:08d}.json" for r in (3, 4)]
    assert len(disk.names("private")) == 1, "equal private states are one file"


def test_what_somebody_downloads_stays_a_while():
    now_s = 0.0
    disk = SimDisk()
    checkpoints = Checkpoints(disk, RUN, keep=1, clock=lambda: now_s)
    for round_ in range(6):
        save(checkpoints, round_, states_of(round_))
        offer = checkpoints.offer(round_)
        assert offer is not None and checkpoints.chunk(offer.fragments[0].root, 0)
    assert checkpoints.rounds() == (3, 4, 5) and MAX_LEASED == 2
    now_s = LEASE_S
    save(checkpoints, 6, states_of(6))
    assert checkpoints.rounds() == (6,) and len(disk.names("fragments")) == 2


def test_later_rounds_go_when_the_log_went_back():
    checkpoints = Checkpoints(SimDisk(), RUN)
    for round_ in (5, 6, 7):
        save(checkpoints, round_, states_of(round_))
    save(checkpoints, 6, states_of(66))
    assert checkpoints.rounds() == (5, 6)
    loaded, _ = checkpoints.load_newest()
    assert loaded is not None
    assert_equal_states(loaded.states, states_of(66))


def test_max_round_loads_an_older_one():
    checkpoints = Checkpoints(SimDisk(), RUN)
    for round_ in (5, 6, 7):
        save(checkpoints, round_, states_of(round_))
    loaded, _ = checkpoints.load_newest(max_round=6)
    assert loaded is not None and loaded.round == 6
    assert checkpoints.load_newest(max_round=4) == (None, ())


DAMAGE: dict[str, Callable[[Disk, str], None]] = {
    "torn": lambda disk, name: write(disk, name, whole(disk, name)[: disk.size(name) // 2]),
    "emptied": lambda disk, name: write(disk, name, b""),
    "lost": lambda disk, name: disk.remove(name),
    "longer": lambda disk, name: write(disk, name, whole(disk, name) + b"x"),
    "flipped at the start": lambda disk, name: flip(disk, name, 3),
    "flipped in the header": lambda disk, name: flip(disk, name, 30),
    "flipped in the middle": lambda disk, name: flip(disk, name, disk.size(name) // 2),
    "flipped at the end": lambda disk, name: flip(disk, name, disk.size(name) - 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", ["checkpoints/", "fragments/"])
def test_the_one_before_is_used_when_a_file_is_damaged(disk, which, damage):
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, 1, states_of(1))
    before = set(files_of(disk))
    save(checkpoints, 2, states_of(2))
    for name in sorted(set(files_of(disk)) - before):
        if name.startswith(which):
            damage(disk, name)
    again = Checkpoints(disk, RUN)
    loaded, notes = again.load_newest()
    assert loaded is not None and loaded.round == 1
    assert_equal_states(loaded.states, states_of(1))
    assert notes or disk.names("checkpoints") == ["checkpoints/00000001.json"]
    # The next save of the very state that was damaged makes it whole again.
    save(again, 2, states_of(2))
    loaded, notes = Checkpoints(disk, RUN).load_newest()
    assert loaded is not None and loaded.round == 2 and not notes


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_without_its_private_part_the_shared_state_is_still_good(damage):
    disk = SimDisk()
    save(Checkpoints(disk, RUN), 1, states_of(1))
    [name] = disk.names("private")
    damage(disk, name)
    loaded, notes = Checkpoints(disk, RUN).load_newest()
    assert loaded is not None and loaded.private is None and loaded.facts["step"] == 12
    assert_equal_states(loaded.states, states_of(1))
    assert "private state of round 1 is lost" in notes[0]


class FillingDisk(SimDisk):
    """Has room for so many files and no more."""

    room = 1000

    def replace(self, name: str, pieces: Pieces) -> None:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        self.room -= 1
        super().replace(name, pieces)


@pytest.mark.parametrize("room", range(4))
def test_a_full_disk_costs_nothing_that_was_there(room):
    disk = FillingDisk()
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, 1, states_of(1))
    before = files_of(disk)
    disk.room = room
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2, states_of(2), private={"moment": np.zeros(7)})
    assert files_of(disk) == before
    assert checkpoints.rounds() == (1,)
    disk.room = 1000
    save(checkpoints, 2, states_of(2))
    loaded, _ = Checkpoints(disk, RUN).load_newest()
    assert loaded is not None and loaded.round == 2


@pytest.mark.parametrize("changes", range(12))
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(changes):
    disk = SimDisk()
    checkpoints = Checkpoints(disk, RUN, keep=1)
    save(checkpoints, 1, states_of(1))
    disk.crash_after = changes
    try:
        save(checkpoints, 2, states_of(2), private=None)
        round_ = 2
    except Crash:
        round_ = 2 if "checkpoints/00000002.json" in files_of(disk) else 1
    disk.crash_after = None
    again = Checkpoints(disk, RUN, keep=1)
    loaded, notes = again.load_newest()
    assert loaded is not None and not notes and loaded.round == round_
    assert_equal_states(loaded.states, states_of(round_))
    save(again, 3, states_of(3))
    assert len(files_of(disk)) == 4


def test_what_a_crash_left_goes_with_the_next_save():
    disk = SimDisk()
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, 1, states_of(1))
    disk.remove("checkpoints/00000001.json")  # as if the process had died just before writing it
    again = Checkpoints(disk, RUN)
    assert again.load_newest() == (None, ())
    save(again, 2, states_of(2))
    assert len(disk.names("fragments")) == 2


def test_checkpoints_of_another_run_are_not_touched():
    disk = SimDisk()
    save(Checkpoints(disk, RUN), 1, states_of(1))
    before = files_of(disk)
    with pytest.raises(InputError, match="choose another"):
        Checkpoints(disk, "another run")
    assert files_of(disk) == before


def test_what_it_says_can_be_read_by_a_person():
    disk = SimDisk()
    save(Checkpoints(disk, RUN), 7, states_of(1))
    record = unseal(disk.read("checkpoints/00000007.json"))
    assert Decided.from_json(record["decided"]) == decided(7)


# --- for others, from others --------------------------------------------------------------------


def test_others_get_exactly_the_chunks_of_the_state():
    disk, states = SimDisk(), states_of(1)
    save(Checkpoints(disk, RUN), 1, states)
    checkpoints = Checkpoints(disk, RUN)
    offer = checkpoints.offer(1)
    assert offer is not None
    for (global_params, momentum), fragment in zip(states, offer.fragments, strict=True):
        digests = chunk_digests(global_params, momentum)
        assert checkpoints.chunk_digests(fragment.root) == digests
        for index in range(len(digests)):
            found = checkpoints.chunk(fragment.root, index)
            assert found == chunk(global_params, momentum, index)
        assert checkpoints.chunk(fragment.root, len(digests)) is None
        assert checkpoints.chunk(fragment.root, -1) is None


@pytest.mark.parametrize("root", ["", "../private/x", "0" * 64])
def test_a_root_that_is_not_ours_names_no_file(root):
    checkpoints = Checkpoints(SimDisk(), RUN)
    save(checkpoints, 1, states_of(1))
    assert checkpoints.chunk(root, 0) is None and checkpoints.chunk_digests(root) is None


def test_a_damaged_checkpoint_is_offered_no_more():
    disk = SimDisk()
    checkpoints = Checkpoints(disk, RUN)
    save(checkpoints, 1, states_of(1))
    save(checkpoints, 2, states_of(2))
    root = checkpoints.offers()[0].fragments[1].root
    name = f"fragments/{root}.safetensors"
    flip(disk, name, disk.size(name) - 1)
    assert checkpoints.chunk(root, 0) is not None
    assert checkpoints.chunk(root, 2) is None
    assert [offer.round for offer in checkpoints.offers()] == [1]
    assert "round 2" in checkpoints.take_notes()[0] and not checkpoints.take_notes()


def donor_of(states: list[State]) -> Checkpoints:
    donor = Checkpoints(SimDisk(), RUN)
    save(donor, 8, states, versions=[6, 8])
    return donor


def adopt(checkpoints: Checkpoints, donor: Checkpoints) -> None:
    offer = donor.offers()[0]
    checkpoints.expect(offer)
    for fragment in offer.fragments:
        digests = donor.chunk_digests(fragment.root)
        assert digests is not None
        checkpoints.adopt_fragment(
            fragment, digests, lambda index, root=fragment.root: donor.chunk(root, index) or b""
        )
    checkpoints.adopt(offer, {"step": 5})


def test_an_adopted_checkpoint_is_one_like_any_other(disk):
    states = states_of(8)
    donor = donor_of(states)
    adopt(Checkpoints(disk, RUN), donor)
    again = Checkpoints(disk, RUN)
    assert again.offers() == donor.offers()
    loaded, notes = again.load_newest()
    assert loaded is not None and not notes
    assert (loaded.round, loaded.versions, loaded.private) == (8, (6, 8), None)
    assert loaded.facts == {"step": 5}
    assert_equal_states(loaded.states, states)


def test_what_is_adopted_survives_saves_and_a_restart_before_it_is_complete():
    donor, disk = donor_of(states_of(8)), SimDisk()
    offer = donor.offers()[0]
    fragment = offer.fragments[0]
    checkpoints = Checkpoints(disk, RUN)
    checkpoints.expect(offer)
    digests = donor.chunk_digests(fragment.root)
    assert digests is not None
    checkpoints.adopt_fragment(fragment, digests, lambda i: donor.chunk(fragment.root, i) or b"")
    save(checkpoints, 1, states_of(1))
    again = Checkpoints(disk, RUN)
    assert again.holds(fragment) and not again.holds(offer.fragments[1])
    again.expect(None)
    save(again, 2, states_of(2))
    assert not Checkpoints(disk, RUN).holds(fragment)


def test_a_wrong_chunk_is_not_adopted():
    donor, disk = donor_of(states_of(8)), SimDisk()
    fragment = donor.offers()[0].fragments[1]
    digests = donor.chunk_digests(fragment.root)
    assert digests is not None
    with pytest.raises(DamagedError, match="chunk 0"):
        Checkpoints(disk, RUN).adopt_fragment(fragment, digests, lambda index: b"wrong")
    assert not files_of(disk)


def test_a_damaged_fragment_is_not_held():
    donor, disk = donor_of(states_of(8)), SimDisk()
    adopt(Checkpoints(disk, RUN), donor)
    fragment = donor.offers()[0].fragments[0]
    name = f"fragments/{fragment.root}.safetensors"
    flip(disk, name, disk.size(name) - 1)
    assert not Checkpoints(disk, RUN).holds(fragment)


@pytest.mark.parametrize(
    "shape", ["[1e999]", "[-1e999]", "[NaN]", '["7"]', "[true]", "7", "[" + "9" * 5000 + "]"]
)
def test_a_header_with_a_shape_that_is_none_is_damage(shape):
    disk = SimDisk()
    save(Checkpoints(disk, RUN), 0, states_of(0))
    name = disk.names("fragments")[0]
    data = whole(disk, name)
    size = int.from_bytes(data[:8], "little")
    head = data[8 : 8 + size].replace(b'"shape":[', b'"shape":' + shape.encode() + b',"was":[', 1)
    write(disk, name, len(head).to_bytes(8, "little") + head + data[8 + size :])
    loaded, notes = Checkpoints(disk, RUN).load_newest()
    assert loaded is None and "damaged" in notes[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"round": "0"},
        {"round": [0]},
        {"round": 1},
        {"fragments": []},
        {"fragments": [[7, 0, "../../x"]]},
        {"fragments": [[2**70, 0, DIGEST]]},
        {"fragments": [[7, 1, DIGEST]]},
        {"private": "../x"},
        {"decided": 7},
        {"decided": None},
        {"trail": [[0, DIGEST, "0", 0]]},
        {"facts": []},
    ],
    ids=str,
)
def test_a_record_that_somebody_edited_and_sealed_again_is_not_used(changed):
    disk = SimDisk()
    save(Checkpoints(disk, RUN), 0, states_of(0))
    name = "checkpoints/00000000.json"
    write(disk, name, seal({**unseal(disk.read(name)), **changed}))
    loaded, notes = Checkpoints(disk, RUN).load_newest()
    assert loaded is None and notes == (f"{name} is not used: not a checkpoint",)


def test_an_editors_copy_harms_no_save(tmp_path):
    disk = FolderDisk(tmp_path)
    save(Checkpoints(disk, RUN), 0, states_of(0))
    for folder in ("checkpoints", "private", "fragments"):
        (tmp_path / folder / "a copy~").write_text("{}")
    save(Checkpoints(disk, RUN), 1, states_of(1))
    assert Checkpoints(disk, RUN).rounds() == (0, 1)
