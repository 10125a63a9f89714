"""The command line that the peers of all rivals have, and how they begin together."""

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.wan.diary import Diary
from benchmarks.wan.work import Training
from protocol.manifest import Manifest


class Peer:
    """One process of a rival, told what to do on its command line."""

    def __init__(self, description: str) -> None:
        parser = argparse.ArgumentParser(description=description.partition("\n")[0])
        for name in ("manifest", "dir", "go"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        parser.add_argument("--number", type=int, required=True, help="of this peer, from 0")
        parser.add_argument("--address", required=True, help="of this host")
        parser.add_argument("--first", required=True, help="address of the host of peer 0")
        parser.add_argument("--setting", required=True)
        parser.add_argument("--batches-of", required=True, help="peer_id that draws the same")
        parser.add_argument("--meet", default="", help="where the others are found")
        parser.add_argument("--emulated", action="store_true", help="the inner steps")
        parser.add_argument("--rounds-off", action="store_true", help="average nothing")
        arguments = parser.parse_args()
        torch.set_num_threads(1)
        # Python's own way out: blocks are left, and what a library has started is ended.
        signal.signal(signal.SIGTERM, _leave)
        self.manifest = Manifest.from_toml(arguments.manifest.read_text(encoding="utf-8"))
        self.number: int = arguments.number
        self.address: str = arguments.address
        self.first: str = arguments.first
        self.setting: str = arguments.setting
        self.meet: str = arguments.meet
        self.emulated: bool = arguments.emulated
        self.rounds_off: bool = arguments.rounds_off
        self._go: Path = arguments.go
        self.training = Training(self.manifest, self.number, arguments.batches_of, self.emulated)
        keeps_snapshots = not self.emulated and self.number == 0
        self.diary = Diary(arguments.dir, keeps_snapshots)

    def train(self, step: Callable[[], None]) -> None:
        """When all are there, step after step until this process is ended."""
        print("ready", flush=True)
        while not self._go.exists():
            time.sleep(0.02)
        while True:
            step()
            self.diary.stepped(self.training.steps)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
