"""How long an inner step of a run takes on this machine, before there is a run."""

import statistics
import time

import torch

from peer.inner import InnerOptimizer
from peer.model import build_model
from protocol.manifest import Manifest

WARM_UP_STEPS = 2
"""torch imports and allocates in the first ones."""
LEAST_STEPS, MOST_STEPS = 3, 50


def measure_step_s(manifest: Manifest, device: torch.device, patience_s: float = 5.0) -> float:
    """Median seconds of an inner step on random tokens, with nothing else going on.

    Args:
        patience_s: so long it goes on measuring, or for `LEAST_STEPS` if they take longer.
    """
    model = build_model(manifest).to(device)
    optimizer = InnerOptimizer(manifest, model)
    shape = (manifest.data.batch_sequences, manifest.model.context)
    tokens = torch.randint(manifest.tokenizer.vocabulary, shape).to(device)
    for _ in range(WARM_UP_STEPS):
        optimizer.step(0, tokens, tokens)
    took_s: list[float] = []
    until_s = time.monotonic() + patience_s
    while len(took_s) < LEAST_STEPS or (len(took_s) < MOST_STEPS and time.monotonic() < until_s):
        began_s = time.monotonic()
        # The loss that it returns is read from the device, so the step is over.
        optimizer.step(0, tokens, tokens)
        took_s.append(time.monotonic() - began_s)
    return statistics.median(took_s)
