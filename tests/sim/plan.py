"""What all peers of a simulated run agree on: a manifest of a few values."""

from dataclasses import dataclass, field

from protocol.codec import Codec, codec_named
from protocol.digest import digest
from protocol.log import Genesis, Head, QuorumRule
from protocol.manifest import Aggregation, Limits
from protocol.schedule import Schedule
from protocol.tally import Tally
from protocol.terms import Terms
from tests.sim.keys import tally_of

TOKENS_PER_STEP = 8

# Short waits: many rounds fit into a minute of virtual time.
LIMITS = Limits(
    round_deadline_s=10.0,
    grace_s=1.0,
    takeover_s=1.0,
    suspect_after_s=2.5,
    lonely_after_s=10.0,
    checkpoint_rounds=4,
)


def incarnation_at_genesis(peer_id: str) -> str:
    return f"{peer_id}-0"


UNLIMITED = Aggregation(max_weight=1e12)
"""The plain weighted mean, whatever the tokens and the few values of a part are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Two fragments, small enough to read and large enough that everybody owns a part."""

    peer_ids: tuple[str, ...]
    run_id: str = "run"
    codec: Codec = field(default_factory=lambda: codec_named("e3m0"))
    aggregation: Aggregation = UNLIMITED
    quorum: QuorumRule = "majority"
    limits: Limits = LIMITS
    lockstep: bool = False
    audits: float = 0.0
    part_values: tuple[tuple[int, ...], ...] = ((4, 4, 3), (5, 5, 5))
    total_steps: int = 400
    log_bytes: int = 1 << 20
    """Of entries that a peer keeps; small ones make others take snapshots."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            sync_every=4, num_fragments=2, sync_delay_steps=1, total_steps=self.total_steps
        )

    @property
    def tally(self) -> Tally:
        return tally_of(self.run_id, self.quorum)

    @property
    def terms(self) -> Terms:
        return Terms(
            tally=self.tally,
            schedule=self.schedule,
            part_values=self.part_values,
            codec=self.codec,
            limits=self.limits,
            lockstep=self.lockstep,
            audits=self.audits,
        )

    @property
    def genesis(self) -> Genesis:
        return self._genesis("")

    def genesis_head(self, state: str = "") -> Head:
        """`state` is what a peer started from; a different one makes a different log."""
        return Head.of_genesis(self._genesis(state))

    def _genesis(self, state: str) -> Genesis:
        voters = tuple(sorted(self.peer_ids))
        return Genesis(
            run_id=self.run_id,
            founder=self.peer_ids[0],
            voters=voters,
            incarnations=tuple(map(incarnation_at_genesis, voters)),
            tie_breaker=self.peer_ids[0],
            state_digest=digest(state.encode()),
        )
