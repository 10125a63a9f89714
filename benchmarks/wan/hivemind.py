"""DiLoCo over hivemind: one outer step over its DecentralizedAverager every H steps.

hivemind has no DiLoCo; OpenDiLoCo built one on it, and this does what that does:
https://github.com/PrimeIntellect-ai/OpenDiloco/blob/main/open_diloco/hivemind_diloco.py
(DiLoCoGradAverager: the group is sought ahead of time, everybody waits for the average)
https://learning-at-home.readthedocs.io/en/latest/modules/averaging.html

Different from it, to hivemind's advantage: its target_group_size is told, so that a group begins
once it is full and not after the whole of matchmaking_time; and the state is not averaged as well,
which OpenDiLoCo does with as many bytes again. So what lossy codecs leave different stays so.
Settings: `fp16`, as OpenDiLoCo was run, and `8 bit`, its uniform8bit. hivemind 1.1.12 cannot read
its own 8-bit tensors with numpy 2.4 (and still reports success); its development version can, and
that one line is taken over here (`read_8_bit`).
"""

import time
from importlib.metadata import version

import numpy as np
import torch

from benchmarks.wan.rival import Peer
from benchmarks.wan.system import PEERS, Rival, Setting

MATCHMAKING_S = 10.0
"""hivemind's default is 5, and OpenDiLoCo takes 15 for the internet. A group that is full does not
wait for it; with 5, one was seen to begin without the fourth peer on a busy machine."""
TIMEOUT_S = 300.0
PORT = 7000


class Hivemind(Rival):
    name = "hivemind"
    module = "benchmarks.wan.hivemind"
    # The 8-bit code covers three standard deviations and clips what is beyond.
    settings = (Setting("fp16", tolerance=2e-3), Setting("8 bit", tolerance=0.1))
    streams = False
    note = "no fragments; peers wait for the average"

    @classmethod
    def version(cls) -> str:
        return f"hivemind {version('hivemind')}"

    def command(self, number: int, name: str) -> list[str]:
        argv = super().command(number, name)
        if number:
            argv += ["--meet", self.processes.wait_for(self.names[0], r"(?m)^meet (\S+)$")[1]]
        return argv


def main() -> None:
    # Importing it takes seconds, and only a peer has to.
    from hivemind import DHT, DecentralizedAverager
    from hivemind.averaging.control import StepControl
    from hivemind.compression import Float16Compression, Uniform8BitQuantization
    from hivemind.utils import get_dht_time

    peer = Peer(__doc__ or "")
    manifest, training, diary = peer.manifest, peer.training, peer.diary
    if peer.setting == "8 bit":
        read_8_bit()
    dht = DHT(
        start=True,
        initial_peers=[peer.meet] if peer.meet else [],
        host_maddrs=[f"/ip4/{peer.address}/tcp/{PORT}"],
        # Nobody is behind a NAT here.
        use_relay=False,
        auto_nat=False,
        nat_port_map=False,
    )
    if not peer.meet:
        print(f"meet {dht.get_visible_maddrs()[0]}", flush=True)
    local = list(training.model.parameters())
    outer = [parameter.detach().clone().requires_grad_() for parameter in local]
    for parameter in outer:
        parameter.grad = torch.zeros_like(parameter)
    outer_optimizer = torch.optim.SGD(
        outer,
        lr=manifest.outer_optimizer.learning_rate,
        momentum=manifest.outer_optimizer.momentum,
        nesterov=True,
    )
    averager = DecentralizedAverager(
        averaged_tensors=[parameter.grad for parameter in outer],
        dht=dht,
        start=True,
        prefix="wan",
        target_group_size=PEERS,
        min_matchmaking_time=MATCHMAKING_S,
        compression=Float16Compression() if peer.setting == "fp16" else Uniform8BitQuantization(),
    )
    control: StepControl | None = None
    step_s = 0.0

    def step() -> None:
        nonlocal control, step_s
        began_s = time.monotonic()
        training.step()
        step_s += (time.monotonic() - began_s - step_s) / min(training.steps, 10)
        left = -training.steps % manifest.sync.sync_every
        left_s = left * step_s
        if control is None and left_s <= MATCHMAKING_S:
            control = averager.step(
                scheduled_time=get_dht_time() + max(left_s, 1.0),
                timeout=TIMEOUT_S,
                require_trigger=True,
                wait=False,
            )
        if left == 0:
            assert control is not None
            outer_step(control)
            control = None

    @torch.no_grad()
    def outer_step(control: StepControl) -> None:
        with averager.get_tensors() as averaged:
            for gradient, old, new in zip(averaged, outer, local, strict=True):
                gradient.copy_(old - new)
            diary.sends(averaged)
        control.allow_allreduce()
        group = control.result(TIMEOUT_S)
        if not group:
            diary.failed(training.steps, "no average")
            return
        with averager.get_tensors() as averaged:
            diary.receives(averaged)
            for parameter, gradient in zip(outer, averaged, strict=True):
                parameter.grad = gradient.clone()
        outer_optimizer.step()
        for old, new in zip(outer, local, strict=True):
            new.copy_(old)
        diary.synced(training.steps, len(group))
        names = (name for name, _ in training.model.named_parameters())
        diary.keep(training.steps, zip(names, outer, strict=True))

    try:
        peer.train(training.step if peer.rounds_off else step)
    finally:
        averager.shutdown()
        dht.shutdown()


def read_8_bit() -> None:
    """Let the 8-bit codes read their tables: numpy 2.4 makes no int of an array any more."""
    from hivemind.compression import quantization

    quantization.int = np.ndarray.item


if __name__ == "__main__":
    main()
