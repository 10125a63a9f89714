"""Members of a swarm in the middle of something, and the others around them, who are honest."""

from collections import deque
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from protocol import messages as m
from protocol.digest import digest
from protocol.events import (
    AveragePart,
    Effect,
    Event,
    FetchFailed,
    FetchParts,
    MessageReceived,
    PartAveraged,
    PartFetched,
    PeerMet,
    PeerUnreachable,
    Record,
    Send,
    SendPart,
    SnapshotTaken,
    TakeSnapshot,
)
from protocol.liveness import HEARTBEAT_S, Liveness
from protocol.log import Head
from protocol.member import Member
from protocol.wire.codec import decode_message, encode_message
from tests.protocol.makers import heartbeat, ready, roster, terms
from tests.protocol.members import (
    DATA,
    complete,
    empty_entry,
    follow,
    hear,
    member,
    next_entry,
    share,
)
from tests.protocol.signed import accepted, decided

STEP_S = 0.9 * HEARTBEAT_S
"""Between two ticks: more would look as if the machine had slept."""
AFTERWARDS_S = 25.0
"""Longer than the deadline of a round, and than it takes to pass over a coordinator."""
LEFT_OUT = ("_heard_s", "_witness")
KNOWN = {digest(data): data for data in DATA}


# --- members in the middle of something ---------------------------------------------------------


def following() -> Member:
    """In the exchange of a roster; its own contribution is on its way."""
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    return machine


def holding() -> Member:
    """It has every mean, and waits to be asked to accept."""
    machine = member()
    follow(machine, roster())
    complete(machine, roster())
    return machine


def voting() -> Member:
    """It has been asked to accept, and lacks the bytes."""
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "a", m.Accept(round=0, ballot=0, entry=next_entry()))
    return machine


def gathering() -> Member:
    """The first coordinator: it waits for one more to be ready."""
    machine = member("a")
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1, state="s"))
    return machine


def coordinator() -> Member:
    """It has formed the group, and holds its own parts."""
    machine = member("a")
    machine.handle(share(), 0.0)
    for other in "bc":
        hear(machine, other, ready(tokens=1, state="s"))
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    return machine


def proposing() -> Member:
    """The second coordinator, since the first is gone: it has asked for promises."""
    machine = member("b", grace_s=0.2, takeover_s=1.0)
    machine.handle(PeerUnreachable("a", "refused", 0.0), 0.1)
    machine.handle(share(), 0.1)
    hear(machine, "c", ready(tokens=1, state="s"), 0.1)
    shell = Shell(machine, 0.1, are_dumb=True)
    while not machine._round.decision._is_asking:
        shell.pass_time()
    return machine


def waiting() -> Member:
    """Two entries are decided, and the bytes of the first are on their way."""
    machine = member()
    first = next_entry()
    hear(machine, "a", decided(first))
    second = empty_entry(round=1, parent=first.digest, fragment_id=1, committed=first.committed)
    hear(machine, "c", decided(second))
    return machine


def behind() -> Member:
    """The others are four entries further."""
    machine = member()
    for other in "ac":
        hear(machine, other, heartbeat(other, round=3, head="x"))
    return machine


def lonely() -> Member:
    """Nobody has been heard for longer than it may take."""
    machine = member(lonely_after_s=2.0)
    for _ in range(12):
        machine.tick(machine.wakes_at_s() + STEP_S)
    return machine


def archive() -> Member:
    """It follows and never votes."""
    machine = member("d", trains=False, incarnation="")
    for other in "abc":
        machine.handle(PeerMet(other), 0.0)
    return machine


def finished() -> Member:
    """The last entry of the run is applied."""
    last = terms().schedule.total_rounds - 1
    return member(at=Head.of_entry(empty_entry(round=last)))


STATES = (
    following,
    holding,
    voting,
    gathering,
    coordinator,
    proposing,
    waiting,
    behind,
    lonely,
    archive,
    finished,
)


# --- what a member is ----------------------------------------------------------------------------


