"""What a swarm is compared with: the same model trained by one process, without any swarm.

With one peer's batches it is that peer alone; with the batches of all peers put together in every
step it is data-parallel training, which exchanges all gradients in every step.
"""

from collections.abc import Callable, Sequence

import torch

from peer.data import Corpus
from peer.evaluate import heldout_loss
from peer.inner import InnerOptimizer
from peer.model import build_model
from protocol.manifest import Manifest


def train_baseline(
    manifest: Manifest,
    corpus: Corpus,
    peer_ids: Sequence[str],
    progress: Callable[[int], None] = lambda step: None,
) -> float:
    """Train for manifest.total_steps on the CPU; returns the held-out loss in nats per token.

    Args:
        peer_ids: whose batches make up a step; the peers of a swarm saw the same ones.
    """
    model = build_model(manifest)
    optimizer = InnerOptimizer(manifest, model)
    for step in range(manifest.total_steps):
        batches = [corpus.batch(manifest.seed, peer_id, step) for peer_id in peer_ids]
        inputs = torch.cat([inputs for inputs, _ in batches])
        targets = torch.cat([targets for _, targets in batches])
        optimizer.step(step, inputs, targets)
        progress(step + 1)
    count = manifest.evaluation.final_batches
    return heldout_loss(model, corpus, count, torch.device("cpu"))
