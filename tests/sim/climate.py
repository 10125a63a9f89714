"""What may happen in a scenario: a seed chooses among it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from protocol.log import QuorumRule

Lie: TypeAlias = Literal["", "averages", "accuses"]

DISASTERS = (
    "crash",
    "crash and come back",
    "crash and come back",
    "crash and come back without a disk",
    "crash of many",
    "crash of all",
    "crash in the middle of something",
    "crash in the middle of something",
    "crash while writing",
    "freeze",
    "partition",
    "partition",
    "partition",
    "partition that carries one way",
    "deaf link",
    "clogged link",
    "full disk",
    "leave",
    "leave and come back",
    "join",
    "join",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """Each tuple is chosen from; what stands in it twice is twice as likely."""

    peers: tuple[int, ...] = (1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 8)
    storm_s: float = 20.0
    """How long disasters begin."""
    longest_s: float = 9.0
    """How long one lasts at most."""
    most_disasters: int = 10
    disasters: tuple[str, ...] = DISASTERS
    delays_s: tuple[tuple[float, float], ...] = ((0.01, 0.03), (0.02, 0.2), (0.05, 0.8))
    """From, to; of one message."""
    losses: tuple[float, ...] = (0.0, 0.0, 0.01, 0.05)
    duplications: tuple[float, ...] = (0.0, 0.05, 0.3)
    corruptions: tuple[float, ...] = (0.0, 0.0, 0.01)
    bad_chunks: tuple[float, ...] = (0.0, 0.2)
    """Probability that a donor of a snapshot sends something damaged; also in the calm."""
    damage: float = 0.15
    """Probability that a file of a peer that crashed is not what it was."""
    quorums: tuple[QuorumRule, ...] = ("majority", "majority", "two_thirds")
    lies: tuple[int, ...] = (0, 4, 12)
    """How often somebody makes up votes or decisions."""
    liars: tuple[Lie, ...] = ("", "", "", "", "averages", "accuses")
    """What one peer of three or more does falsely; then the run has audits."""
    steps_s: tuple[float, ...] = (0.2, 0.3, 0.3, 0.5)
    """Length of an inner step."""
    lockstep: float = 0.05
    """Probability of lockstep mode, where nobody may be missing."""
    codecs: tuple[str, ...] = ("fp32", "bf16", "e3m0")
    total_steps: tuple[int, ...] = (16, 400, 400, 400)
    log_bytes: tuple[int, ...] = (1 << 20, 20_000, 20_000, 4_000)
    """Of entries that a peer keeps; with 4,000 bytes these are a few."""


TEMPERATE = Climate()
CROWDED = Climate(
    peers=(40,),
    storm_s=8.0,
    longest_s=6.0,
    steps_s=(1.0, 1.0, 1.5),
    lockstep=0.0,
    liars=("",),
    total_steps=(400,),
)
"""40 peers: shorter, and slower trainers, since everybody talks to everybody."""
