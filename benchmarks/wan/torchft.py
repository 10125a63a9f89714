"""torchft's Streaming DiLoCo: a lighthouse, and four replica groups of one process each.

Set up as its own example does it, with the manifest's fragments and H:
https://github.com/meta-pytorch/torchft/blob/main/train_diloco.py

Its timeouts of 10 s are raised: on the slowest links an allreduce takes longer than that.
Settings: `delay 5`, the example's fragment_sync_delay, one allreduce for each tensor; and `longest
delay`, all steps between two fragments, one allreduce for all tensors (use_bucketization).
`should_quantize` does nothing without Triton, that is, without a GPU, and its documentation says
not to use it with gloo.

This file is imported where torchft is not installed, and run where it is (`make torchft-venv`).
"""

import math
from datetime import timedelta
from typing import Any

import torch
from torch import nn
from torch.distributed import TCPStore

from benchmarks.recovery_swarms import (
    LIGHTHOUSE_OPTIONS,
    LIGHTHOUSE_PORT,
    torchft_version,
    with_hostname,
)
from benchmarks.wan.rival import Peer
from benchmarks.wan.system import ROOT, Rival, Setting
from peer.model import GPT, tensor_specs
from protocol.manifest import Manifest

TIMEOUT = timedelta(minutes=5)
EXAMPLE_DELAY_STEPS = 5
VENV = ROOT / ".venv-torchft"


class Torchft(Rival):
    name = "torchft"
    module = "benchmarks.wan.torchft"
    settings = (Setting("delay 5", tolerance=1e-5), Setting("longest delay", tolerance=1e-5))
    streams = True
    note = "fp32 on the wire: its fp8 needs Triton and NCCL, that is, GPUs"
    venv = VENV

    @property
    def python(self) -> str:
        return str(self.venv / "bin" / "python")

    @classmethod
    def version(cls) -> str:
        return torchft_version(cls.venv)

    def start_others(self) -> None:
        lighthouse = str(self.venv / "bin" / "torchft_lighthouse")
        self.processes.start("lighthouse", [lighthouse, *LIGHTHOUSE_OPTIONS])
        self._meet = f"http://{self.processes.address('lighthouse')}:{LIGHTHOUSE_PORT}"

    def command(self, number: int, name: str) -> list[str]:
        argv = [*super().command(number, name), "--meet", self._meet]
        return with_hostname(self.processes.address(name), argv)


def fragments_of(manifest: Manifest, model: GPT) -> list[nn.Module]:
    """The manifest's fragments, as modules that share the model's parameters."""
    parameters = dict(model.named_parameters())
    return [
        nn.ParameterList([parameters[tensor.name] for tensor in fragment.tensors])
        for fragment in manifest.fragments(tensor_specs(model))
    ]


def outer_optimizers_of(
    manifest: Manifest, fragments: list[nn.Module]
) -> list[torch.optim.Optimizer]:
    """The manifest's Nesterov SGD, once for each fragment."""
    outer = manifest.outer_optimizer
    return [
        torch.optim.SGD(
            fragment.parameters(), lr=outer.learning_rate, momentum=outer.momentum, nesterov=True
        )
        for fragment in fragments
    ]


def manager_options(
    number: int,
    lighthouse: str,
    store: TCPStore,
    model: GPT,
    inner_optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """What a replica group of one process gives its Manager, as the example does.

    All but what has a timeout: the recovery benchmark leaves those as they are in the example.
    """

    def state_dict() -> dict[str, object]:
        return {"model": model.state_dict(), "inner": inner_optimizer.state_dict()}

    def load_state_dict(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner_optimizer.load_state_dict(state["inner"])

    return {
        "use_async_quorum": False,
        "min_replica_size": 1,
        "load_state_dict": load_state_dict,
        "state_dict": state_dict,
        "replica_id": f"train_diloco_{number}",
        "lighthouse_addr": lighthouse,
        "store_addr": store.host,
        "store_port": store.port,
        "rank": 0,
        "world_size": 1,
        # Its documentation asks for this where all begin with the same values.
        "init_sync": False,
    }


def main() -> None:
    from torchft import Manager, ProcessGroupGloo
    from torchft.checkpointing.http_transport import HTTPTransport
    from torchft.local_sgd import DiLoCo

    peer = Peer(__doc__ or "")
    manifest, training, diary = peer.manifest, peer.training, peer.diary

    class RecordingManager(Manager):
        """Writes down every vote on a commit."""

        def should_commit(self, timeout: timedelta | None = None) -> bool:
            peers = self.num_participants()
            committed = bool(super().should_commit(timeout))
            if committed:
                diary.synced(training.steps, peers)
            else:
                diary.failed(training.steps, "voted down")
            return committed

    fragments = fragments_of(manifest, training.model)
    outer_optimizers = outer_optimizers_of(manifest, fragments)
    store = TCPStore(peer.address, 0, is_master=True, wait_for_workers=False)
    manager = RecordingManager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        timeout=TIMEOUT,
        quorum_timeout=TIMEOUT,
        checkpoint_transport=HTTPTransport(timeout=TIMEOUT, num_chunks=0),
        **manager_options(peer.number, peer.meet, store, training.model, training.optimizer),
    )
    is_example = peer.setting == Torchft.settings[0].name
    sync = manifest.sync
    longest_delay = sync.sync_every // sync.num_fragments - 1
    with DiLoCo(
        manager,
        fragments,
        training.optimizer,
        outer_optimizers,
        sync_every=sync.sync_every,
        backup_device=torch.device("cpu"),
        use_bucketization=not is_example,
        # One bucket for everything: with several, only the last one's result is used.
        bucket_cap_mb=None if is_example else bucket_mb(fragments),
        fragment_sync_delay=min(EXAMPLE_DELAY_STEPS, longest_delay)
        if is_example
        else longest_delay,
        fragment_update_alpha=sync.merge_alpha,
    ) as diloco:
        for fragment, optimizer in zip(diloco._fragments, outer_optimizers, strict=True):
            observe(fragment, optimizer, diary)

        def step() -> None:
            training.step()
            diary.keep(training.steps, global_parameters(training.model, diloco._fragments))

        peer.train(step)


def bucket_mb(fragments: list[nn.Module]) -> int:
    """Of a bucket that holds the largest fragment."""
    largest = max(sum(p.numel() * 4 for p in fragment.parameters()) for fragment in fragments)
    return math.ceil(largest / 2**20)


def observe(fragment: Any, optimizer: torch.optim.Optimizer, diary: Any) -> None:
    """Let the diary see what goes into a fragment's averaging, and what comes out of it."""
    average = fragment._average_grads

    def averaging() -> None:
        diary.sends(fragment._grads.values())
        average()

    fragment._average_grads = averaging
    parameters = optimizer.param_groups[0]["params"]
    optimizer.register_step_pre_hook(lambda *_: diary.receives([p.grad for p in parameters]))


def global_parameters(model: GPT, fragments: list[Any]) -> list[tuple[str, torch.Tensor]]:
    """What the replicas have in common, by the names that the model gives it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        (names[id(parameter)], fragment.original_parameters[place])
        for fragment in fragments
        for place, parameter in fragment._model_fragment.named_parameters()
    ]


if __name__ == "__main__":
    main()
