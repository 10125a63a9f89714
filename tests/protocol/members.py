"""One member, and what a test says to it: everybody else is played by the test."""

from protocol.ballots import Ballots
from protocol.digest import digest
from protocol.events import (
    Effect,
    Leg,
    MessageReceived,
    PartAveraged,
    PartFetched,
    PartReceived,
    Record,
    Send,
    ShareTrained,
    SnapshotTaken,
)
from protocol.log import Entry, Head, Part
from protocol.member import Member
from protocol.messages import Accepted, Message, Promise, Roster
from tests.protocol import arriving
from tests.protocol.makers import ABC, VALUES, entry, head, heartbeat, terms
from tests.sim.keys import SimKey

DATA = tuple(bytes([i]) * 8 for i in range(len(VALUES)))
"""Encoded parts; in these tests every contribution and every mean of a part is the same."""
ALL = (1, 1, 1)
"""Tokens in a part that everybody contributed to."""


def member(
    me: str = "b",
    *,
    lockstep: bool = False,
    at: Head | None = None,
    incarnation: str | None = None,
    ballots: Ballots | None = None,
    accepted_parts: tuple[bytes | None, ...] = (),
    trains: bool = True,
    **limits,
) -> Member:
    return Member(
        me=me,
        terms=terms(lockstep=lockstep, **limits),
        head=at or head(),
        now_s=0.0,
        signer=SimKey(me),
        incarnation=f"{me}-0" if incarnation is None else incarnation,
        ballots=ballots,
        accepted_parts=accepted_parts,
        trains=trains,
    )


def hear(machine: Member, sender: str, message: Message, now_s: float = 0.0) -> list[Effect]:
    return machine.handle(MessageReceived(sender, message), now_s)


def share(tokens: int = 1) -> ShareTrained:
    return ShareTrained(
        round=0,
        state="s",
        tokens=tokens,
        pace_steps_per_s=1.0,
        up_bytes_per_s=1000.0,
        down_bytes_per_s=1000.0,
        overhead_s=0.1,
    )


def part(
    sender: str, of: Roster, leg: Leg, part_index: int, without: tuple[int, ...] = ()
) -> PartReceived:
    return arriving.part(sender, of, leg, part_index, DATA[part_index], without)


def follow(machine: Member, of: Roster, now_s: float = 0.0) -> list[Effect]:
    """Be ready, and get this roster from whoever its ballot belongs to."""
    machine.handle(share(), now_s)
    return hear(machine, ABC[of.ballot % 3], of, now_s)


def complete(machine: Member, of: Roster) -> list[Effect]:
    """Bring b through the whole exchange of a roster that counts it."""
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    for sender in "ac":
        machine.handle(part(sender, of, Leg.SCATTER, 1), 0.0)
    machine.handle(PartAveraged(roster=of.digest, part_index=1, data=DATA[1]), 0.0)
    machine.handle(part("a", of, Leg.GATHER, 0), 0.0)
    return machine.handle(part("c", of, Leg.GATHER, 2), 0.0)


def wait(machine: Member, until_s: float) -> list[Effect]:
    """Time passes, in which everybody is heard from and nobody stands still."""
    effects: list[Effect] = []
    while (now_s := min(machine.wakes_at_s(), until_s)) < until_s:
        for other in machine.others:
            hear(machine, other, heartbeat(other), now_s)
        effects += machine.tick(now_s)
    return effects + machine.tick(until_s)


def fetch_all(machine: Member, now_s: float = 0.0) -> list[Effect]:
    """Everything that an entry of DATA names arrives from elsewhere."""
    return [e for data in DATA for e in machine.handle(PartFetched(digest(data), data), now_s)]


def next_entry(tokens: tuple[int, ...] = ALL, **changed) -> Entry:
    """What a group in which everybody holds DATA decides in round 0."""
    fields = {
        "parent": head().digest,
        "parts": tuple(Part(digest(data), tokens) for data in DATA),
        "missing": (),
        "committed": sum(VALUES) * sum(tokens),
    }
    return entry(**fields | changed)


def empty_entry(after: Head | None = None, **changed) -> Entry:
    after = after or head()
    fields = {
        "round": after.round + 1,
        "fragment_id": (after.round + 1) % 2,
        "parent": after.digest,
        # Fragment 0 starts at steps 4, 8, .. and fragment 1 at 6, 10, ..
        "planned_steps": 2 if after.round >= 0 else 4,
        "parts": (None,) * len(VALUES),
        "missing": (),
        "committed": after.committed,
        "term": after.term,
    }
    return entry(**{"reason": "nothing"} | fields | changed)


def kinds(effects: list[Effect]) -> list[type]:
    return [type(e.message) if isinstance(e, Send) else type(e) for e in effects]


def votes(effects: list[Effect]) -> list[Promise | Accepted]:
    """What is answered once it is on disk."""
    return [
        send.message
        for effect in effects
        if isinstance(effect, Record)
        for send in effect.then
        if isinstance(send.message, Promise | Accepted)
    ]
