"""Held-out loss over time, from the shared parameters that were kept during a training.

They are evaluated afterwards, so that no system pays for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from peer.data import Corpus
from peer.evaluate import heldout_loss
from peer.model import build_model
from protocol.manifest import Manifest

BATCHES = 12
SEQUENCES = 16
"""In each of them."""
THREADS = 1


@dataclass(slots=True)
class Curve:
    """A loss in nats per byte at each of some times since training began."""

    times_s: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """Inner steps of a peer."""
    losses: list[float] = field(default_factory=list)

    def when(self, target: float) -> tuple[float, float] | None:
        """(seconds, steps) at which the loss first was that low, on a line between two points."""
        points = list(zip(self.times_s, self.steps, self.losses, strict=True))
        if points and points[0][2] <= target:
            return points[0][:2]
        for before, after in pairwise(points):
            if after[2] <= target:
                share = (before[2] - target) / (before[2] - after[2])
                return (
                    before[0] + share * (after[0] - before[0]),
                    before[1] + share * (after[1] - before[1]),
                )
        return None

    def at_step(self, step: float) -> float | None:
        """The loss after so many steps; None: the training did not come so far."""
        for before, after in pairwise(zip(self.steps, self.losses, strict=True)):
            if before[0] <= step <= after[0]:
                share = (step - before[0]) / (after[0] - before[0])
                return before[1] + share * (after[1] - before[1])
        return None


class Judge:
    """Evaluates on the manifest's held-out text."""

    def __init__(self, manifest: Manifest) -> None:
        self._model = build_model(manifest)
        data = manifest.data.model_copy(update={"batch_sequences": SEQUENCES})
        self._corpus = Corpus.load(manifest.model_copy(update={"data": data}))

    def curve(
        self, began_s: float, snapshots: Sequence[tuple[float, int, dict[str, Any]]]
    ) -> Curve:
        """
        Args:
            began_s: unix time.
            snapshots: (unix time, step, parameters by name), in order.
        """
        curve = Curve()
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        for t, step, arrays in snapshots:
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            self._model.load_state_dict(state)
            curve.times_s.append(t - began_s)
            curve.steps.append(step)
            loss = heldout_loss(self._model, self._corpus, BATCHES, torch.device("cpu"))
            curve.losses.append(loss)
        torch.set_num_threads(threads)
        return curve
