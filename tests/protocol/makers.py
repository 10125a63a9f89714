"""Values for tests, with every field that a test does not care about set."""

from collections.abc import Iterable, Sequence

from protocol.codec import codec_named
from protocol.digest import digest
from protocol.log import Entry, Genesis, Head, Part, coordinators
from protocol.manifest import Limits
from protocol.messages import Heartbeat, Member, Ready, Roster, Step
from protocol.schedule import Schedule
from protocol.terms import Terms
from tests.sim.keys import tally_of

DIGEST = digest(b"anything")
ABC = ("a", "b", "c")
VALUES = (2, 2, 2)
"""In each part of either fragment."""
RUN = next(f"run {i}" for i in range(100) if coordinators(f"run {i}", 0, ABC) == ABC)
"""A run whose round 0 is led by a, then b, then c."""


def incarnations_of(peers: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{peer}-0" for peer in peers)


def entry(reason: str = "", **changed) -> Entry:
    fields = {
        "round": 0,
        "term": 0,
        "fragment_id": 0,
        "parent": DIGEST,
        "planned_steps": 4,
        "members": ABC,
        "voters": ABC,
        "tie_breaker": "a",
        "parts": (Part(DIGEST, (1, 2, 0)), None),
        "committed": 0,
        "missing": (("d", "lost"),),
        "reason": reason,
    }
    fields |= changed
    return Entry(**{"incarnations": incarnations_of(fields["voters"])} | fields)


def genesis(voters: Sequence[str] = ABC, **changed) -> Genesis:
    fields = {
        "run_id": DIGEST,
        "founder": voters[0],
        "voters": tuple(voters),
        "incarnations": incarnations_of(voters),
        "tie_breaker": voters[0],
        "state_digest": DIGEST,
    }
    return Genesis(**fields | changed)


def head(voters: Sequence[str] = ABC) -> Head:
    return Head.of_genesis(genesis(voters))


def chain(count: int, *, voters: Sequence[str] = ABC, term: int = 0, name: str = "") -> list[Head]:
    """Genesis and the heads after so many empty entries, newest first."""
    heads = [head(voters)]
    for round_ in range(count):
        after = entry(name, round=round_, parent=heads[0].digest, parts=(None,), term=term)
        heads.insert(0, Head.of_entry(after))
    return heads


def step(digest_: str, *, round_: int = 0, term: int = 0, committed: int = 0) -> Step:
    return Step(round=round_, digest=digest_, term=term, committed=committed)


def terms(*, lockstep: bool = False, run_id: str = RUN, audits: float = 0.0, **limits) -> Terms:
    """Two fragments of three small parts, ten rounds of four steps."""
    return Terms(
        tally=tally_of(run_id),
        schedule=Schedule(sync_every=4, num_fragments=2, sync_delay_steps=1, total_steps=40),
        part_values=(VALUES, VALUES),
        codec=codec_named("fp32"),
        limits=Limits(**{"round_deadline_s": 20.0} | limits),
        lockstep=lockstep,
        audits=audits,
    )


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


def roster(ballot: int = 0, tokens: Sequence[int] = (1, 1, 1), **changed) -> Roster:
    """a owns part 0, b part 1 and c part 2."""
    fields = {
        "round": 0,
        "ballot": ballot,
        "parent": head().digest,
        "members": tuple(
            Member(peer_id=p, incarnation=i, tokens=t, pace_steps_per_s=1.0)
            for p, i, t in zip(ABC, incarnations_of(ABC), tokens, strict=True)
        ),
        "owners": (0, 1, 2),
        "missing": (),
        "transfer_s": 4.0,
        "close_s": 8.0,
        "deadline_s": 10.0,
    }
    return Roster(**fields | changed)


def heartbeat(of: str, **changed) -> Heartbeat:
    """Of a voter that stands at genesis."""
    fields = {
        "round": -1,
        "head": head().digest,
        "incarnation": f"{of}-0",
        "step": 0,
        "trains": True,
    }
    return Heartbeat(**fields | changed)
