"""The replicated log: entries, their digests, and where a peer stands in it.

DESIGN section 1: the shared state of a run is a deterministic state machine; entry 0 is the
founder's genesis, and each further entry says what one round did to one fragment.
"""

from dataclasses import dataclass
from typing import Any, Self

from protocol.digest import canonical, digest

GENESIS_ROUND = -1


@dataclass(frozen=True, slots=True)
class Part:
    """One averaged part of a committed round."""

    digest: str
    """Of the encoded mean: the bytes that everybody decodes and applies."""
    tokens: tuple[int, ...]
    """Weight of each of the entry's members in this part, in their order; 0 is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one round decided. Everybody applies it, or nobody does."""

    round: int
    fragment_id: int
    parent: str
    """Digest of the entry before."""
    planned_steps: int
    """What the round moves the schedule on by, full or empty."""
    members: tuple[str, ...]
    """The group that did the round, in peer_id order."""
    voters: tuple[str, ...]
    """Who decides the next entry (I4)."""
    tie_breaker: str
    """The voter whose side wins when exactly half of the voters agree."""
    parts: tuple[Part | None, ...]
    """None leaves its slice of global_params and momentum untouched (I2)."""
    missing: tuple[tuple[str, str], ...] = ()
    """(peer_id, why) of live or lately live peers that did not contribute."""
    reason: str = ""
    """Why the entry is empty, in words; empty for a full one."""

    @property
    def is_empty(self) -> bool:
        return all(part is None for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "fragment_id": self.fragment_id,
            "parent": self.parent,
            "planned_steps": self.planned_steps,
            "members": list(self.members),
            "voters": list(self.voters),
            "tie_breaker": self.tie_breaker,
            "parts": [
                part and {"digest": part.digest, "tokens": part.tokens} for part in self.parts
            ],
            "missing": [list(pair) for pair in self.missing],
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        return cls(
            round=_int(raw["round"]),
            fragment_id=_int(raw["fragment_id"]),
            parent=_str(raw["parent"]),
            planned_steps=_int(raw["planned_steps"]),
            members=tuple(map(_str, raw["members"])),
            voters=tuple(map(_str, raw["voters"])),
            tie_breaker=_str(raw["tie_breaker"]),
            parts=tuple(
                part and Part(_str(part["digest"]), tuple(map(_int, part["tokens"])))
                for part in raw["parts"]
            ),
            missing=tuple((_str(peer), _str(why)) for peer, why in raw["missing"]),
            reason=_str(raw["reason"]),
        )

    @property
    def digest(self) -> str:
        return digest(canonical(self.to_json()))

    def contributed_parts(self, peer_id: str) -> tuple[bool, ...]:
        """For each part whether `peer_id` is in its mean: merge there, rebase elsewhere."""
        if peer_id not in self.members:
            return (False,) * len(self.parts)
        position = self.members.index(peer_id)
        return tuple(part is not None and part.tokens[position] > 0 for part in self.parts)

    def missing_reasons(self) -> dict[str, str]:
        return dict(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """Entry 0: the founder names the first voters and the state that everybody starts from."""

    run_id: str
    founder: str
    voters: tuple[str, ...]
    tie_breaker: str
    state_digest: str
    """Of the initial global_params: a peer whose torch initializes differently must not start."""

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "founder": self.founder,
            "voters": list(self.voters),
            "tie_breaker": self.tie_breaker,
            "state_digest": self.state_digest,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        return cls(
            run_id=_str(raw["run_id"]),
            founder=_str(raw["founder"]),
            voters=tuple(map(_str, raw["voters"])),
            tie_breaker=_str(raw["tie_breaker"]),
            state_digest=_str(raw["state_digest"]),
        )

    def to_bytes(self) -> bytes:
        return canonical(self.to_json())

    @property
    def digest(self) -> str:
        return digest(self.to_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last entry that a peer holds, as far as the next round needs it."""

    round: int
    digest: str
    voters: tuple[str, ...]
    tie_breaker: str
    contributors: tuple[str, ...]
    """Peers that the next round expects first."""

    @classmethod
    def of_genesis(cls, genesis: Genesis) -> Self:
        return cls(
            round=GENESIS_ROUND,
            digest=genesis.digest,
            voters=genesis.voters,
            tie_breaker=genesis.tie_breaker,
            contributors=genesis.voters,
        )

    @classmethod
    def of_entry(cls, entry: Entry) -> Self:
        return cls(
            round=entry.round,
            digest=entry.digest,
            voters=entry.voters,
            tie_breaker=entry.tie_breaker,
            contributors=tuple(p for p in entry.members if any(entry.contributed_parts(p))),
        )


def is_quorum(peers: set[str], voters: tuple[str, ...], tie_breaker: str) -> bool:
    """More than half of the voters, or exactly half of them with the tie-breaker (I4).

    Two quorums always share a voter: two halves share the tie-breaker.
    """
    present = len(peers.intersection(voters))
    return 2 * present > len(voters) or (2 * present == len(voters) and tie_breaker in peers)


def coordinators(run_id: str, round_: int, voters: tuple[str, ...]) -> tuple[str, ...]:
    """The voters in rendezvous-hash order of (run, round): who leads, and who takes over."""
    return tuple(sorted(voters, key=lambda peer: digest(f"{run_id}/{round_}/{peer}".encode())))


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 512:
        raise TypeError("not a string of at most 512 characters")
    return value
