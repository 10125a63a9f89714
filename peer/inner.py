"""The inner optimizer: AdamW on this replica's own batches, one step at a time."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from peer.model import GPT
from peer.model import loss as loss_of
from peer.tensors import Array
from protocol.manifest import Manifest


class InnerOptimizer:
    """Local AdamW with the manifest's hyperparameters. A merge never touches its state."""

    def __init__(self, manifest: Manifest, model: GPT) -> None:
        inner = manifest.inner_optimizer
        self.updating = threading.Lock()
        """Held while the parameters change: the short end of a step, whose gradients take long."""
        self.updates = 0
        """Inner steps that are in the parameters. Changes with them, so read it under the lock."""
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

    def save(self) -> dict[str, Array]:
        """AdamW's step count and moments for each parameter, as arrays of their own."""
        state = self._adamw.state_dict()["state"]
        return {
            f"adamw/{place}/{name}": value.detach().to("cpu", copy=True).numpy()
            for place, values in state.items()
            for name, value in values.items()
        }

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Go on with what `save` gave; raises ValueError when it is of another model."""
        raw = self._adamw.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, array in saved.items():
            kind, _, rest = key.partition("/")
            if kind == "adamw":
                place, _, name = rest.partition("/")
                state.setdefault(int(place), {})[name] = torch.from_numpy(array.copy())
        parameters = list(self._model.parameters())
        shapes = {place: parameter.shape for place, parameter in enumerate(parameters)}
        if any(values["exp_avg"].shape != shapes.get(place) for place, values in state.items()):
            raise ValueError("the moments are of another model")
        self._adamw.load_state_dict({**raw, "state": state})

    @contextmanager
    def update(self) -> Iterator[None]:
        """Around the end of a step, in which the parameters change: nobody reads them meanwhile."""
        with self.updating:
            yield
            self.updates += 1

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
        loss_value = loss.item()
        with self.update():
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return loss_value


MakeInnerOptimizer: TypeAlias = Callable[[Manifest, GPT], InnerOptimizer]
"""How a peer gets its own; benchmarks put an emulated accelerator here."""
