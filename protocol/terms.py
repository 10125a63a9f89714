"""What the state machines need to know of a run: its manifest, and how the model is cut."""

from dataclasses import dataclass

from protocol.codec import Codec
from protocol.manifest import Limits
from protocol.schedule import Schedule
from protocol.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Fixed for a run, and the same on every peer."""

    tally: Tally
    schedule: Schedule
    part_values: tuple[tuple[int, ...], ...]
    """For each fragment the number of values in each of its parts."""
    codec: Codec
    limits: Limits
    lockstep: bool
    audits: float = 0.0
    """Parts that each member recomputes per round, on average."""

    @property
    def run_id(self) -> str:
        return self.tally.run_id

    def parts_of(self, round_: int) -> tuple[int, ...]:
        """Values in each part of the fragment of a round."""
        return self.part_values[self.schedule.fragment_of(round_)]
