"""RunFile: what a peer remembers of its run."""

import pytest

from peer.disk import Disk
from peer.runfile import PEERS_FILE, RUN_FILE, RunFile
from protocol.errors import InputError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb
from tests.peer.disks import flip_bit, full
from tests.peer.people import contact

MANIFEST = Manifest.from_toml('name = "remembered"')
GENESIS = pb.SignedGenesis(genesis=b"genesis", public_key=b"key", signature=b"signature")
PEERS = [contact(name, MANIFEST.run_id, "h:1", "/ip4/h") for name in ("anna", "bert")]


def test_a_fresh_directory_remembers_nothing(disk: Disk) -> None:
    found = RunFile(disk)
    assert found.manifest is None and found.genesis is None and found.peers() == []


def test_the_run_and_its_peers_are_there_again(disk: Disk) -> None:
    RunFile(disk).remember_run(MANIFEST, GENESIS)
    RunFile(disk).remember_peers(PEERS)
    found = RunFile(disk)
    assert found.manifest == MANIFEST and found.genesis == GENESIS
    assert found.peers() == PEERS


def test_a_damaged_run_is_refused_with_the_next_step(disk: Disk) -> None:
    RunFile(disk).remember_run(MANIFEST, GENESIS)
    flip_bit(disk, RUN_FILE, 300)
    with pytest.raises(InputError, match=r"run\.json .* is damaged .* move it away"):
        RunFile(disk)


def test_damaged_addresses_are_no_addresses(disk: Disk) -> None:
    RunFile(disk).remember_run(MANIFEST, GENESIS)
    RunFile(disk).remember_peers(PEERS)
    flip_bit(disk, PEERS_FILE, 300)
    assert RunFile(disk).peers() == []


def test_a_full_disk_is_said_when_the_run_begins(disk: Disk) -> None:
    remembered = RunFile(disk)
    with full(disk), pytest.raises(InputError, match="cannot be written"):
        remembered.remember_run(MANIFEST, GENESIS)