def snapshot(value: Any, seen: dict[int, str] | None = None) -> Any:
    """All that can change in an object, to be compared by ==; values stand for themselves.

    Left out is when each peer was heard: whoever talks, though it be nonsense, is there. So are the
    signed votes that were seen: what a voter has signed is true, whatever it is said with.
    """
    kind = _kind(type(value))
    if kind == "value":
        return value
    seen = {} if seen is None else seen
    if kind == "dict":
        return {key: snapshot(item, seen) for key, item in value.items()}
    if kind == "list":
        return [snapshot(item, seen) for item in value]
    if kind == "set":
        return set(value)
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = type(value).__name__
    kept = [(key, item) for key, item in vars(value).items() if key not in LEFT_OUT]
    fields = {key: snapshot(item, seen) for key, item in kept}
    return fields | {"known": value.known} if isinstance(value, Liveness) else fields


@cache
def _kind(kind: type) -> str:
    """Whether objects of a type are values, or how what is in them can change."""
    for name, types in (("dict", (dict,)), ("list", (list, deque)), ("set", (set,))):
        if issubclass(kind, types):
            return name
    is_ours = kind.__module__.startswith("protocol.") and not issubclass(kind, Enum)
    is_frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return "machine" if is_ours and not is_frozen else "value"


# --- what peer/ would do, and the others ---------------------------------------------------------


class Shell:
    """Carries out what a member wants, while the other voters answer it, but for one."""

    def __init__(
        self, machine: Member, now_s: float = 0.0, *, silent: str = "", are_dumb: bool = False
    ) -> None:
        """`are_dumb`: they are heard, and answer nothing."""
        self.machine = machine
        self.now_s = now_s
        self._heard = {*machine.head.voters} - {machine.me, silent}
        self._answering = frozenset() if are_dumb else frozenset(self._heard)

    def pass_time(self) -> None:
        """Until the next heartbeats, or almost."""
        self.now_s = self.machine.wakes_at_s() + STEP_S
        for other in sorted(self._heard.intersection(self.machine.others)):
            at = self.machine.head
            self._handle(MessageReceived(other, heartbeat(other, round=at.round, head=at.digest)))
        self.carry_out(self.machine.tick(self.now_s))

    def carry_out(self, effects: list[Effect]) -> None:
        """Raises AssertionError when something is said that others refuse."""
        for effect in effects:
            for event in self._events_of(effect):
                self._handle(event)

    def _handle(self, event: Event) -> None:
        self.carry_out(self.machine.handle(event, self.now_s))

    def _events_of(self, effect: Effect) -> list[Event]:
        match effect:
            case Send(to, message) if to == self.machine.me:
                return [MessageReceived(to, message)]
            case Send(to, message):
                assert_others_take(message)
                answer = answer_of(to, message) if to in self._answering else None
                return [] if answer is None else [MessageReceived(to, answer)]
            case Record():
                return [event for send in effect.then for event in self._events_of(send)]
            case SendPart():
                assert effect.rate_bytes_per_s > 0, "a part that would never leave"
            case TakeSnapshot(round_, _):
                return [SnapshotTaken(round=round_, parts=DATA)]
            case AveragePart(roster=under, part_index=index, contributions=(first, *_)):
                return [PartAveraged(roster=under, part_index=index, data=first)]
            case FetchParts():
                return [_fetched(name) for name, _ in effect.wanted]
        return []


def play_on(shell: Shell, effects: list[Effect]) -> None:
    """What follows from effects until AFTERWARDS_S later; whatever is raised is a bug."""
    until_s = shell.now_s + AFTERWARDS_S
    shell.carry_out(effects)
    while shell.now_s < until_s:
        shell.pass_time()


def _fetched(name: str) -> PartFetched | FetchFailed:
    return PartFetched(name, KNOWN[name]) if name in KNOWN else FetchFailed(name)


def assert_others_take(message: m.Message) -> None:
    """What a peer says, whatever it was told before, is still something that can be said."""
    assert decode_message("me", encode_message(message)) == message


def answer_of(voter: str, message: m.Message) -> m.Message | None:
    """What another voter says to that, who holds no means and agrees with everything."""
    match message:
        case m.Amend():
            return m.Held(
                round=message.round, roster=message.roster, number=message.number, means=()
            )
        case m.Prepare():
            return m.Promise(
                round=message.round,
                parent=message.parent,
                ballot=message.ballot,
                accepted_ballot=-1,
                accepted=None,
            )
        case m.Accept():
            return accepted(message.entry, voter, ballot=message.ballot)
    return None
