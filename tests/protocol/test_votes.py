"""What a member votes on, what it needs for that, and what it remembers of it (I4)."""

from dataclasses import replace

import pytest

from protocol.ballots import Ballots
from protocol.chain import step_of
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    DiskFailed,
    DiskWorks,
    Effect,
    FetchFailed,
    FetchParts,
    Leg,
    Record,
    Restored,
    Send,
)
from protocol.log import Entry, Head, Part
from protocol.member import Member
from protocol.messages import Accept, Decided, Prepare, Promise, Ready, Trail
from tests.protocol.makers import ABC, head, heartbeat, ready, roster, step
from tests.protocol.members import (
    DATA,
    complete,
    empty_entry,
    fetch_all,
    follow,
    hear,
    kinds,
    member,
    next_entry,
    part,
    share,
    votes,
)
from tests.protocol.signed import accepted, decided

ACCEPT = Accept(round=0, ballot=0, entry=next_entry())
EMPTY = Accept(round=0, ballot=0, entry=empty_entry())
PROMISE = Promise(round=0, parent=head().digest, ballot=0, accepted_ballot=-1, accepted=None)
SIZES = tuple((digest(data), len(data)) for data in DATA)


# --- bytes ----------------------------------------------------------------------------------------


def test_a_voter_that_holds_the_bytes_accepts_and_writes_them():
    machine = member()
    follow(machine, roster())
    complete(machine, roster())
    (record,) = hear(machine, "a", ACCEPT)
    assert isinstance(record, Record) and record.parts == DATA
    assert record.ballots.accepted == ACCEPT.entry
    assert votes([record]) == [accepted(ACCEPT.entry, "b")]


def test_a_voter_that_lacks_bytes_fetches_them_before_it_accepts():
    machine = member()
    assert hear(machine, "a", ACCEPT) == [FetchParts(SIZES, ("a", "c"))]
    assert not machine.bytes_of(digest(DATA[0]))
    assert votes(fetch_all(machine)) == [accepted(ACCEPT.entry, "b")]
    assert machine.bytes_of(digest(DATA[0])) == DATA[0], "and gives them to others"


def test_it_fetches_only_what_it_lacks():
    machine = member()
    follow(machine, roster())
    machine.handle(part("a", roster(), Leg.GATHER, 0), 0.0)
    (fetch,) = hear(machine, "a", ACCEPT)
    assert fetch == FetchParts(SIZES[1:], ("a", "c"))


def test_what_is_asked_for_is_not_asked_for_twice_unless_it_failed():
    machine = member()
    hear(machine, "a", ACCEPT)
    assert not hear(machine, "a", ACCEPT)
    machine.tick(1.0)
    machine.handle(FetchFailed(SIZES[1][0]), 1.5)
    fetches = [e for e in machine.tick(2.0) if isinstance(e, FetchParts)]
    assert fetches == [FetchParts(SIZES[1:2], ("a", "c"))]


def test_an_empty_entry_needs_no_bytes():
    assert len(votes(hear(member(), "a", EMPTY))) == 1


def test_a_higher_ballot_takes_over_while_bytes_are_fetched():
    machine = member()
    hear(machine, "a", ACCEPT)
    assert len(votes(hear(machine, "c", Prepare(round=0, parent=head().digest, ballot=2)))) == 1
    assert not votes(fetch_all(machine)), "the lower ballot is over"


# --- who may vote ---------------------------------------------------------------------------------


def test_a_peer_without_a_vote_is_not_asked_to_vote():
    without_b = empty_entry(voters=("a", "c"))
    after = empty_entry(Head.of_entry(without_b))
    for message in (
        Prepare(round=1, parent=without_b.digest, ballot=0),
        Accept(round=1, ballot=0, entry=after),
    ):
        machine = member()
        hear(machine, "a", decided(without_b))
        with pytest.raises(RemoteError):
            hear(machine, "a", message)


@pytest.mark.parametrize(
    "message", [EMPTY, Prepare(round=0, parent=head().digest, ballot=0)], ids=str
)
def test_a_voter_with_another_journal_than_the_entry_lists_does_not_vote(message):
    machine = member(incarnation="b-1")
    assert not machine.votes and not hear(machine, "a", message)


def test_it_votes_again_once_an_entry_lists_its_new_journal():
    machine = member(incarnation="b-1")
    after = empty_entry(incarnations=("a-0", "b-1", "c-0"))
    hear(machine, "a", decided(after))
    assert machine.votes
    accept = Accept(round=1, ballot=0, entry=empty_entry(Head.of_entry(after)))
    leader = next(p for p in ABC if leads(p, 1))
    assert len(votes(hear(machine, leader, accept))) == 1


def leads(peer: str, round_: int) -> bool:
    machine = member(peer, at=replace(head(), round=round_ - 1))
    return machine._round.order[0] == peer


