"""diloco-peer, set up as a person does it: caps as large as the link, and the manifest.

The peers are `peer.run.Peer`, as `diloco-peer join` makes it: trainer thread, rounds, codec and
gRPC are what they always are. Three things are added from outside: a key that every system takes
the batches of; an inner step takes as long as every system's, or is emulated
(benchmarks/wan/work.py); and samples of the averaged values, or the shared parameters, are written
down for whoever checks and evaluates them afterwards.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.processes import PORT, Record, Swarm
from benchmarks.wan.diary import Diary
from benchmarks.wan.keys import key_of
from benchmarks.wan.lab import Lab
from benchmarks.wan.system import ROOT, Setting, System, Task
from benchmarks.wan.work import STEP_S, Accelerator, sleep_until
from peer.directory import claim
from peer.identity import Identity
from peer.inner import InnerOptimizer
from peer.metrics import METRICS_FILE
from peer.model import GPT
from peer.replica import OuterStep, Replica
from peer.run import Peer
from peer.settings import Settings
from protocol.codec import Codec, Values
from protocol.log import Entry
from protocol.manifest import Manifest

LOOK_S = 0.1
PIECES = 16
"""Of a fragment; samples are taken from each."""
SEEN = "seen"
"""Folder of the diary, in the peer's own."""


class Ours(System):
    name = "diloco-peer"
    # E3M0 has one significant bit, and is applied on both legs.
    settings = (Setting("e3m0", tolerance=0.35),)
    streams = True
    is_planned = True

    def __init__(self, folder: Path, lab: Lab | None, task: Task) -> None:
        super().__init__(folder, lab, task)
        self.processes = self._swarm = _Swarm(folder, task, lab)
        self._seen = {name: Record(folder / name / SEEN / METRICS_FILE) for name in self.names}

    @classmethod
    def version(cls) -> str:
        return version("diloco-peer")

    def start(self) -> float:
        founder, *others = self.names
        self._swarm.found(founder)
        for name in others:
            self._swarm.join(name)
        self._swarm.wait_until(
            lambda: all(self.lines(name, "train_begin") for name in self.names),
            "training to begin",
            *self.names,
        )
        return max(self.lines(name, "train_begin")[0]["t"] for name in self.names)

    def steps(self, name: str) -> list[tuple[float, float]]:
        return [(line["t"], line["step"]) for line in self.lines(name, "steps")]

    def syncs(self, name: str) -> list[float]:
        return [line["t"] for line in self.lines(name, "round") if not line["empty"]]

    def has_trained(self, steps: int) -> bool:
        # The schedule goes by what the log has committed: a peer may have trained more than that.
        done = all(self.lines(name, "train_end") for name in self.names)
        return done or (self.task.emulated and super().has_trained(steps))

    def least_peers(self) -> int | None:
        rounds = [line for name in self.names for line in self.lines(name, "round")]
        return min((len(line["contributors"]) for line in rounds), default=None)

    def failures(self) -> int:
        return sum(line["empty"] for line in self.lines(self.names[0], "round"))

    def checks(self, name: str) -> dict[int, dict[str, Any]]:
        return {line["number"]: line for line in self._seen[name].lines("check")}


