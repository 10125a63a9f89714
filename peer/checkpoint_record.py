"""What makes a checkpoint of files: its entry, and the names of the states that it put together."""

from dataclasses import dataclass
from typing import Any, Self

from peer.sealed import seal, unseal
from protocol.digest import is_digest
from protocol.log import GENESIS_ROUND
from protocol.messages import Decided, Step
from protocol.state import FragmentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the file of one checkpoint says."""

    run_id: str
    round: int
    decided: Decided | None
    fragments: tuple[FragmentState, ...]
    private: str
    """Digest of the private file; empty: none."""
    trail: tuple[Step, ...]
    """The entries up to this one as far as they are known, newest first; empty if they are not."""
    facts: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Raises ValueError or TypeError when the facts are not plain finite JSON."""
        return seal(
            {
                "run_id": self.run_id,
                "round": self.round,
                "decided": self.decided and self.decided.to_json(),
                "fragments": [[f.values, f.version, f.root] for f in self.fragments],
                "private": self.private,
                "trail": [[s.round, s.digest, s.term, s.committed] for s in self.trail],
                "facts": self.facts,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError when it is damaged, or was written by another version."""
        raw = unseal(data)
        try:
            decided = raw["decided"]
            record = cls(
                run_id=raw["run_id"],
                round=raw["round"],
                decided=None if decided is None else Decided.from_json(decided),
                fragments=tuple(
                    FragmentState(values=values, version=version, root=root)
                    for values, version, root in raw["fragments"]
                ),
                private=raw["private"],
                trail=tuple(
                    Step(round=round_, digest=digest, term=term, committed=committed)
                    for round_, digest, term, committed in raw["trail"]
                ),
                facts=raw["facts"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError("not a checkpoint") from error
        if not record._fits:
            raise ValueError("not a checkpoint")
        return record

    @property
    def _fits(self) -> bool:
        """Whether everything is of its type; names of files are made of some of it."""
        decided_round = self.decided.round if self.decided else GENESIS_ROUND
        accepted_by = self.decided.accepted_by if self.decided else ()
        counts = [self.round, *(n for f in self.fragments for n in (f.values, f.version))]
        counts += [n for step in self.trail for n in (step.round, step.term, step.committed)]
        texts = [self.run_id, self.private, *accepted_by, *(step.digest for step in self.trail)]
        return (
            all(type(count) is int and count >= GENESIS_ROUND for count in counts)
            and all(type(text) is str and text.isascii() for text in texts)
            and type(self.facts) is dict
            and self.round == decided_round
            and bool(self.fragments)
            and all(fragment.is_possible(self.round) for fragment in self.fragments)
            and (not self.private or is_digest(self.private))
        )
