"""The plan of a download: with one honest donor it gets done, whatever the others do."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.download import BATCH, MAX_HOLDERS, Plan, Request

HONEST, LIAR, DEAD, DYING, FROZEN, EMPTY = "honest", "liar", "dead", "dying", "frozen", "empty"
PATIENCE_S = 20.0


@dataclass
class Donor:
    """How one donor behaves, and what it has been asked for."""

    kind: str
    seconds_per_item: float
    lives_for_items: int
    given: int = 0
    open: list[tuple[Request[int], float]] = field(default_factory=list)
    """Requests, and when each of them brings something next."""


class Swarm:
    """Drives a plan with a clock of its own; nothing here is random but the donors."""

    def __init__(self, items: int, donors: dict[str, Donor]) -> None:
        self.plan = Plan(range(items), donors)
        self.donors = donors
        self.kept: list[int] = []
        self.asked = 0
        self.now_s = 0.0

    def run(self) -> None:
        while not self.plan.is_complete and not self.plan.is_hopeless:
            assert self.now_s < 100_000, "it never ends"
            for name, donor in self.donors.items():
                self._ask(name, donor)
            self.now_s += 0.25
            for donor in self.donors.values():
                self._answer(donor)

    def _ask(self, name: str, donor: Donor) -> None:
        while len(donor.open) < 2 and (request := self.plan.begin(name, self.now_s)):
            assert 0 < len(request.items) <= BATCH
            assert all(map(self.plan.needs, request.items))
            self.asked += len(request.items)
            donor.open.append((request, self.now_s + donor.seconds_per_item))

    def _answer(self, donor: Donor) -> None:
        still_open = []
        for request, due_s in donor.open:
            next_s = self._bring(donor, request, due_s) if due_s <= self.now_s else due_s
            if next_s is not None:
                still_open.append((request, next_s))
        donor.open = still_open

    def _bring(self, donor: Donor, request: Request[int], due_s: float) -> float | None:
        """What happens next in a request; None when it is over."""
        is_gone = donor.kind == DEAD or (
            donor.kind == DYING and donor.given >= donor.lives_for_items
        )
        if is_gone or donor.kind == FROZEN:
            patience_s = PATIENCE_S if donor.kind == FROZEN else 0.0
            if self.now_s < request.began_s + patience_s:
                return self.now_s + 0.25
            self.plan.end(request, self.now_s, "no answer")
            return None
        if donor.kind == LIAR:
            self.plan.drop(request.donor, "sent something else")
            self.plan.end(request, self.now_s)
            return None
        if donor.kind == EMPTY:
            self.plan.end(request, self.now_s)
            return None
        donor.given += 1
        item = request.items[0]
        if self.plan.needs(item):
            self.kept.append(item)
        self.plan.arrived(request, item)
        if request.items:
            return self.now_s + donor.seconds_per_item
        self.plan.end(request, self.now_s)
        return None


donors = st.builds(
    Donor,
    kind=st.sampled_from([HONEST, LIAR, DEAD, DYING, FROZEN, EMPTY]),
    seconds_per_item=st.floats(0.05, 30.0),
    lives_for_items=st.integers(0, 20),
)


@settings(max_examples=200)
@given(st.integers(0, 60), st.lists(donors, max_size=6))
def test_it_is_complete_if_an_honest_donor_stays(items, all_donors):
    names = {f"{place}{donor.kind}": donor for place, donor in enumerate(all_donors)}
    swarm = Swarm(items, names)
    swarm.run()
    assert len(set(swarm.kept)) == len(swarm.kept), "kept twice"
    assert swarm.plan.is_complete == (sorted(swarm.kept) == list(range(items)))
    can_give = sum(
        items if d.kind == HONEST else d.lives_for_items * (d.kind == DYING) for d in all_donors
    )
    if any(donor.kind == HONEST for donor in all_donors) or items == 0:
        assert swarm.plan.is_complete
    elif can_give < items:
        assert swarm.plan.is_hopeless
        assert len(swarm.plan.notes) == len(all_donors)
    assert swarm.asked <= MAX_HOLDERS * (items + 100 * len(all_donors))


def drive(*speeds: float, items: int = 400) -> Swarm:
    donors = {
        str(place): Donor(HONEST, seconds, lives_for_items=0)
        for place, seconds in enumerate(speeds)
    }
    swarm = Swarm(items, donors)
    swarm.run()
    return swarm


def test_a_fast_donor_gives_more_and_the_slow_one_holds_nobody_up():
    swarm = drive(0.25, 2.5)
    fast, slow = swarm.donors["0"].given, swarm.donors["1"].given
    assert fast > 8 * slow > 0
    # Two requests at once from each: alone, the fast one would take 400 * 0.25 / 2.
    assert swarm.now_s < 55


def test_equal_donors_share_the_work_and_waste_little():
    swarm = drive(0.25, 0.25, 0.25, 0.25)
    assert swarm.now_s == pytest.approx(400 * 0.25 / 8, rel=0.15)
    assert sum(donor.given for donor in swarm.donors.values()) <= 404


def test_a_liar_is_named_and_never_asked_again():
    plan = Plan(range(8), ["liar-with-a-long-name", "other"])
    request = plan.begin("liar-with-a-long-name", 0.0)
    assert request is not None
    plan.drop("liar-with-a-long-name", "sent bytes that are not those that were asked for")
    plan.end(request, 0.1)
    assert plan.begin("liar-with-a-long-name", 100.0) is None
    assert plan.notes == [
        "donor liar-wit is not asked any more: sent bytes that are not those that were asked for"
    ]
    assert not plan.is_hopeless
    plan.drop("other", "x")
    assert plan.is_hopeless


def test_who_does_not_answer_is_asked_again_later():
    plan = Plan(range(8), ["a"])
    request = plan.begin("a", 0.0)
    assert request is not None
    plan.end(request, 0.1, "connection refused")
    assert plan.begin("a", 0.2) is None
    again = plan.begin("a", 1.0)
    assert again is not None
    for item in list(again.items):
        plan.arrived(again, item)
    plan.end(again, 2.0)
    assert plan.begin("a", 2.0) is not None


def test_what_others_brought_meanwhile_is_no_failure_and_not_kept_twice():
    plan = Plan(range(1), ["slow", "fast"])
    slow = plan.begin("slow", 0.0)
    assert slow is not None and plan.begin("fast", 5.0) is None
    fast = plan.begin("fast", 11.0)
    assert fast is not None and plan.begin("slow", 50.0) is None
    plan.arrived(fast, 0)
    assert plan.is_complete and not plan.needs(0)
    plan.end(fast, 12.0)
    plan.end(slow, 12.0)
    assert plan.notes == []


@pytest.mark.parametrize("seed", range(20))
def test_donors_that_vanish_one_after_another_leave_nothing_behind(seed):
    chance = random.Random(seed)
    donors = {
        str(n): Donor(DYING, chance.uniform(0.1, 1.0), lives_for_items=chance.randint(0, 30))
        for n in range(5)
    } | {"last": Donor(HONEST, 1.0, lives_for_items=0)}
    swarm = Swarm(100, donors)
    swarm.run()
    assert sorted(swarm.kept) == list(range(100))
