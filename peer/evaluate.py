"""Held-out loss of global_params: the figure that a run is judged by.

global_params are evaluated and not a live replica: they are better (arXiv 2501.18512, section 3.5:
2.67 against 2.77) and the same on every peer.
"""

from collections.abc import Coroutine
from typing import Any

import torch

from peer.board import Board
from peer.data import Corpus
from peer.metrics import Metrics
from peer.model import GPT, build_model
from peer.model import loss as loss_of
from peer.rounds import RoundDriver
from peer.threads import in_thread
from protocol.manifest import Manifest


class Evaluator:
    """Evaluates on a model of its own, so that the replica in training is not touched."""

    def __init__(
        self,
        manifest: Manifest,
        corpus: Corpus,
        device: torch.device,
        driver: RoundDriver,
        metrics: Metrics,
        board: Board,
    ) -> None:
        self._manifest = manifest
        self._corpus = corpus
        self._device = device
        self._driver = driver
        self._metrics = metrics
        self._board = board
        self._model: GPT | None = None

    def after_round(self, round_: int) -> Coroutine[Any, Any, None] | None:
        """Every so many rounds one voter evaluates, each in its turn, so that all pay alike."""
        member = self._driver.member
        voters = member.head.voters
        turn, due = divmod(round_ + 1, self._manifest.evaluation.every_rounds)
        if due or member.is_finished or voters[turn % len(voters)] != member.me:
            return None
        return self._evaluate_between_steps()

    async def _evaluate_between_steps(self) -> None:
        batches = self._manifest.evaluation.batches
        loss = await self._driver.trainer.at_boundary(lambda: self._loss(batches))
        self._note(loss, batches, final=False)

    async def evaluate_finally(self) -> None:
        """When the run is over."""
        batches = self._manifest.evaluation.final_batches
        self._note(await in_thread(self._loss, batches), batches, final=True)

    def _loss(self, batches: int) -> float:
        if self._model is None:
            # Here and not sooner: a large one takes long, and the rounds' event loop cannot wait.
            self._model = build_model(self._manifest).to(self._device)
        self._driver.replica.load_global_into(self._model)
        return heldout_loss(self._model, self._corpus, batches, self._device)

    def _note(self, loss: float, batches: int, final: bool) -> None:
        self._board.heldout_loss = loss
        self._metrics.write(
            "heldout",
            round=self._driver.member.head.round,
            tokens=round(self._driver.counts.committed_tokens),
            loss=loss,
            batches=batches,
            final=final,
        )


def heldout_loss(model: GPT, corpus: Corpus, batches: int, device: torch.device) -> float:
    """Mean cross entropy in nats per token of `model` over `batches` held-out batches."""
    model.eval()
    with torch.no_grad():
        losses = [
            loss_of(model, inputs.to(device), targets.to(device)).item()
            for inputs, targets in corpus.heldout_batches(batches)
        ]
    return sum(losses) / len(losses)
