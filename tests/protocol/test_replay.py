"""A peer that is behind: whom it asks, what it fetches before its turn, and when it gives up."""

from dataclasses import replace

from protocol.catching_up import SNAPSHOT_AGAIN_S
from protocol.chain import step_of
from protocol.digest import digest
from protocol.events import (
    ApplyEntry,
    FetchFailed,
    FetchParts,
    GetSnapshot,
    Note,
    PartFetched,
    RestoreFailed,
    Send,
)
from protocol.following import ASK_AGAIN_S, ENTRIES_PER_ASK, FETCH_AHEAD
from protocol.log import Entry, Head, Part
from protocol.member import FETCHES_OF_AN_ENTRY, Member
from protocol.messages import Ask, Decided, Gone, Ready, Trail
from tests.protocol.makers import VALUES, head, heartbeat, step
from tests.protocol.members import empty_entry, hear, kinds, member, share
from tests.protocol.signed import decided


def bytes_of(round_: int) -> tuple[bytes, ...]:
    return tuple(f"{round_:04}   {part}".encode() for part in range(len(VALUES)))


def full_entry(after: Head) -> Entry:
    parts = tuple(Part(digest(data), (1, 1, 1)) for data in bytes_of(after.round + 1))
    return replace(
        empty_entry(after), parts=parts, reason="", committed=after.committed + 3 * sum(VALUES)
    )


def log(count: int) -> list[Decided]:
    """So many full entries after genesis, oldest first."""
    entries: list[Decided] = []
    at = head()
    for _ in range(count):
        entries.append(decided(full_entry(at)))
        at = Head.of_entry(entries[-1].entry)
    return entries


def behind(rounds: int) -> tuple[Member, list[Decided]]:
    """b at genesis, with a and c so many rounds ahead; it has asked a already."""
    machine, entries = member(checkpoint_rounds=1000), log(rounds)
    beat = heartbeat("a", round=rounds - 1, head=entries[-1].entry.digest)
    assert asked(hear(machine, "a", beat)) == [("a", -1)]
    assert not hear(machine, "c", replace(beat, incarnation="c-0"), ASK_AGAIN_S / 2)
    return machine, entries


def asked(effects) -> list[tuple[str, int]]:
    return [(e.to, e.message.round) for e in effects if _is_send_of(e, Ask)]


def fetched(effects) -> list[int]:
    """Rounds whose parts are fetched, in order."""
    rounds = {digest(data): round_ for round_ in range(100) for data in bytes_of(round_)}
    return [rounds[e.wanted[0][0]] for e in effects if isinstance(e, FetchParts)]


def arrive(machine: Member, round_: int, now_s: float = 0.0) -> list:
    return [
        effect
        for data in bytes_of(round_)
        for effect in machine.handle(PartFetched(digest(data), data), now_s)
    ]


def trail(entries: list[Decided]) -> Trail:
    """What a peer shows whose log these are."""
    heads = [head(), *(Head.of_entry(message.entry) for message in entries)]
    return Trail(round=heads[-1].round, steps=tuple(step_of(h) for h in reversed(heads)))


def sent(effects, kind: type) -> list[str]:
    return [e.to for e in effects if _is_send_of(e, kind)]


def snapshots(effects) -> list[str]:
    return [e.why for e in effects if isinstance(e, GetSnapshot)]


def _is_send_of(effect, kind: type) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message, kind)


def test_bytes_of_the_next_entries_are_fetched_before_their_turn_and_no_more_of_them():
    machine, entries = behind(10)
    rounds = [r for message in entries for r in fetched(hear(machine, "a", message))]
    assert rounds == list(range(1 + FETCH_AHEAD))
    assert fetched(arrive(machine, 0)) == [1 + FETCH_AHEAD]


def test_entries_are_applied_in_order_whatever_comes_first():
    machine, entries = behind(4)
    for message in entries:
        hear(machine, "a", message)
    for round_ in (3, 1, 2):
        assert not arrive(machine, round_)
    applied = [e for e in arrive(machine, 0) if isinstance(e, ApplyEntry)]
    assert [(e.entry.round, e.parts) for e in applied] == [(r, bytes_of(r)) for r in range(4)]


def test_all_who_accepted_an_entry_or_went_on_from_it_share_the_load():
    machine, (message, *_) = behind(1)  # c is there too, as it said
    (fetch,) = hear(machine, "a", decided(message.entry, ("a", "b")))
    assert fetch.sources[: fetch.holders] == ("a", "c")


