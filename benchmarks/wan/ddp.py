"""torch DistributedDataParallel over gloo: all gradients in every step.

Set up as its own tutorial does it:
https://docs.pytorch.org/tutorials/intermediate/ddp_tutorial.html
and, for the setting bf16, with the communication hook that its documentation has for that:
https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html
"""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.wan.rival import Peer
from benchmarks.wan.system import PEERS, Rival, Setting
from benchmarks.wan.work import EmulatedBackward

PORT = 29400
TIMEOUT = timedelta(minutes=30)
"""The default of gloo: a step takes a minute on the slowest link."""


class DDP(Rival):
    name = "DDP"
    module = "benchmarks.wan.ddp"
    settings = (Setting("fp32", tolerance=1e-5), Setting("bf16", tolerance=2e-2))
    streams = False

    @classmethod
    def version(cls) -> str:
        return f"torch {torch.__version__}, gloo"


def in_bf16(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The hook of the documentation. DDP refuses it by its name where there is no CUDA, and gloo
    sums bf16 all the same."""
    return bf16_compress_hook(state, bucket)


def main() -> None:
    peer = Peer(__doc__ or "")
    training, diary = peer.training, peer.diary
    os.environ |= {"MASTER_ADDR": peer.first, "MASTER_PORT": str(PORT)}
    dist.init_process_group("gloo", rank=peer.number, world_size=PEERS, timeout=TIMEOUT)
    emulation = EmulatedBackward(training.model, peer.number) if peer.emulated else None
    # All begin with the same values: nobody has to send them around.
    module = DistributedDataParallel(emulation or training.model, init_sync=False)
    if peer.setting == "bf16":
        module.register_comm_hook(None, in_bf16)
    parameters = list(training.model.parameters())

    def gradients() -> list[torch.Tensor]:
        return [p.grad for p in parameters if p.grad is not None]

    def emulated_step() -> None:
        assert emulation is not None
        diary.sends(emulation.gradients)
        module().backward()
        diary.receives(gradients())
        emulation.apply_gradients()
        training.steps += 1

    def step() -> None:
        if emulation is None:
            training.step()
        else:
            emulated_step()
        diary.synced(training.steps, PEERS)
        diary.keep(training.steps, training.model.named_parameters())

    training.module = module
    if peer.rounds_off:
        with module.no_sync():
            peer.train(emulated_step)
    else:
        peer.train(step)


if __name__ == "__main__":
    main()
