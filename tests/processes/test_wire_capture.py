"""What a listener on the line sees of a run: nothing that anybody said."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peer.directory import STATE_FOLDER
from peer.disk import FolderDisk
from peer.entry_file import EntryFile, file_name
from peer.logbook import read_record, record_names
from protocol.manifest import Manifest
from tests.processes.swarm import Swarm

pytestmark = pytest.mark.processes

SECRETS = ("a-run-that-nobody-heard-of", "peer-called-anna", "peer-called-bert")
MANIFEST = f"""
name = "{SECRETS[0]}"
start_peers = 2
total_steps = 100_000
[model]
depth = 1
width = 32
context = 32
[data]
batch_sequences = 1
[sync]
sync_every = 8
num_fragments = 1
sync_delay_steps = 0
codec = "fp32"
"""
ALL_PROTOCOLS = 3
SO_RCVBUFFORCE = 33
"""Of Linux; Python has no name for it."""
BUFFER_BYTES = 64 << 20
SAMPLE_BYTES = 64
"""Of a mean: it fits into one packet many times."""


def why_not() -> str | None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)).close()
    except PermissionError:
        return "listening on the line takes root"
    return None


@contextmanager
def captured() -> Iterator[bytearray]:
    """Every frame on the loopback interface, one after the other."""
    frames, ends = bytearray(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as line:
        line.bind(("lo", 0))
        line.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)

        def listen() -> None:
            while not ends.is_set():
                if select.select([line], [], [], 0.1)[0]:
                    frames.extend(line.recv(1 << 17))

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield frames
        finally:
            ends.set()
            listener.join()


def samples_of_means(directory: Path) -> list[bytes]:
    """A piece from the middle of every mean that this peer holds."""
    disk = FolderDisk(directory / STATE_FOLDER, only_reads=True)
    samples = []
    for name in record_names(disk):
        entry = read_record(disk, name).entry
        if not entry.is_empty:
            file = EntryFile.open(disk, file_name(entry.round, entry.digest))
            for part in entry.parts:
                if part is not None:
                    data = file.part(disk, part.digest)
                    middle = len(data) // 2
                    samples.append(data[middle : middle + SAMPLE_BYTES])
    return samples


@pytest.mark.skipif(why_not() is not None, reason=f"skipped, because {why_not()}")
@pytest.mark.parametrize("is_encrypted", [True, False])
def test_a_listener_learns_nothing(tmp_path: Path, is_encrypted: bool) -> None:
    """In plaintext it finds everything: so it does listen."""
    flags = () if is_encrypted else ("--insecure",)
    anna, bert = SECRETS[1:]
    with captured() as frames, Swarm(tmp_path, MANIFEST) as swarm:
        swarm.found(anna, *flags)
        swarm.join(bert, *flags)
        swarm.wait_until(lambda: len(swarm.rounds(bert)) > 6, "some rounds", anna, bert)
        run_id = swarm.lines(anna, "start")[0]["run_id"]
        directory = swarm.path(bert)
    samples = samples_of_means(directory)
    assert len(samples) > 4
    manifest = Manifest.from_toml(MANIFEST).to_bytes()
    said = [*(secret.encode() for secret in SECRETS), run_id.encode(), manifest]
    if is_encrypted:
        assert not [words for words in (*said, *samples) if words in frames]
    else:
        assert all(words in frames for words in said)
        # Packets may be lost to this listener, and a sample may lie across two.
        assert sum(sample in frames for sample in samples) > len(samples) / 2