def test_without_a_journal_a_peer_follows_and_does_not_vote():
    machine = member(incarnation="")
    assert not machine.votes and not hear(machine, "a", EMPTY)
    assert kinds(hear(machine, "a", decided(EMPTY.entry))) == [ApplyEntry]


def test_after_the_disk_failed_nothing_is_promised_or_accepted_any_more():
    machine = member()
    hear(machine, "a", ACCEPT)
    machine.handle(DiskFailed("no space left"), 0.0)
    assert not votes(fetch_all(machine)), "not even what was waiting for its bytes"
    assert not hear(machine, "a", EMPTY) and not machine.votes
    assert kinds(hear(machine, "a", decided(EMPTY.entry))) == [ApplyEntry]


def test_a_disk_that_works_again_gives_back_the_vote_and_what_the_journal_holds():
    machine = member()
    hear(machine, "a", EMPTY)  # accepted in memory, and never written
    machine.handle(DiskFailed("no space left"), 0.0)
    machine.handle(DiskWorks("b-0", None), 0.0)
    assert machine.votes
    prepare = Prepare(round=0, parent=head().digest, ballot=2)
    (promise,) = votes(hear(machine, "c", prepare))
    assert isinstance(promise, Promise) and promise.accepted is None

    machine.handle(DiskFailed("no space left"), 0.0)
    machine.handle(DiskWorks("b-0", VOTED), 0.0)
    (promise,) = votes(hear(machine, "c", prepare))
    assert isinstance(promise, Promise) and promise.accepted == VOTED.accepted


def test_a_peer_that_only_follows_by_choice_may_vote():
    assert len(votes(hear(member(trains=False), "a", EMPTY))) == 1


# --- after a restart ------------------------------------------------------------------------------

VOTED = Ballots(
    round=0,
    parent=head().digest,
    promised=0,
    accepted_ballot=0,
    accepted=ACCEPT.entry,
)


def test_a_restarted_voter_says_what_it_had_accepted():
    machine = member(ballots=VOTED, accepted_parts=DATA)
    (promise,) = votes(hear(machine, "c", Prepare(round=0, parent=head().digest, ballot=2)))
    assert promise == Promise(
        round=0, parent=head().digest, ballot=2, accepted_ballot=0, accepted=ACCEPT.entry
    )
    assert machine.bytes_of(digest(DATA[0])) == DATA[0]


def test_a_restarted_voter_whose_log_has_lost_its_end_does_not_vote_until_it_has_it_again():
    """And then it still knows what it had accepted."""
    before = empty_entry()
    after = empty_entry(Head.of_entry(before))
    accepted = Ballots(round=1, parent=before.digest, promised=5, accepted_ballot=5, accepted=after)
    machine = member(ballots=accepted)
    assert not machine.votes and not hear(machine, "a", EMPTY)
    hear(machine, "a", decided(before))
    assert machine.votes
    ballot = next(b for b in range(6, 12) if machine._round.owns_ballot("c", b))
    (promise,) = votes(hear(machine, "c", Prepare(round=1, parent=before.digest, ballot=ballot)))
    assert promise.accepted_ballot == 5 and promise.accepted == after


def test_a_restarted_coordinator_does_not_use_its_ballot_again():
    machine = member("a", ballots=replace(VOTED, accepted=None, accepted_ballot=-1))
    machine.handle(share(), 0.0)
    for peer in "bc":
        hear(machine, peer, Ready(**ready_of(peer)))
    assert machine.roster is not None and machine.roster.ballot == 3


def ready_of(peer: str) -> dict[str, object]:
    return {
        "round": 0,
        "parent": head().digest,
        "state": "s",
        "tokens": 1,
        "pace_steps_per_s": 1.0,
        "up_bytes_per_s": 1000.0,
        "down_bytes_per_s": 1000.0,
        "overhead_s": 0.1,
    }


# --- decided --------------------------------------------------------------------------------------


def test_a_decided_entry_is_applied_with_its_bytes():
    machine = member()
    follow(machine, roster())
    complete(machine, roster())
    assert hear(machine, "a", decided(ACCEPT.entry)) == [ApplyEntry(decided(ACCEPT.entry), DATA)]
    assert machine.head == Head.of_entry(ACCEPT.entry) and machine.round == 1
    assert not hear(machine, "a", decided(ACCEPT.entry)), "the second time changes nothing"


def test_a_peer_that_missed_the_round_fetches_the_bytes_from_who_accepted_it():
    machine = member()
    (fetch,) = hear(machine, "a", decided(ACCEPT.entry, by=("b", "c")))
    assert fetch == FetchParts(SIZES, ("c", "a"))
    assert kinds(fetch_all(machine)) == [ApplyEntry]
    assert machine.round == 1


def test_what_is_decided_is_fetched_before_what_is_only_proposed():
    machine = member()
    hear(machine, "a", decided(ACCEPT.entry))
    other = replace(ACCEPT, ballot=2, entry=next_entry(reason="another"))
    assert not hear(machine, "c", other)
    assert kinds(fetch_all(machine)) == [ApplyEntry]