class _Swarm(Swarm):
    """Peers that run this module instead of the command line."""

    def __init__(self, folder: Path, task: Task, lab: Lab | None) -> None:
        super().__init__(folder, task.manifest, lab)
        self._task = task

    def _join(self, name: str, *flags: str) -> None:
        argv = [sys.executable, "-m", "benchmarks.wan.ours", "--dir", str(self.path(name))]
        argv += ["--listen", self.address(name), "--number", str(self.host(name))]
        argv += ["--seed", str(Manifest.from_toml(self._task.manifest).seed), *flags]
        if self._task.rate_mbit is not None:
            argv += ["--cap-mbit", str(self._task.rate_mbit)]
        if self._task.emulated:
            argv += ["--emulated"]
        self.start(name, argv, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


class TimedInner(InnerOptimizer):
    """A peer's AdamW, with a step that moves the parameters STEP_S after it began."""

    def step(self, position: int, inputs: Tensor, targets: Tensor) -> float:
        self._end_s = time.monotonic() + STEP_S
        return super().step(position, inputs, targets)

    @contextmanager
    def update(self) -> Iterator[None]:
        sleep_until(self._end_s)
        with super().update():
            yield


class EmulatedInner(InnerOptimizer):
    """The accelerator where a peer has its AdamW."""

    def __init__(self, manifest: Manifest, model: GPT, number: int) -> None:
        super().__init__(manifest, model)
        self._accelerator = Accelerator(model.parameters(), number)

    def step(self, position: int, inputs: Tensor, targets: Tensor) -> float:
        self._accelerator.step(self.update())
        return float("nan")


class Observer:
    """Writes down what a running peer averages, and now and then what the peers share."""

    def __init__(self, folder: Path, keeps_snapshots: bool) -> None:
        folder.mkdir()
        self._diary = Diary(folder, keeps_snapshots)

    async def watch(self, peer: Peer) -> None:
        board = peer.board
        while board.driver is None:
            await asyncio.sleep(LOOK_S)
        driver = board.driver
        replica, member = driver.replica, driver.member
        self._see_averages(replica, driver.share.manifest.codec)
        round_ = member.head.round
        while True:
            await asyncio.sleep(LOOK_S)
            if member.head.round != round_:
                round_ = member.head.round
                step = driver.trainer.progress.step
                named = replica.named(replica.global_params)
                self._diary.keep(step, ((n, torch.from_numpy(v)) for n, v in named.items()))

    def _see_averages(self, replica: Replica, codec: Codec) -> None:
        encode, outer_step = replica.encode, replica.outer_step

        def encoding(fragment_id: int, local_params: Values) -> tuple[bytes, ...]:
            if self._diary.is_looking:
                sent = replica.global_params[fragment_id] - local_params
                self._diary.sends(torch.from_numpy(sent).chunk(PIECES))
            return encode(fragment_id, local_params)

        def stepping(
            entry: Entry, parts: Sequence[bytes | None], contributed: Sequence[bool]
        ) -> OuterStep:
            bounds = replica.fragments[entry.fragment_id].part_bounds
            if self._diary.is_looking and None not in parts:
                mean = [
                    codec.decode(data, stop - start)
                    for (start, stop), data in zip(bounds, parts, strict=True)
                    if data is not None
                ]
                self._diary.receives(torch.from_numpy(np.concatenate(mean)).chunk(PIECES))
            self._diary.synced(0, len(entry.members))
            return outer_step(entry, parts, contributed)

        replica.encode, replica.outer_step = encoding, stepping  # type: ignore[method-assign]


async def take_part(peer: Peer, observer: Observer) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, peer.leave)
    watching = asyncio.create_task(observer.watch(peer))
    try:
        await peer.run()
    finally:
        watching.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="address of this host")
    parser.add_argument("--number", type=int, required=True, help="of this peer, from 0")
    parser.add_argument("--seed", type=int, required=True, help="of the run, and of the key")
    parser.add_argument("--manifest", type=Path, help="found this run")
    parser.add_argument("--initial-peers", help="join the run that is there")
    parser.add_argument("--cap-mbit", type=float)
    parser.add_argument("--emulated", action="store_true", help="the inner steps")
    arguments = parser.parse_args()
    cap = None if arguments.cap_mbit is None else arguments.cap_mbit * 1e6 / 8
    settings = Settings(
        directory=arguments.dir,
        manifest=arguments.manifest,
        initial_peers=(arguments.initial_peers,) if arguments.initial_peers else (),
        listen_host=arguments.listen,
        listen_port=PORT,
        up_bytes_per_s=cap,
        down_bytes_per_s=cap,
        threads=1,
        plain=True,
    )

    def emulated(manifest: Manifest, model: GPT) -> InnerOptimizer:
        return EmulatedInner(manifest, model, arguments.number)

    def say(line: str) -> None:
        print(line, flush=True)

    inner = emulated if arguments.emulated else TimedInner
    with claim(arguments.dir) as directory:
        Identity.keep(directory, key_of(arguments.seed, arguments.number))
        peer = Peer(settings, directory, say, inner)
        keeps_snapshots = not arguments.emulated and arguments.number == 0
        asyncio.run(take_part(peer, Observer(directory / SEEN, keeps_snapshots)))


if __name__ == "__main__":
    main()
