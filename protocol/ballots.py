"""What an acceptor must never forget: its journal, as a value."""

from dataclasses import dataclass
from typing import Any, Self

from protocol.log import Entry

NO_BALLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballots:
    """What one acceptor has promised and accepted in one round; what its journal holds."""

    round: int
    parent: str
    """Digest of the entry before: it and the round name the instance of consensus."""
    promised: int = NO_BALLOT
    accepted_ballot: int = NO_BALLOT
    accepted: Entry | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "parent": self.parent,
            "promised": self.promised,
            "accepted_ballot": self.accepted_ballot,
            "accepted": self.accepted and self.accepted.to_json(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        accepted = raw["accepted"]
        return cls(
            round=int(raw["round"]),
            parent=str(raw["parent"]),
            promised=int(raw["promised"]),
            accepted_ballot=int(raw["accepted_ballot"]),
            accepted=None if accepted is None else Entry.from_json(accepted),
        )
