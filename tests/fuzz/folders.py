"""Files that are opened by their path: what people write, and what commands and restarts read."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.console import Console

from peer.cursor import Cursor
from peer.directory import STATE_FOLDER
from peer.disk import FolderDisk
from peer.identity import KEY_FILE, Identity
from peer.metrics import METRICS_FILE, Metrics
from peer.preflight import read_manifest
from peer.report import summarize, words
from peer.runfile import RunFile
from peer.show_log import show_directory
from protocol.errors import InputError
from protocol.manifest import Manifest
from tests.fuzz import mutations
from tests.fuzz.meeting import NAMES, RUN, signed_genesis
from tests.fuzz.target import Target
from tests.fuzz.wire import MANIFEST
from tests.peer import chains
from tests.peer.people import contact, decide, peer_id
from tests.peer.test_report import one_peer

CHAIN = chains.make_chain(3, members=sorted(map(peer_id, NAMES)))
"""Of people with real keys: `diloco-peer log` looks at their signatures."""


class Folder(Target):
    """A file in a real folder, which a reader opens by its path."""

    file: str
    refusals = (InputError,)

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="diloco-fuzz-"))
        self.path = self._folder / self.file
        self.write_sample()
        self.samples = [self.path.read_bytes()]

    def write_sample(self) -> None:
        raise NotImplementedError

    def put(self, data: bytes) -> Path:
        self.path.write_bytes(data)
        return self.path

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class CursorFile(Folder):
    name = file = "cursor.json"
    structured = staticmethod(mutations.sealed)

    def write_sample(self) -> None:
        self._open().take()

    def _open(self) -> Cursor:
        return Cursor.open(self.path, RUN, beside=lambda work: work())

    def feed(self, data: bytes) -> int:
        self.put(data)
        cursor = self._open()
        begins = cursor.next_cursor
        # Where the stream of batches is entered (peer/data.py): a counter of 256 bits.
        np.random.Philox(key=1, counter=begins << 128)
        return begins

    def is_right(self, data: bytes, made: int) -> bool:
        return made == self.feed(self.samples[0]) or mutations.is_sealed(data)


class KeyFile(Folder):
    """Any 32 bytes are a key: nothing can tell which."""

    name = file = KEY_FILE
    share = 0.3

    def write_sample(self) -> None:
        self.path.write_bytes(Identity.load_or_create(self._folder)._key.private_bytes_raw())

    def feed(self, data: bytes) -> str:
        self.put(data)
        os.chmod(self.path, 0o600)
        return Identity.load_or_create(self._folder).peer_id

    def is_right(self, data: bytes, made: str) -> bool:
        return len(data) == 32


class ManifestToml(Folder):
    """What a person wrote."""

    name = file = "manifest.toml"

    def write_sample(self) -> None:
        self.path.write_text(
            'name = "fuzz" # words\nseed = 3\nmode = "elastic"\ntotal_steps = 400\n[sync]\n'
            "sync_every = 20\nnum_fragments = 2\nmerge_alpha = 0.5\nqsr_alpha = 0.01\n"
            '[aggregation]\nrule = "trimmed_mean"\ntrim = 0.2\n[data]\ncorpus = "x"\n'
            "[inner_optimizer]\nlearning_rate = 3e-3\n"
        )

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        """Another value for a key, another key, or a line twice."""
        rows = data.split(b"\n")
        at = rng.randrange(len(rows))
        key, equals, value = rows[at].partition(b"=")
        match rng.randrange(6):
            case 0:
                rows[at:at] = [rows[at]] * rng.choice((1, 2, 5000))
            case 1:
                rows[at] = mutations.damaged(rng, key, other) + equals + value
            case _:
                rows[at] = key + equals + rng.choice(_TOML_VALUES)
        return b"\n".join(rows)

    def feed(self, data: bytes) -> Manifest:
        return read_manifest(self.put(data))

    def is_right(self, data: bytes, made: Manifest) -> bool:
        return Manifest.from_bytes(made.to_bytes()) == made


_TOML_VALUES = (
    b" 1", b" -1", b" 0", b" 0.5", b" nan", b" inf", b" 1e999", b" 5e-324", b" true", b' ""',
    b" " + b"9" * 5000, b" 0x" + b"f" * 5000, b" 9223372036854775807", b" 2147483647", b" []",
    b" {}", b" {a = 1}", b" 2026-13-41", b" 2026-01-01T25:00:00", b' "\\ud800"', b' "\\U0011ffff"',
    b" " + b"[" * 5000, b" '''x", b' "elastic"', b' "lockstep"', b' "median"', b" 1_000",
)  # fmt: skip


class Recorded(Folder):
    """metrics.jsonl: nobody vouches for it, and three commands read it."""

    file = METRICS_FILE
    structured = staticmethod(mutations.lines)

    def write_sample(self) -> None:
        records: list[dict[str, Any]] = [{**record} for record in one_peer()]
        seen = {"digest": CHAIN[2][0].digest, "ready_s": 0.25, "exchange_s": 1.5}
        records.append({"t": 1.0, "kind": "round", "round": 2, "empty": False, **seen})
        with Metrics(self.path) as metrics:
            for record in records:
                kind = record.pop("kind")
                del record["t"]
                metrics.write(kind, **record)


class ReportedMetrics(Recorded):
    """`diloco-peer report`."""

    name = "metrics-report"

    def feed(self, data: bytes) -> str:
        summary = summarize([self.put(data)])
        return words(summary) + str(asdict(summary))


class AppendedMetrics(Recorded):
    """A peer that is started again."""

    name = "metrics-append"
    share = 0.3

    def __init__(self) -> None:
        super().__init__()
        killed = self.samples[0].rstrip(b"\n")
        self.samples = [*self.samples, killed]

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        """What counts is the last line."""
        head, _, last = data.rstrip(b"\n").rpartition(b"\n")
        return head + b"\n" + mutations.json_text(rng, last, other)

    def feed(self, data: bytes) -> bool:
        with Metrics(self.put(data)) as metrics:
            is_written = metrics.write("start", again=True)
        assert self.path.read_bytes().endswith(b"}\n")
        return is_written


class LoggedMetrics(Recorded):
    """`diloco-peer log --dir`: it tells of the log, whatever the record says."""

    name = "metrics-log"
    share = 0.1

    def write_sample(self) -> None:
        super().write_sample()
        disk = FolderDisk(self._folder / STATE_FOLDER)
        book = chains.open_book(disk)
        for entry, parts in CHAIN:
            book.append(decide(entry, NAMES[:2], RUN), parts)
        remembered = RunFile(disk)
        remembered.remember_run(MANIFEST, signed_genesis())
        remembered.remember_peers([contact("anna", RUN)])

    def feed(self, data: bytes) -> str:
        self.put(data)
        shown = io.StringIO()
        for as_json in (False, True):
            show_directory(self._folder, 20, as_json, Console(file=shown, width=150))
        assert shown.getvalue().count(CHAIN[2][0].digest[:6]) >= 2
        return shown.getvalue()


TARGETS: list[Callable[[], Target]] = [
    CursorFile,
    KeyFile,
    ManifestToml,
    ReportedMetrics,
    AppendedMetrics,
    LoggedMetrics,
]