def test_a_second_roster_does_not_throw_away_what_the_first_has_completed():
    machine = member()
    follow(machine, roster())
    complete(machine, roster())
    hear(machine, "c", roster(ballot=2))
    assert kinds(hear(machine, "a", decided(ACCEPT.entry))) == [ApplyEntry]


def test_an_entry_that_no_quorum_accepted_is_refused():
    machine = member()
    with pytest.raises(RemoteError):
        hear(machine, "c", decided(EMPTY.entry, by=("c",)))
    assert machine.round == 0


def test_a_quorum_of_answers_decides_and_everybody_is_told():
    machine = member("a")
    machine.handle(share(), 0.0)
    follow(machine, roster())
    effects = []
    for voter in "ab":
        machine._round.decision.propose(0, EMPTY.entry) if voter == "a" else None
        effects = hear(machine, voter, accepted(EMPTY.entry, voter))
    assert kinds(effects) == [Decided, Decided, ApplyEntry]
    assert machine.round == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"fragment_id": 1},
        {"planned_steps": 5},
        {"parts": (None,) * 4},
        {"members": ("b", "a", "c")},
        {"voters": ()},
        {"voters": ("a", "a", "b")},
        {"tie_breaker": "x"},
        {"parts": (Part(digest(b""), (1,)), None, None)},
        {"committed": 1},
        {"term": 2},
    ],
    ids=str,
)
def test_a_malformed_entry_is_refused_wherever_it_comes(changed):
    bad = empty_entry(**changed)
    for message in (
        decided(bad),
        Accept(round=0, ballot=0, entry=bad),
        Promise(round=0, parent=head().digest, ballot=0, accepted_ballot=0, accepted=bad),
    ):
        with pytest.raises(RemoteError):
            hear(member(), "a", message)


def test_nobody_votes_on_a_forced_term():
    with pytest.raises(RemoteError):
        hear(member(), "a", Accept(round=0, ballot=0, entry=empty_entry(term=1)))


# --- while another state is on its way ------------------------------------------------------------


def test_a_promise_does_not_make_a_coordinator_propose_a_forced_term():
    machine = member("a")
    forced = empty_entry(term=1)
    promise = replace(PROMISE, accepted_ballot=0, accepted=forced)
    with pytest.raises(RemoteError, match="new term"):
        hear(machine, "c", promise)


def test_nothing_is_applied_or_accepted_while_another_state_is_on_its_way():
    """The shell would apply it to the state that comes, which is another one."""
    for waiting in (decided(ACCEPT.entry), ACCEPT):
        machine = member()
        hear(machine, "a", waiting)
        far_ahead = Trail(round=1000, steps=(step("far", round_=1000), step_of(head())))
        hear(machine, "a", far_ahead)
        assert machine.standing == "restoring"
        assert not fetch_all(machine) and machine.round == 0


def test_after_a_snapshot_a_peer_votes_under_its_new_journal_only():
    machine = member()
    hear(machine, "a", Trail(round=1000, steps=(step("far", round_=1000), step_of(head()))))
    at = replace(head(), round=7, digest="snapshot")
    machine.handle(Restored(head=at, trail=(step_of(at),), incarnation="b-1"), 1.0)
    assert machine.standing == "in step" and machine.round == 8 and not machine.votes


# --- who votes on the next entry ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c_stands_at", "voters"), [(head().digest, ("a", "b", "c")), ("elsewhere", ("a", "b"))]
)
def test_an_empty_entry_keeps_the_votes_of_all_that_can_decide(c_stands_at, voters):
    """A voter that was not ready keeps its vote; one on another log would be waited for in vain."""
    machine = member("a")
    machine.handle(share(tokens=0), 0.0)
    hear(machine, "b", ready(tokens=0))
    proposed = None
    while proposed is None:
        now_s = machine.wakes_at_s()
        assert now_s < 60.0
        hear(machine, "b", heartbeat("b"), now_s)
        hear(machine, "c", heartbeat("c", head=c_stands_at), now_s)
        proposed = proposal(machine, machine.tick(now_s), now_s)
    assert proposed.is_empty and proposed.voters == voters


def proposal(machine: Member, effects: list[Effect], now_s: float) -> Entry | None:
    """What is asked to be accepted in the end, when the disk works and b promises everything."""
    for effect in effects:
        for send in effect.then if isinstance(effect, Record) else [effect]:
            match send:
                case Send("a", message):
                    found = proposal(machine, hear(machine, "a", message, now_s), now_s)
                case Send("b", Prepare(ballot=ballot)):
                    promise = replace(PROMISE, ballot=ballot)
                    found = proposal(machine, hear(machine, "b", promise, now_s), now_s)
                case Send("b", Accept(entry=entry)):
                    found = entry
                case _:
                    continue
            if found is not None:
                return found
    return None
