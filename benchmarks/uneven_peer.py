"""A peer whose inner steps take a given time, as those of an accelerator of that speed would.

Everything else is peer.run.Peer as `diloco-peer join` makes it: AdamW on real text, rounds, codec
and gRPC. The step is computed, and the rest of its time waited for before its update, so that the
parameters change when the step ends.
"""

import argparse
import asyncio
import signal
import time
from pathlib import Path

from torch import Tensor

from peer.directory import claim
from peer.inner import InnerOptimizer
from peer.model import GPT
from peer.run import Peer
from peer.settings import Settings
from protocol.manifest import Manifest

SMOOTHING = 0.1


class Throttled(InnerOptimizer):
    """Inner steps of a fixed wall time; longer only where the processor needs longer."""

    def __init__(self, manifest: Manifest, model: GPT, step_s: float) -> None:
        super().__init__(manifest, model)
        self._step_s = step_s
        self._cost_s = 0.0
        self._due_s = 0.0

    def step(self, position: int, inputs: Tensor, targets: Tensor) -> float:
        # From the end of the step before: what comes between two steps is no longer a step.
        now_s = time.monotonic()
        if self._due_s < now_s:
            self._due_s = now_s + self._step_s
        time.sleep(max(0.0, self._due_s - now_s - self._cost_s))
        began_s = time.monotonic()
        loss = super().step(position, inputs, targets)
        self._cost_s += SMOOTHING * (time.monotonic() - began_s - self._cost_s)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s += self._step_s
        return loss


async def take_part(peer: Peer) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, peer.leave)
    await peer.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--manifest", type=Path, help="found this run")
    parser.add_argument("--initial-peers", help="join the run that is there")
    parser.add_argument("--step-s", type=float, required=True, help="time of an inner step")
    parser.add_argument("--cap-mbit", type=float, required=True, help="up and down")
    parser.add_argument("--insecure", action="store_true", help="speak plaintext")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    settings = Settings(
        directory=arguments.dir,
        manifest=arguments.manifest,
        initial_peers=(arguments.initial_peers,) if arguments.initial_peers else (),
        listen_host=host,
        listen_port=int(port),
        up_bytes_per_s=arguments.cap_mbit * 1e6 / 8,
        down_bytes_per_s=arguments.cap_mbit * 1e6 / 8,
        threads=1,
        plain=True,
        insecure=arguments.insecure,
    )

    def throttled(manifest: Manifest, model: GPT) -> InnerOptimizer:
        return Throttled(manifest, model, arguments.step_s)

    def say(line: str) -> None:
        print(line, flush=True)

    with claim(arguments.dir) as directory:
        asyncio.run(take_part(Peer(settings, directory, say, throttled)))


if __name__ == "__main__":
    main()
