"""What all four systems train: model, text, and an inner step that is real or emulated.

Four real trainers of 10 M parameters do not fit on two cores. The emulated accelerator takes a
fixed wall time and next to no processor time, and then has moved the parameters, as a GPU beside
an idle processor would. Everything after the step is the real system, on the real network.

A real step computes its gradients, waits until it is as old as an emulated one, and then moves the
parameters. Without that, whichever system leaves most of the two cores to the four trainers would
be ahead, on every link: peers that each have a machine do not take processor time from each other.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from peer.data import Corpus
from peer.model import GPT, build_model
from peer.model import loss as loss_of
from protocol.manifest import Manifest

STEP_S = 0.1
"""Of an inner step, emulated or real."""
MOVE = 1e-4
"""How far an emulated step moves a parameter, about what AdamW does at usual learning rates."""
SLICES = 16
"""Each emulated step moves one of so many slices of the parameters, so many times as far: moving
all of them would cost more processor time than there is."""


_ALONE: AbstractContextManager[None] = nullcontext()


class Accelerator:
    """Stands in for a GPU: `step` takes STEP_S and then has moved the parameters.

    Every peer moves them its own way, half of it in common with the others.
    """

    def __init__(self, parameters: Iterable[Tensor], number: int, step_s: float = STEP_S) -> None:
        self._parameters = [parameter.detach().view(-1) for parameter in parameters]
        self._step_s = step_s
        self._steps = 0
        common, own = (torch.Generator().manual_seed(seed) for seed in (0, 1 + number))
        self.directions = [
            torch.randn(p.numel(), generator=common) + torch.randn(p.numel(), generator=own)
            for p in self._parameters
        ]

    def step(self, moving: AbstractContextManager[None] = _ALONE) -> None:
        end_s = time.monotonic() + self._step_s
        with moving:
            self.move()
        sleep_until(end_s)

    def move(self) -> None:
        """What a step does to the parameters."""
        place = self._steps % SLICES
        for parameter, direction in zip(self._parameters, self.directions, strict=True):
            size = parameter.numel()
            part = slice(size * place // SLICES, size * (place + 1) // SLICES)
            parameter[part].sub_(direction[part], alpha=MOVE * SLICES)
        self._steps += 1


class EmulatedOptimizer(torch.optim.Optimizer):
    """An accelerator as an inner optimizer, for systems that hook into one."""

    def __init__(self, parameters: Iterable[Tensor], number: int) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {})
        self._accelerator = Accelerator(parameters, number)

    def step(self, closure: Any = None) -> None:
        self._accelerator.step()


class Training:
    """Inner steps on a peer's own batches: AdamW as the manifest says, or emulated.

    `optimizer.step()` is what a DiLoCo system hooks into, real or emulated: what it does there
    comes after STEP_S. Data-parallel may use all of STEP_S to average its gradients.
    """

    def __init__(self, manifest: Manifest, number: int, batches_of: str, emulated: bool) -> None:
        """`batches_of`: the peer_id whose batches these are."""
        self.manifest = manifest
        self.model: GPT = build_model(manifest)
        self.module: nn.Module = self.model
        """What is called for the loss; a system may wrap it."""
        self.steps = 0
        self._batches_of = batches_of
        self.optimizer: torch.optim.Optimizer
        if emulated:
            self._corpus = None
            self.optimizer = EmulatedOptimizer(self.model.parameters(), number)
        else:
            self._corpus = Corpus.load(manifest)
            self.optimizer = _adamw(manifest, self.model)

    def step(self) -> None:
        self.steps += 1
        if self._corpus is None:
            self.optimizer.step()
            return
        end_s = time.monotonic() + STEP_S
        inputs, targets = self._corpus.batch(self.manifest.seed, self._batches_of, self.steps - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.manifest.inner_learning_rate(self.steps - 1)
        loss_of(self.module, inputs, targets).backward()
        clip = self.manifest.inner_optimizer.gradient_clip
        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        sleep_until(end_s)
        self.optimizer.step()
        # A DiLoCo system may have put the outer gradients there.
        self.optimizer.zero_grad(set_to_none=True)


class EmulatedBackward(nn.Module):
    """The accelerator for data-parallel training: gradients come one layer after the other.

    A third of the step is the forward pass; the backward pass ends with the first layer's
    gradients, so that what has come before can be on its way already.
    """

    def __init__(self, model: GPT, number: int) -> None:
        super().__init__()
        self.model = model
        parameters = list(model.parameters())
        self._accelerator = Accelerator(parameters, number)
        self.gradients = [
            direction.view_as(p)
            for p, direction in zip(parameters, self._accelerator.directions, strict=True)
        ]
        """Of this peer; whoever averages gradients does it in place, as with real ones."""
        gradient_of = dict(zip(parameters, self.gradients, strict=True))
        self._layers = [
            [(p, gradient_of[p]) for p in layer.parameters()] for layer in _layers(model)
        ]

    def forward(self) -> Tensor:
        sleep_until(time.monotonic() + STEP_S / 3)
        signal = torch.zeros((), requires_grad=True)
        backward_s = STEP_S * 2 / 3 / len(self._layers)
        for layer in self._layers:
            parameters, gradients = zip(*layer, strict=True)
            signal = _Backward.apply(signal, backward_s, gradients, *parameters)
        return signal

    def apply_gradients(self) -> None:
        """Move the parameters along the gradients, averaged or not, and forget these."""
        self._accelerator.move()
        for parameter in self.model.parameters():
            parameter.grad = None


class _Backward(torch.autograd.Function):
    """Hands a layer's gradients on after a while."""

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, backward_s: float, gradients: Sequence[Tensor], *layer: Tensor
    ) -> Tensor:
        ctx.backward_s, ctx.gradients = backward_s, gradients
        return signal.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Any, ...]:
        sleep_until(time.monotonic() + ctx.backward_s)
        # New views: autograd takes a gradient that nobody else holds as it is, without a copy.
        return (signal, None, None, *(gradient.view_as(gradient) for gradient in ctx.gradients))


def _layers(model: GPT) -> list[nn.Module]:
    return [model.embedding, *model.blocks, model.head]


def _adamw(manifest: Manifest, model: GPT) -> torch.optim.Optimizer:
    inner = manifest.inner_optimizer
    return torch.optim.AdamW(
        model.parameters(),
        lr=inner.learning_rate,
        betas=(inner.beta1, inner.beta2),
        eps=inner.epsilon,
        weight_decay=inner.weight_decay,
    )


def sleep_until(end_s: float) -> None:
    time.sleep(max(0.0, end_s - time.monotonic()))
