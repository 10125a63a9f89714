"""What an acceptor must never forget: its journal, as a value."""

from dataclasses import dataclass
from typing import Any, Self

from protocol.log import Entry, Head, json_int, json_text

NO_BALLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballots:
    """What one acceptor has promised and accepted in one round; what its journal holds."""

    round: int
    parent: str
    """Digest of the entry before: it and the round name the instance of consensus."""
    term: int = 0
    """Of the entry before. Terms and rounds only grow, so whatever came before is known to be over,
    even where the log has lost its end."""
    promised: int = NO_BALLOT
    accepted_ballot: int = NO_BALLOT
    accepted: Entry | None = None

    def allow(self, head: Head) -> bool:
        """Whether the acceptor may vote on what follows this entry.

        It remembers one instance: it may go on in that one, or in a later one. In an earlier one it
        may have voted, and has forgotten how.
        """
        if (head.term, head.round + 1) == (self.term, self.round):
            return head.digest == self.parent
        return (head.term, head.round + 1) > (self.term, self.round)

    def to_json(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "parent": self.parent,
            "term": self.term,
            "promised": self.promised,
            "accepted_ballot": self.accepted_ballot,
            "accepted": self.accepted and self.accepted.to_json(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        accepted = raw["accepted"]
        return cls(
            round=json_int(raw["round"]),
            parent=json_text(raw["parent"]),
            term=json_int(raw["term"]),
            promised=json_int(raw["promised"], lowest=NO_BALLOT),
            accepted_ballot=json_int(raw["accepted_ballot"], lowest=NO_BALLOT),
            accepted=None if accepted is None else Entry.from_json(accepted),
        )
