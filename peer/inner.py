"""The inner optimizer: AdamW on this replica's own batches, one step at a time."""

from typing import Any

import torch
from torch import Tensor

from peer.model import GPT
from peer.model import loss as loss_of
from protocol.manifest import Manifest


class InnerOptimizer:
    """Local AdamW with the manifest's hyperparameters. A merge never touches its state."""

    def __init__(self, manifest: Manifest, model: GPT) -> None:
        inner = manifest.inner_optimizer
        self._manifest = manifest
        self._model = model
        # Neither fused nor foreach: one tensor at a time gives the same bits on every machine.
        self._adamw = torch.optim.AdamW(
            model.parameters(),
            lr=inner.learning_rate,
            betas=(inner.beta1, inner.beta2),
            eps=inner.epsilon,
            weight_decay=inner.weight_decay,
            foreach=False,
            fused=False,
        )

    @property
    def learning_rate(self) -> float:
        return float(self._adamw.param_groups[0]["lr"])

    def state_of_parameters(self) -> list[dict[str, Any]]:
        """AdamW's step count and moments for each parameter."""
        return list(self._adamw.state.values())

    def step(self, position: int, inputs: Tensor, targets: Tensor) -> float:
        """One inner step at a position of the schedule; returns its loss in nats per token.

        Args:
            inputs, targets: int64 (B, T), on the model's device.
        """
        for group in self._adamw.param_groups:
            group["lr"] = self._manifest.inner_learning_rate(position)
        loss = loss_of(self._model, inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(
            self._model.parameters(), self._manifest.inner_optimizer.gradient_clip, foreach=False
        )
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return loss.item()
