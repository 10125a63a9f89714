"""Entries, readies and rosters for tests, with every field that a test does not care about set."""

from collections.abc import Sequence

from protocol.digest import digest
from protocol.log import Entry, Genesis, Head, Part
from protocol.messages import Ready

DIGEST = digest(b"anything")


def entry(reason: str = "", **changed) -> Entry:
    fields = {
        "round": 0,
        "fragment_id": 0,
        "parent": DIGEST,
        "planned_steps": 4,
        "members": ("a", "b", "c"),
        "voters": ("a", "b", "c"),
        "tie_breaker": "a",
        "parts": (Part(DIGEST, (1, 2, 0)), None),
        "missing": (("d", "lost"),),
        "reason": reason,
    }
    return Entry(**fields | changed)


def genesis(voters: Sequence[str] = ("a", "b", "c"), **changed) -> Genesis:
    fields = {
        "run_id": DIGEST,
        "founder": voters[0],
        "voters": tuple(voters),
        "tie_breaker": voters[0],
        "state_digest": DIGEST,
    }
    return Genesis(**fields | changed)


def head(voters: Sequence[str] = ("a", "b", "c")) -> Head:
    return Head.of_genesis(genesis(voters))


def ready(**changed) -> Ready:
    fields = {
        "round": 0,
        "parent": head().digest,
        "state": "s",
        "tokens": 32,
        "pace_steps_per_s": 4.0,
        "up_bytes_per_s": 1000.0,
        "down_bytes_per_s": 1000.0,
        "overhead_s": 0.2,
    }
    return Ready(**fields | changed)