def test_what_the_voters_before_it_did_not_decide_is_not_fetched_ahead():
    machine, (first, second, third) = behind(3)
    hear(machine, "a", first)
    effects = hear(machine, "a", decided(second.entry, ("b",)))
    assert effects == [Note("refused: a: round 1 was accepted by no quorum")]
    assert not hear(machine, "a", third), "it hangs in the air now"
    assert fetched(hear(machine, "c", second)) == [1, 2]


def test_the_next_question_comes_when_little_is_left_to_fetch_and_goes_to_another():
    machine, entries = behind(40)
    for message in entries[:ENTRIES_PER_ASK]:
        assert not asked(hear(machine, "a", message))
    questions = [asked(arrive(machine, round_, now_s=5.0)) for round_ in range(ENTRIES_PER_ASK)]
    assert [q for q in questions if q] == [[("c", ENTRIES_PER_ASK - 1)]]


def test_a_share_of_a_round_that_is_decided_already_is_not_offered():
    machine, _ = behind(1)
    assert any(_is_send_of(effect, Ready) for effect in machine.handle(share(), 0.0))
    machine, (message, *_) = behind(1)
    hear(machine, "a", message)
    assert not machine.handle(share(), 0.0)


def test_a_snapshot_is_taken_only_when_nobody_has_the_next_entry_any_more():
    machine, entries = behind(3)
    assert asked(hear(machine, "a", Gone(round=2))) == [("c", -1)]
    assert asked(hear(machine, "c", Gone(round=1))) == []
    steps = (*(step_of(Head.of_entry(d.entry)) for d in entries[::-1]), step_of(head()))
    effects = hear(machine, "c", Trail(round=2, steps=steps))
    (snapshot,) = (effect for effect in effects if isinstance(effect, GetSnapshot))
    assert snapshot.after == {d.entry.digest for d in entries}


def test_nothing_is_taken_from_a_longer_log_before_it_is_seen_to_be_the_same():
    machine = member(checkpoint_rounds=1)
    assert kinds(hear(machine, "a", heartbeat("a", round=1000, head="far"))) == [Trail]
    theirs = (step("far", round_=1000, term=1), step("x", round_=0, term=1), step_of(head()))
    assert not hear(machine, "a", Trail(round=1000, steps=theirs)), "it was forced"
    assert machine.standing == "in step"


def test_what_nobody_gives_is_gone():
    machine, (message, *_) = behind(3)
    hear(machine, "a", message)
    for part in message.entry.parts:
        for _ in range(FETCHES_OF_AN_ENTRY):
            machine.handle(FetchFailed(part.digest), 0.0)
    beat = heartbeat("a", round=2, head=log(3)[-1].entry.digest)
    assert kinds(hear(machine, "a", beat, 9.0)) == [Trail]


def test_a_peer_that_cannot_have_a_snapshot_replays_for_a_while_and_then_tries_again():
    """Five rounds are more bytes than the state of two fragments."""
    entries = log(9)
    machine = member(checkpoint_rounds=1)
    beat = heartbeat("a", round=8, head=entries[-1].entry.digest)
    assert sent(hear(machine, "a", beat), Trail) == ["a"]
    assert snapshots(hear(machine, "a", trail(entries))) == ["9 entries behind"]
    machine.handle(RestoreFailed("nobody has a checkpoint to give"), 1.0)
    assert asked(hear(machine, "a", beat, 1.1)) == [("a", -1)]
    assert fetched(hear(machine, "a", entries[0], 1.2)) == [0]
    arrive(machine, 0, 1.3)
    again_s = 1.0 + SNAPSHOT_AGAIN_S
    assert sent(hear(machine, "a", beat, again_s), Trail) == ["a"]
    assert snapshots(hear(machine, "a", trail(entries), again_s)) == ["8 entries behind"]


def test_an_answer_that_came_too_late_is_no_reason_for_a_snapshot():
    machine, (message, *_) = behind(3)
    hear(machine, "a", message)
    assert not hear(machine, "a", Gone(round=1)) and not hear(machine, "c", Gone(round=1))


def test_a_newcomer_has_not_arrived_before_it_has_heard_everybody():
    machine = member()
    hear(machine, "c", heartbeat("c"))
    assert not machine.has_arrived, "c may be as new as this peer"
    hear(machine, "a", heartbeat("a"))
    assert machine.has_arrived
