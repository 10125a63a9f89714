"""Held-out loss of global_params: the figure that a run is judged by.

global_params are evaluated and not a live replica: they are better (arXiv 2501.18512, section 3.5:
2.67 against 2.77) and the same on every peer.
"""

import torch

from peer.data import Corpus
from peer.model import GPT, build_model
from peer.model import loss as loss_of
from peer.replica import Replica
from protocol.manifest import Manifest


class Evaluator:
    """Evaluates on a model of its own, so that the replica in training is not touched."""

    def __init__(self, manifest: Manifest, corpus: Corpus, device: torch.device) -> None:
        self._corpus = corpus
        self._device = device
        self._model: GPT = build_model(manifest).to(device)

    def loss_of_replica(self, replica: Replica, batches: int) -> float:
        """Mean cross entropy in nats per token over `batches` held-out batches."""
        replica.load_global_into(self._model)
        return heldout_loss(self._model, self._corpus, batches, self._device)


def heldout_loss(model: GPT, corpus: Corpus, batches: int, device: torch.device) -> float:
    """Mean cross entropy in nats per token of `model` over `batches` held-out batches."""
    model.eval()
    with torch.no_grad():
        losses = [
            loss_of(model, inputs.to(device), targets.to(device)).item()
            for inputs, targets in corpus.heldout_batches(batches)
        ]
    return sum(losses) / len(losses)
