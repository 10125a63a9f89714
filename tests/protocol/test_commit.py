"""Deciding one entry: never two, whatever is lost, doubled or reordered; one, once it is calm."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.commit import Decision
from protocol.errors import RemoteError
from protocol.events import Send
from protocol.log import Entry, is_quorum
from protocol.messages import Accept, Accepted, Prepare, Promise
from tests.protocol.makers import entry

peers = st.sampled_from("abcdefg")


class Council:
    """Voters that all may propose, and a network that may do anything to what they say."""

    def __init__(self, voters: tuple[str, ...], tie_breaker: str) -> None:
        self.voters = voters
        self.machines = {v: Decision(0, voters, tie_breaker) for v in voters}
        self.under_way: list[tuple[str, Send]] = []
        self.decided: list[tuple[Entry, tuple[str, ...]]] = []

    def propose(self, voter: str) -> None:
        machine = self.machines[voter]
        self._say(voter, machine.propose(machine.next_ballot(voter), entry(f"{voter} says")))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        sender, send = self.under_way[index] if keep else self.under_way.pop(index)
        machine, message = self.machines[send.to], send.message
        match message:
            case Prepare():
                self._say(send.to, machine.on_prepare(sender, message))
            case Promise():
                self._say(send.to, machine.on_promise(sender, message))
            case Accept():
                self._say(send.to, machine.on_accept(sender, message))
            case Accepted():
                if (decided := machine.on_accepted(sender, message)) is not None:
                    self.decided.append(decided)

    def calm_down(self) -> None:
        while self.under_way:
            self.deliver(0)

    def _say(self, sender: str, sends: list[Send]) -> None:
        self.under_way += [(sender, send) for send in sends]


def storm(council: Council, chance: random.Random, events: int) -> None:
    """Duelling proposers; messages are delivered in any order, some twice, some never."""
    for _ in range(events):
        if not council.under_way or chance.random() < 0.08:
            council.propose(chance.choice(council.voters))
            continue
        index = chance.randrange(len(council.under_way))
        what = chance.random()
        if what < 0.15:
            council.under_way.pop(index)
        else:
            council.deliver(index, keep=what < 0.3)


def council_of(seed: int) -> tuple[Council, random.Random]:
    chance = random.Random(seed)
    voters = tuple("abcde"[: chance.randrange(1, 6)])
    return Council(voters, chance.choice(voters)), chance


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_no_two_different_entries_are_ever_decided(first):
    decisions = 0
    for seed in range(first, first + 250):
        council, chance = council_of(seed)
        storm(council, chance, events=120)
        decisions += len(council.decided)
        assert len({decided.digest for decided, _ in council.decided}) <= 1, f"seed {seed}"
    assert decisions > 250


@pytest.mark.parametrize("seed", range(200))
def test_once_the_network_is_calm_one_proposer_decides(seed):
    council, chance = council_of(seed)
    storm(council, chance, events=60)
    council.under_way.clear()
    proposer = chance.choice(council.voters)
    before = {decided.digest for decided, _ in council.decided}
    # A refused ballot is not answered: its proposer tries higher ones, as time passes.
    for _ in range(100):
        council.propose(proposer)
        council.calm_down()
        if len(council.decided) > len(before):
            break
    after = {decided.digest for decided, _ in council.decided}
    assert len(after) == 1 and before <= after


def test_the_first_coordinator_skips_the_first_phase():
    machine = Decision(0, ("a", "b", "c"), "a")
    assert machine.next_ballot("a") == 0
    assert {type(send.message) for send in machine.propose(0, entry())} == {Accept}


def test_nobody_else_does():
    machine = Decision(0, ("a", "b", "c"), "a")
    assert machine.next_ballot("b") == 1
    assert {type(send.message) for send in machine.propose(1, entry())} == {Prepare}


def test_ballots_of_two_proposers_are_never_equal():
    machine = Decision(0, ("a", "b", "c"), "a")
    machine.on_prepare("b", Prepare(round=0, ballot=4))
    assert [machine.next_ballot(peer) for peer in "abc"] == [6, 7, 5]


def test_what_may_have_been_decided_is_proposed_again():
    machine = Decision(0, ("a", "b", "c"), "a")
    machine.propose(1, entry("mine"))
    machine.on_promise("b", Promise(round=0, ballot=1, accepted_ballot=-1, accepted=None))
    sends = machine.on_promise(
        "c", Promise(round=0, ballot=1, accepted_ballot=0, accepted=entry("theirs"))
    )
    assert [send.message.entry.reason for send in sends] == ["theirs"] * 3


def test_a_promise_binds():
    machine = Decision(0, ("a", "b", "c"), "a")
    machine.on_prepare("b", Prepare(round=0, ballot=1))
    assert not machine.on_accept("a", Accept(round=0, ballot=0, entry=entry()))
    assert not machine.on_prepare("a", Prepare(round=0, ballot=0))
    assert machine.on_accept("b", Accept(round=0, ballot=1, entry=entry()))


def test_a_ballot_is_used_by_its_owner_only():
    machine = Decision(0, ("a", "b", "c"), "a")
    with pytest.raises(RemoteError):
        machine.on_prepare("c", Prepare(round=0, ballot=1))
    with pytest.raises(RemoteError):
        machine.on_accept("b", Accept(round=0, ballot=0, entry=entry()))


def test_answers_of_a_stranger_do_not_count():
    machine = Decision(0, ("a", "b", "c"), "a")
    machine.propose(0, entry())
    accepted = Accepted(round=0, ballot=0, entry_digest=entry().digest)
    assert machine.on_accepted("x", accepted) is None
    assert machine.on_accepted("a", accepted) is None
    assert machine.on_accepted("a", accepted) is None
    assert machine.on_accepted("b", accepted) == (entry(), ("a", "b"))


def test_accepting_what_was_not_proposed_is_refused():
    machine = Decision(0, ("a", "b", "c"), "a")
    machine.propose(0, entry())
    with pytest.raises(RemoteError):
        machine.on_accepted("b", Accepted(round=0, ballot=0, entry_digest=entry("x").digest))


@given(st.sets(peers, min_size=1), st.sets(peers), st.sets(peers), st.data())
def test_two_quorums_always_share_a_voter(voters, one, other, data):
    names = tuple(sorted(voters))
    tie_breaker = data.draw(st.sampled_from(names))
    if is_quorum(one, names, tie_breaker) and is_quorum(other, names, tie_breaker):
        assert one & other & voters


@given(st.sets(peers, min_size=1), st.sets(peers), st.data())
def test_of_two_halves_exactly_one_is_a_quorum(voters, side, data):
    names = tuple(sorted(voters))
    tie_breaker = data.draw(st.sampled_from(names))
    assert is_quorum(side, names, tie_breaker) != is_quorum(voters - side, names, tie_breaker)
