"""What makes a checkpoint of files: its entry, and the names of the states that it put together."""

import json
from dataclasses import dataclass
from typing import Any, Self

from protocol.digest import canonical, digest
from protocol.log import Entry
from protocol.messages import Decided
from protocol.state import FragmentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the file of one checkpoint says; the file carries its own digest."""

    run_id: str
    round: int
    decided: Decided | None
    fragments: tuple[FragmentState, ...]
    private: str
    """Digest of the private file; empty: none."""
    facts: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Raises ValueError or TypeError when the facts are not plain finite JSON."""
        decided = self.decided
        body = {
            "run_id": self.run_id,
            "round": self.round,
            "entry": decided and decided.entry.to_json(),
            "accepted_by": decided and list(decided.accepted_by),
            "fragments": [[f.values, f.version, f.root] for f in self.fragments],
            "private": self.private,
            "facts": self.facts,
        }
        return canonical({"checkpoint": body, "digest": digest(canonical(body))})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError, TypeError, KeyError or RecursionError when it is damaged."""
        file = json.loads(data)
        body = file["checkpoint"]
        if digest(canonical(body)) != file["digest"]:
            raise ValueError("the digest does not fit")
        return cls(
            run_id=body["run_id"],
            round=body["round"],
            decided=_decided(body),
            fragments=tuple(
                FragmentState(values=values, version=version, root=root)
                for values, version, root in body["fragments"]
            ),
            private=body["private"],
            facts=body["facts"],
        )


def _decided(body: dict[str, Any]) -> Decided | None:
    if body["entry"] is None:
        return None
    entry = Entry.from_json(body["entry"])
    return Decided(round=entry.round, entry=entry, accepted_by=tuple(body["accepted_by"]))
