"""What a peer that lies can do, by what it really sends. benchmarks/byzantine.py tries all of it.

Around an `Attack` everything is a peer like any other: it follows the protocol to the letter, since
whoever does not is refused, and lies about what nobody checks. Attackers of one run collude, and
know what the honest peers hold at the moment in which they are asked: more than any real ones can.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from peer.data import Corpus
from peer.replica import Replica
from protocol.codec import Values
from protocol.manifest import Manifest
from protocol.outer import pseudo_gradient


@dataclass
class Attack:
    """One attacker. Each method is something that a peer may lie about; here none is one.

    Values are those before encoding: every byte string that others take is the encoding of some.
    """

    chance: np.random.Generator
    """Of its own."""
    attackers: int
    peers: int
    honest: Sequence[Replica] = field(default=(), init=False)
    """Those of the others that are."""

    def batch(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What it trains on, int64 (B, T) each."""
        return inputs, targets

    def contribution(self, fragment_id: int, own: Values) -> Values:
        """What it contributes to the average of a fragment; `own`: its pseudo-gradient, flat."""
        return own

    def average(self, average: Values) -> Values:
        """What it sends as the average of a part that it owns, instead of the right one."""
        return average

    def seen(self, fragment_id: int) -> Values:
        """The honest peers' pseudo-gradients now, shape (honest, values)."""
        return np.stack(
            [
                pseudo_gradient(r.global_params[fragment_id], r.local_params(fragment_id))
                for r in self.honest
            ]
        )


class SignFlip(Attack):
    def contribution(self, fragment_id: int, own: Values) -> Values:
        return -own


class LoudSignFlip(Attack):
    def contribution(self, fragment_id: int, own: Values) -> Values:
        return -10 * own


class Noise(Attack):
    """Normal, ten times as long as what an honest peer sends."""

    def contribution(self, fragment_id: int, own: Values) -> Values:
        noise = self.chance.standard_normal(own.size, dtype=np.float32)
        return noise * (10 * _root_mean_square(own))


class Scaled(Attack):
    def contribution(self, fragment_id: int, own: Values) -> Values:
        return 100 * own


class Constant(Attack):
    """The same number everywhere and in every round, ten times the usual size."""

    def contribution(self, fragment_id: int, own: Values) -> Values:
        return np.full_like(own, 10 * _root_mean_square(own))


class ALittle(Attack):
    """Just so far from the honest mean that enough of the honest are further (arXiv 1902.06156).

    With n peers, m attackers and s = floor(n / 2 + 1) - m, z is the largest with which s of the
    honest are expected to be beyond it, value by value. With few attackers it is negative: then
    they hide in the mean itself.
    """

    @property
    def z(self) -> float:
        needed = self.peers // 2 + 1 - self.attackers
        honest = self.peers - self.attackers
        return max(0.0, NormalDist().inv_cdf((honest - needed) / honest))

    def contribution(self, fragment_id: int, own: Values) -> Values:
        seen = self.seen(fragment_id)
        lie: Values = seen.mean(axis=0) - np.float32(self.z) * seen.std(axis=0)
        return lie


class InnerProduct(Attack):
    """Half of the honest mean, backwards (arXiv 1903.03936): what is averaged still points forward
    and hardly moves. No liar is further from the honest than they are from each other."""

    def contribution(self, fragment_id: int, own: Values) -> Values:
        lie: Values = np.float32(-0.5) * self.seen(fragment_id).mean(axis=0)
        return lie


@dataclass
class Replay(Attack):
    """What it moved in its first cycle, again and again."""

    first: dict[int, Values] = field(default_factory=dict, init=False)

    def contribution(self, fragment_id: int, own: Values) -> Values:
        return self.first.setdefault(fragment_id, own)


class FlippedLabels(Attack):
    """Honest training on wrong targets: bytes are permuted, for all attackers alike."""

    def batch(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, FLIPPED[targets]


class FalseOwner(Attack):
    """Contributes honestly, and turns the averages of its own parts around."""

    def average(self, average: Values) -> Values:
        return -average


FLIPPED = torch.from_numpy(np.random.default_rng(0).permutation(256))
ATTACKS: dict[str, type[Attack]] = {
    "sign flip": SignFlip,
    "sign flip x10": LoudSignFlip,
    "noise": Noise,
    "scaled x100": Scaled,
    "constant": Constant,
    "a little": ALittle,
    "inner product": InnerProduct,
    "stale replay": Replay,
    "flipped labels": FlippedLabels,
    "false owner": FalseOwner,
}


def _root_mean_square(values: Values) -> np.float32:
    return np.float32(np.linalg.norm(values) / sqrt(values.size))


# --- a peer that attacks ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LyingCorpus(Corpus):
    """An attacker's text."""

    attack: Attack

    @classmethod
    def of(cls, corpus: Corpus, attack: Attack) -> "LyingCorpus":
        sizes = (corpus.batch_sequences, corpus.context)
        return cls(corpus.training, corpus.heldout, *sizes, attack)

    def batch(self, seed: int, peer_id: str, cursor: int) -> tuple[Tensor, Tensor]:
        return self.attack.batch(*super().batch(seed, peer_id, cursor))


class LyingReplica(Replica):
    """An attacker's copy of the model: right about the shared state, or it would be set apart."""

    def __init__(self, manifest: Manifest, device: torch.device, attack: Attack) -> None:
        super().__init__(manifest, device)
        self._attack = attack

    def encode(self, fragment_id: int, local_params: Values) -> tuple[bytes, ...]:
        global_params = self.global_params[fragment_id]
        lie = self._attack.contribution(fragment_id, pseudo_gradient(global_params, local_params))
        return super().encode(fragment_id, global_params - lie)

    def average(self, contributions: Sequence[bytes], tokens: Sequence[int], values: int) -> bytes:
        codec = self._manifest.codec
        average = codec.decode(super().average(contributions, tokens, values), values)
        return codec.encode(self._attack.average(average))
