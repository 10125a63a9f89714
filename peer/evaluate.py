"""Held-out loss of global_params: the figure that a run is judged by.

global_params are evaluated and not a live replica: they are better (arXiv 2501.18512, section 3.5:
2.67 against 2.77) and the same on every peer.
"""

from collections.abc import Coroutine, Sequence
from typing import Any

import torch

from peer.board import Board
from peer.data import Corpus
from peer.metrics import Metrics
from peer.model import GPT, build_model
from peer.model import loss as loss_of
from peer.replica import Replica
from peer.rounds import RoundDriver
from peer.threads import in_thread
from protocol.codec import Values
from protocol.manifest import Manifest


class Evaluator:
    """Evaluates on a model of its own, so that the replica in training is not touched."""

    def __init__(
        self,
        manifest: Manifest,
        corpus: Corpus,
        device: torch.device,
        metrics: Metrics,
        board: Board,
    ) -> None:
        self._manifest = manifest
        self._corpus = corpus
        self._device = device
        self._metrics = metrics
        self._board = board
        self._model: GPT = build_model(manifest).to(device)

    def after_round(self, driver: RoundDriver, round_: int) -> Coroutine[Any, Any, None] | None:
        """Every so many rounds one voter evaluates, each in its turn, so that all pay alike.

        An archive has nothing else to do, and evaluates every time.
        """
        member = driver.member
        voters = member.head.voters
        turn, due = divmod(round_ + 1, self._manifest.evaluation.every_rounds)
        is_mine = not member.trains or voters[turn % len(voters)] == member.me
        if due or member.is_finished or not is_mine:
            return None
        # As of this entry: the next one may be applied before the trainer's next boundary.
        tokens, global_params = _now(driver)
        return self._evaluate_between_steps(driver, round_, tokens, global_params)

    async def _evaluate_between_steps(
        self, driver: RoundDriver, round_: int, tokens: int, global_params: Sequence[Values]
    ) -> None:
        batches = self._manifest.evaluation.batches
        loss = await driver.trainer.at_boundary(
            lambda: self._loss(driver.replica, global_params, batches), changes=False
        )
        self._note(round_, tokens, loss, batches, final=False)

    async def evaluate_finally(self, driver: RoundDriver) -> None:
        """When the run is over."""
        batches = self._manifest.evaluation.final_batches
        round_ = driver.member.head.round
        tokens, global_params = _now(driver)
        loss = await in_thread(self._loss, driver.replica, global_params, batches)
        self._note(round_, tokens, loss, batches, final=True)

    def _loss(self, replica: Replica, global_params: Sequence[Values], batches: int) -> float:
        replica.load_into(self._model, global_params)
        return heldout_loss(self._model, self._corpus, batches, self._device)

    def _note(self, round_: int, tokens: int, loss: float, batches: int, final: bool) -> None:
        self._board.heldout_loss = loss
        self._metrics.write(
            "heldout",
            round=round_,
            tokens=tokens,
            loss=loss,
            batches=batches,
            final=final,
        )


def _now(driver: RoundDriver) -> tuple[int, Sequence[Values]]:
    """Tokens that the log has committed, and the global_params after them."""
    return round(driver.record.counts.committed_tokens), tuple(driver.replica.global_params)


def heldout_loss(model: GPT, corpus: Corpus, batches: int, device: torch.device) -> float:
    """Mean cross entropy in nats per token of `model` over `batches` held-out batches."""
    model.eval()
    with torch.no_grad():
        losses = [
            loss_of(model, inputs.to(device), targets.to(device)).item()
            for inputs, targets in corpus.heldout_batches(batches)
        ]
    return sum(losses) / len(losses)
