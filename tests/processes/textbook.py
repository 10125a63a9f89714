"""Textbook Streaming DiLoCo in one process: what real peers in lockstep mode must equal to the bit.

A second implementation of docs/protocol.md on purpose: of the product it uses the model, the data
and the parsed manifest, and nothing else. Lines quoted in comments are those of Algorithm 2,
arXiv 2501.18512.
"""

from collections.abc import Sequence

import numpy as np
import torch

from peer.data import Corpus
from peer.model import build_model, loss
from protocol.manifest import Manifest


class Replica:
    """One worker: a model, its inner optimizer and its own stream of batches."""

    def __init__(self, manifest: Manifest, corpus: Corpus, peer_id: str) -> None:
        self.manifest, self.corpus, self.peer_id = manifest, corpus, peer_id
        self.model = build_model(manifest)
        self.params = dict(self.model.named_parameters())
        inner = manifest.inner_optimizer
        self.inner_optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=inner.learning_rate,
            betas=(inner.beta1, inner.beta2),
            eps=inner.epsilon,
            weight_decay=inner.weight_decay,
            foreach=False,
            fused=False,
        )

    def inner_step(self, t: int) -> None:
        manifest = self.manifest
        for group in self.inner_optimizer.param_groups:
            group["lr"] = manifest.inner_learning_rate(t - 1)
        # Line 3: x ~ D_m. Line 4: L <- f(x, theta_m). Line 5: theta_m <- InnerOpt(theta_m, grad L).
        inputs, targets = self.corpus.batch(manifest.seed, self.peer_id, t - 1)
        loss(self.model, inputs, targets).backward()
        clip = manifest.inner_optimizer.gradient_clip
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip, foreach=False)
        self.inner_optimizer.step()
        self.inner_optimizer.zero_grad(set_to_none=True)

    def read(self, names: Sequence[str]) -> np.ndarray:
        flat = [self.params[name].detach().reshape(-1) for name in names]
        return torch.cat(flat).numpy().copy()

    def write(self, names: Sequence[str], values: np.ndarray) -> None:
        sizes = [self.params[name].numel() for name in names]
        with torch.no_grad():
            for name, piece in zip(names, torch.from_numpy(values).split(sizes), strict=True):
                self.params[name].copy_(piece.view_as(self.params[name]))


def quantize(codec: str, values: np.ndarray) -> np.ndarray:
    """Q of one part: what arrives at the other end of the wire."""
    if codec == "fp32":
        return values
    if codec == "bf16":
        largest = torch.finfo(torch.bfloat16).max
        return torch.from_numpy(values).bfloat16().float().clamp(-largest, largest).numpy()
    assert codec == "e3m0"
    # |x| = mantissa * 2^exponent with mantissa in [0.5, 1): from 0.75 up, 2^exponent is nearest.
    mantissa, exponent = np.frexp(np.abs(values))
    nearest = np.where(mantissa >= 0.75, exponent, exponent - 1)
    if not (np.abs(values) >= 2.0**-126).any():
        return np.zeros_like(values)
    e = int(np.clip(nearest[values != 0].max(), -119, 127))
    power = np.ldexp(np.float32(1), np.clip(nearest, e - 6, e))
    quantized = np.where(np.abs(values) < 2.0 ** (e - 7), np.float32(0), power)
    return np.where(values < 0, 0 - quantized, quantized)


def train(
    manifest: Manifest,
    peer_ids: Sequence[str],
    fragments: Sequence[Sequence[str]],
    part_bounds: Sequence[Sequence[tuple[int, int]]],
    total_steps: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train all replicas, drain; return (global_params, momentum), fp32 and flat, per fragment.

    Args:
        peer_ids: sorted.
        fragments: tensor names of each fragment, in the order of its flat form.
        part_bounds: (start, stop) of each part of each fragment.
    """
    torch.set_num_threads(1)
    H, P, tau = manifest.sync.sync_every, len(fragments), manifest.sync.sync_delay_steps
    codec, alpha = manifest.sync.codec, np.float32(manifest.sync.merge_alpha)
    eta = np.float32(manifest.outer_optimizer.learning_rate)
    mu = np.float32(manifest.outer_optimizer.momentum)
    corpus = Corpus.load(manifest)
    replicas = [Replica(manifest, corpus, peer_id) for peer_id in peer_ids]
    theta = [replicas[0].read(names) for names in fragments]
    momentum = [np.zeros_like(values) for values in theta]
    in_flight: list[tuple[int, int, np.ndarray]] = []  # (step to apply at, fragment_id, Delta_p)

    def quantize_parts(p: int, values: np.ndarray) -> np.ndarray:
        return np.concatenate([quantize(codec, values[i:j]) for i, j in part_bounds[p]])

    def send(t: int, p: int) -> None:
        # Line 7: Delta_{m,p} <- theta_p^(t-H) - theta_{m,p}^(t)
        deltas = [quantize_parts(p, theta[p] - m.read(fragments[p])) for m in replicas]
        # Line 8: Delta_p <- async-send[1/M sum_m Delta_{m,p}]
        total = deltas[0]
        for delta in deltas[1:]:
            total = total + delta
        in_flight.append((t + tau, p, quantize_parts(p, total / np.float32(len(replicas)))))

    def apply() -> None:
        # Line 11: block-receive[Delta_p^(t-tau)]
        _, p, delta = in_flight.pop(0)
        # Line 12: theta_p <- OuterOpt(theta_p^(t-H), Delta_p^(t-tau)): SGD with Nesterov momentum
        momentum[p] = mu * momentum[p] + delta
        theta[p] = theta[p] - eta * (delta + mu * momentum[p])
        # Line 13: theta_{m,p} <- alpha theta_{m,p} + (1 - alpha) theta_p
        for m in replicas:
            local = m.read(fragments[p])
            m.write(fragments[p], alpha * local + (np.float32(1) - alpha) * theta[p])

    rounds, sent_at = 0, dict.fromkeys(range(P), 0)
    for t in range(1, total_steps + 1):
        for m in replicas:
            m.inner_step(t)
        # Line 6: if exists p: (t - t_p) mod H = 0. The first, partial period is skipped.
        for p in range(P):
            t_p = p * (H // P)
            if t >= H + t_p and (t - t_p) % H == 0:
                send(t, p)
                rounds, sent_at[p] = rounds + 1, t
        # Line 10: if exists p: (t - t_p - tau) mod H = 0
        while in_flight and in_flight[0][0] == t:
            apply()
    while in_flight:
        apply()
    for round_ in range(rounds, rounds + P):  # not in the paper: what is still local drains
        if sent_at[round_ % P] < total_steps:  # else nobody trained since: no weight, no step
            send(total_steps, round_ % P)
            apply()
    return list(zip(theta, momentum, strict=True))
