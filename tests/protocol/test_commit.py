"""Deciding one entry: never two, whatever is lost, doubled, reordered or forgotten in a crash.

And one, once it is calm.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ballots import Ballots
from protocol.commit import MAX_LEAP, Decision
from protocol.errors import RemoteError
from protocol.events import Record, Send
from protocol.log import Entry, Head, is_quorum
from protocol.messages import Accept, Accepted, Decided, Prepare, Promise
from tests.protocol.makers import ABC, DIGEST, RUN, entry, head
from tests.protocol.signed import accepted, decided
from tests.sim.keys import SimKey, tally_of

peers = st.sampled_from("abcdefg")
BLANK = Ballots(round=0, parent=DIGEST)
BYTES = (b"mean", None)


def before(voters: tuple[str, ...], tie_breaker: str = "a") -> Head:
    """The entry that these voters go on from."""
    return replace(head(voters), digest=DIGEST, tie_breaker=tie_breaker)


def decision(me: str = "a", ballots: Ballots = BLANK) -> Decision:
    return Decision(me, tally_of(RUN), before(ABC), ballots, SimKey(me))


def only(records: list[Record]) -> Record:
    (record,) = records
    return record


def promise(ballot: int, accepted_ballot: int = -1, accepted: Entry | None = None) -> Promise:
    return Promise(
        round=0,
        parent=DIGEST,
        ballot=ballot,
        accepted_ballot=accepted_ballot,
        accepted=accepted,
    )


class Council:
    """Voters that all may propose, their journals, and a network that may do anything.

    What a voter wants written is a job of its disk; whatever may be said only afterwards is said
    when the disk comes to it, if the voter still lives then.
    """

    def __init__(self, voters: tuple[str, ...], tie_breaker: str) -> None:
        self.voters = voters
        self.before = before(voters, tie_breaker)
        self.journals = dict.fromkeys(voters, BLANK)
        self.machines = {v: self.new_machine(v) for v in voters}
        self.unwritten: dict[str, list[Record]] = {v: [] for v in voters}
        self.under_way: list[tuple[str, Send]] = []
        self.decided: list[Decided] = []

    def new_machine(self, voter: str) -> Decision:
        ballots = Ballots.from_json(self.journals[voter].to_json())
        return Decision(voter, tally_of(RUN), self.before, ballots, SimKey(voter))

    def propose(self, voter: str) -> None:
        machine = self.machines[voter]
        self.unwritten[voter] += machine.propose(machine.next_ballot(), entry(f"{voter} says"))

    def write(self, voter: str) -> None:
        record = self.unwritten[voter].pop(0)
        self.journals[voter] = record.ballots
        self.under_way += [(voter, send) for send in record.then]

    def crash(self, voter: str) -> None:
        """Another life, from the journal."""
        self.unwritten[voter].clear()
        self.machines[voter] = self.new_machine(voter)

    def deliver(self, index: int, *, keep: bool = False) -> None:
        sender, send = self.under_way[index] if keep else self.under_way.pop(index)
        machine, message = self.machines[send.to], send.message
        match message:
            case Prepare():
                self.unwritten[send.to] += machine.on_prepare(sender, message)
            case Promise():
                self.under_way += [(send.to, s) for s in machine.on_promise(sender, message)]
            case Accept():
                self.unwritten[send.to] += machine.on_accept(sender, message, BYTES)
            case Accepted():
                if (decided := machine.on_accepted(sender, message)) is not None:
                    self.decided.append(decided)

    def calm_down(self) -> None:
        while self.under_way or any(self.unwritten.values()):
            for voter in self.voters:
                while self.unwritten[voter]:
                    self.write(voter)
            if self.under_way:
                self.deliver(0)


def storm(council: Council, chance: random.Random, events: int) -> None:
    """Duelling proposers that crash; messages come in any order, some twice, some never."""
    for _ in range(events):
        voter = chance.choice(council.voters)
        what = chance.random()
        if what < 0.03:
            council.crash(voter)
        elif council.unwritten[voter] and what < 0.6:
            council.write(voter)
        elif not council.under_way or what < 0.1:
            council.propose(voter)
        else:
            index = chance.randrange(len(council.under_way))
            if chance.random() < 0.15:
                council.under_way.pop(index)
            else:
                council.deliver(index, keep=chance.random() < 0.2)


def council_of(seed: int) -> tuple[Council, random.Random]:
    chance = random.Random(seed)
    voters = tuple("abcde"[: chance.randrange(1, 6)])
    return Council(voters, chance.choice(voters)), chance


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_no_two_different_entries_are_ever_decided(first):
    decisions = 0
    for seed in range(first, first + 250):
        council, chance = council_of(seed)
        storm(council, chance, events=160)
        decisions += len(council.decided)
        assert len({decided.entry.digest for decided in council.decided}) <= 1, f"seed {seed}"
    assert decisions > 250


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_the_check_above_fails_when_votes_are_forgotten(first):
    """Voters that lose their journals, and no incarnation that tells: what I4 forbids."""

    def decides_twice(seed: int) -> bool:
        council, chance = council_of(seed)
        for _ in range(16):
            storm(council, chance, events=10)
            forgetful = chance.choice(council.voters)
            council.journals[forgetful] = BLANK
            council.crash(forgetful)
        return len({decided.entry.digest for decided in council.decided}) > 1

    assert any(map(decides_twice, range(first, first + 50)))


@pytest.mark.parametrize("seed", range(200))
def test_once_the_network_is_calm_one_proposer_decides(seed):
    council, chance = council_of(seed)
    storm(council, chance, events=80)
    council.under_way.clear()
    proposer = chance.choice(council.voters)
    before = {decided.entry.digest for decided in council.decided}
    # A refused ballot is not answered: its proposer tries higher ones, as time passes.
    for _ in range(100):
        council.propose(proposer)
        council.calm_down()
        if len(council.decided) > len(before):
            break
    after = {decided.entry.digest for decided in council.decided}
    assert len(after) == 1 and before <= after


# --- proposing ------------------------------------------------------------------------------------


def test_the_first_coordinator_skips_the_first_phase():
    machine = decision("a")
    assert machine.next_ballot() == 0
    record = only(machine.propose(0, entry()))
    assert {send.to: type(send.message) for send in record.then} == dict.fromkeys(ABC, Accept)


def test_nobody_else_does():
    machine = decision("b")
    assert machine.next_ballot() == 1
    record = only(machine.propose(1, entry()))
    kinds = {send.to: type(send.message) for send in record.then}
    assert kinds == {"a": Prepare, "b": Promise, "c": Prepare}


@pytest.mark.parametrize("me", ABC)
def test_a_proposal_is_on_disk_as_a_promise_before_anybody_hears_of_it(me):
    machine = decision(me)
    ballot = machine.next_ballot()
    record = only(machine.propose(ballot, entry()))
    assert record.ballots == replace(BLANK, promised=ballot) and record.then
    assert record.parts is None, "nothing is accepted yet"


def test_a_restarted_proposer_never_uses_a_ballot_again():
    record = only(decision("a").propose(0, entry("before the crash")))
    again = decision("a", record.ballots)
    assert again.next_ballot() == 3
    with pytest.raises(AssertionError):
        again.propose(0, entry("after it"))


def test_ballots_of_two_proposers_are_never_equal():
    seen = replace(BLANK, promised=4)
    assert [decision(peer, seen).next_ballot() for peer in "abc"] == [6, 7, 5]


@given(st.sampled_from(ABC), st.integers(-1, 40))
def test_the_next_ballot_is_the_lowest_own_one_that_is_new(me, promised):
    ballot = decision(me, replace(BLANK, promised=promised)).next_ballot()
    assert ballot > promised >= ballot - 3 or ballot == ABC.index(me)
    assert ballot % 3 == ABC.index(me)


def test_what_may_have_been_decided_is_proposed_again():
    machine = decision("b")
    machine.propose(1, entry("mine"))
    assert not machine.on_promise("b", promise(1))
    sends = machine.on_promise("c", promise(1, 0, entry("theirs")))
    assert [send.message.entry.reason for send in sends] == ["theirs"] * 3


def test_of_two_accepted_entries_the_one_with_the_higher_ballot_is_proposed():
    machine = decision("c")
    machine.propose(5, entry("mine"))
    machine.on_promise("a", promise(5, 1, entry("later")))
    sends = machine.on_promise("b", promise(5, 0, entry("earlier")))
    assert {send.message.entry.reason for send in sends} == {"later"}


def test_a_promise_for_another_ballot_or_after_the_quorum_changes_nothing():
    machine = decision("b")
    machine.propose(1, entry("mine"))
    assert not machine.on_promise("a", promise(4))
    machine.on_promise("b", promise(1))
    assert machine.on_promise("a", promise(1))
    assert not machine.on_promise("c", promise(1, 0, entry("theirs")))


def test_answers_of_a_stranger_do_not_count():
    machine = decision("a")
    machine.propose(0, entry())
    assert machine.on_accepted("x", accepted(entry(), "x")) is None
    assert machine.on_accepted("a", accepted(entry(), "a")) is None
    assert machine.on_accepted("a", accepted(entry(), "a")) is None
    assert machine.on_accepted("b", accepted(entry(), "b")) == decided(entry(), ("a", "b"))


def test_accepting_what_was_not_proposed_is_refused():
    machine = decision("a")
    machine.propose(0, entry())
    with pytest.raises(RemoteError):
        machine.on_accepted("b", accepted(entry("x"), "b"))


# --- voting ---------------------------------------------------------------------------------------


def test_a_vote_is_on_disk_with_its_bytes_before_it_is_answered():
    machine = decision("b")
    record = only(machine.on_accept("a", Accept(round=0, ballot=0, entry=entry()), BYTES))
    assert record.ballots == replace(BLANK, promised=0, accepted_ballot=0, accepted=entry())
    assert record.parts == BYTES
    assert record.then == (Send("a", accepted(entry(), "b")),)


def test_a_promise_is_on_disk_before_it_is_given():
    record = only(decision("b").on_prepare("c", Prepare(round=0, parent=DIGEST, ballot=2)))
    assert record.ballots == replace(BLANK, promised=2)
    assert record.then == (Send("c", promise(2)),)


def test_a_promise_binds():
    machine = decision("c")
    machine.on_prepare("b", Prepare(round=0, parent=DIGEST, ballot=1))
    assert not machine.on_accept("a", Accept(round=0, ballot=0, entry=entry()), BYTES)
    assert not machine.on_prepare("a", Prepare(round=0, parent=DIGEST, ballot=0))
    assert machine.on_accept("b", Accept(round=0, ballot=1, entry=entry()), BYTES)


def test_promises_and_votes_bind_after_a_restart():
    before = decision("c")
    before.on_accept("a", Accept(round=0, ballot=0, entry=entry("kept")), BYTES)
    journal = only(before.on_prepare("b", Prepare(round=0, parent=DIGEST, ballot=4))).ballots
    machine = decision("c", journal)
    assert machine.accepted == entry("kept")
    assert not machine.on_accept("a", Accept(round=0, ballot=3, entry=entry()), BYTES)
    record = only(machine.on_prepare("c", Prepare(round=0, parent=DIGEST, ballot=5)))
    assert record.then == (Send("c", promise(5, 0, entry("kept"))),)


def test_a_ballot_is_used_by_its_owner_only():
    machine = decision("b")
    with pytest.raises(RemoteError):
        machine.on_prepare("c", Prepare(round=0, parent=DIGEST, ballot=1))
    with pytest.raises(RemoteError):
        machine.on_accept("b", Accept(round=0, ballot=0, entry=entry()), BYTES)
    with pytest.raises(RemoteError):
        machine.would_accept("a", Accept(round=0, ballot=-3, entry=entry()))


def test_in_one_ballot_a_voter_accepts_one_entry_whatever_its_owner_asks_for():
    """Or a lying proposer could make an honest voter look like one that votes twice."""
    before_a_crash = decision("b")
    first, second = (Accept(round=0, ballot=3, entry=entry(name)) for name in ("one", "two"))
    journal = only(before_a_crash.on_accept("a", first, BYTES)).ballots
    for machine in (before_a_crash, decision("b", journal)):
        with pytest.raises(RemoteError, match="two entries in ballot 3"):
            machine.on_accept("a", second, BYTES)
        assert machine.on_accept("a", first, BYTES), "once more is no second one"
        assert machine.accepted == first.entry
    assert machine.on_accept("b", replace(second, ballot=4), BYTES)


def test_what_is_said_about_the_same_round_of_another_chain_does_not_count():
    """Its promise says nothing about what it has accepted on this one."""
    machine = decision("b")
    assert not machine.on_prepare("c", Prepare(round=0, parent="another", ballot=2))
    machine.propose(1, entry("mine"))
    machine.on_promise("b", promise(1))
    assert not machine.on_promise("a", replace(promise(1), parent="another"))
    assert machine.on_promise("a", promise(1))


# --- quorums --------------------------------------------------------------------------------------


rules = st.sampled_from(["majority", "two_thirds"])


@given(st.sets(peers, min_size=1), st.sets(peers), st.sets(peers), rules, st.data())
def test_two_quorums_always_share_a_voter(voters, one, other, rule, data):
    names = tuple(sorted(voters))
    tie_breaker = data.draw(st.sampled_from(names))
    if all(is_quorum(peers, names, tie_breaker, rule) for peers in (one, other)):
        assert one & other & voters


@given(st.sets(peers, min_size=1), st.sets(peers), st.sets(peers))
def test_two_quorums_of_two_thirds_share_more_than_a_third(voters, one, other):
    names = tuple(sorted(voters))
    if all(is_quorum(peers, names, names[0], "two_thirds") for peers in (one, other)):
        assert 3 * len(one & other & voters) > len(voters)


@given(st.sets(peers, min_size=1), st.sets(peers), st.data())
def test_of_two_halves_exactly_one_is_a_quorum(voters, side, data):
    names = tuple(sorted(voters))
    tie_breaker = data.draw(st.sampled_from(names))
    both = [is_quorum(s, names, tie_breaker, "majority") for s in (side, voters - side)]
    assert both.count(True) == 1


@pytest.mark.parametrize(
    ("count", "majority", "two_thirds"),
    [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 3), (5, 3, 4), (6, 3, 5), (7, 4, 5), (9, 5, 7)],
)
def test_how_many_it_takes_with_the_tie_breaker_among_them(count, majority, two_thirds):
    """Of two thirds it takes more, with a tie-breaker or without."""
    names = tuple("abcdefghi"[:count])
    for rule, least in (("majority", majority), ("two_thirds", two_thirds)):
        assert is_quorum(set(names[:least]), names, "a", rule)
        assert not is_quorum(set(names[: least - 1]), names, "a", rule)


def test_under_two_thirds_neither_phase_is_over_before():
    voters = tuple("abcd")
    at, tally = before(voters), tally_of(RUN, "two_thirds")
    machine = Decision("a", tally, at, BLANK, SimKey("a"))
    ballot = machine.next_ballot() + 4
    machine.propose(ballot, entry("mine"))
    told = [machine.on_promise(voter, promise(ballot)) for voter in voters[:3]]
    assert [bool(sends) for sends in told] == [False, False, True]
    answers = [machine.on_accepted(v, accepted(entry("mine"), v, ballot=ballot)) for v in "abc"]
    assert answers == [None, None, decided(entry("mine"), "abc", ballot=ballot)]


@pytest.mark.parametrize("ballot", [1 + 3 * MAX_LEAP, 2**63 - 1])
def test_nobody_uses_up_the_ballots_of_a_round(ballot: int):
    """The others could propose nothing any more, or only what no message can carry."""
    assert ABC[ballot % 3] == "b"
    with pytest.raises(RemoteError, match="out of reach"):
        decision("a").on_prepare("b", Prepare(round=0, parent=DIGEST, ballot=ballot))
