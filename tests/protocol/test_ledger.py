"""I7: every token is contributed, pending or lost, for every part of every fragment."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import canonical
from protocol.ledger import Ledger, credited_tokens
from protocol.log import Entry, Part
from tests.protocol.makers import DIGEST, entry

ME = "b"
VALUES = ((10, 100), (1, 2, 3))
CAP = 50


def ledger() -> Ledger:
    return Ledger(part_values=VALUES, cap_tokens=CAP)


def trained(*tokens: int) -> Ledger:
    books = ledger()
    for some in tokens:
        books.trained(some)
    return books


def credits(*mine: int | None, fragment_id: int = 0) -> Entry:
    """An entry that credits this peer with so many tokens in each part; None: absent."""
    parts = tuple(None if t is None else Part(DIGEST, (7, t, 9)) for t in mine)
    return entry(fragment_id=fragment_id, parts=parts)


def test_what_is_trained_is_pending_in_every_part():
    books = trained(8, 8)
    assert [account.pending for account in books.accounts] == [[16, 16], [16, 16, 16]]
    assert books.claim(0) == 16 and books.is_balanced()


def test_a_weight_is_capped():
    assert trained(200).claim(1) == CAP


def test_a_weight_is_what_every_part_has_pending():
    books = trained(8)
    books.claim(0)
    books.decided(credits(8, None), ME)
    books.trained(4)
    assert books.accounts[0].pending == [4, 12] and books.claim(0) == 4


def test_an_entry_credits_what_was_claimed_and_what_came_later_stays_pending():
    books = trained(16)
    books.claim(0)
    books.trained(8)
    books.decided(credits(16, 16), ME)
    account = books.accounts[0]
    assert account.pending == [8, 8]
    assert (account.contributed, account.lost) == (16 * 110, 0) and books.is_balanced()


def test_partial_credit_leaves_the_rest_pending():
    books = trained(16)
    books.claim(0)
    books.decided(credits(16, 0), ME)
    assert books.accounts[0].pending == [0, 16]
    assert books.accounts[0].contributed == 16 * 10 and books.is_balanced()


def test_an_absent_part_an_empty_entry_and_one_without_this_peer_credit_nothing():
    books = trained(16)
    before = books.to_json()
    books.decided(credits(None, None), ME)
    books.decided(entry(members=("a", "c"), parts=(Part(DIGEST, (7, 9)), None)), ME)
    assert books.to_json() == before


def test_movement_above_the_cap_is_lost_when_it_is_sent():
    books = trained(80)
    books.claim(0)
    books.decided(credits(CAP, CAP), ME)
    account = books.accounts[0]
    assert account.pending == [0, 0]
    assert (account.contributed, account.lost) == (CAP * 110, 30 * 110) and books.is_balanced()


def test_with_a_chain_that_is_given_up_its_credits_are_lost():
    books = trained(16)
    books.claim(0)
    books.decided(credits(16, 16), ME)
    books.given_up(credits(16, 16), ME)
    account = books.accounts[0]
    assert (account.contributed, account.lost) == (0, 16 * 110)
    assert account.pending == [0, 0] and books.is_balanced()


def test_the_accounts_come_back_from_a_checkpoint():
    books = trained(16)
    books.claim(0)
    books.decided(credits(16, 0), ME)
    back = ledger()
    back.restore(json.loads(canonical(books.to_json())))
    assert back.to_json() == books.to_json() and back.is_balanced()


def test_a_checkpoint_of_some_steps_ago_does_not_know_what_was_trained_since():
    books = trained(16)
    before = books.to_json()
    books.trained(8)
    assert books.to_json(newer_tokens=8) == before


def test_a_restarted_peer_may_be_credited_for_what_its_last_life_trained():
    """Its accounts never counted those tokens: they are lost in the negative."""
    books = ledger()
    books.decided(credits(16, 16), ME)
    account = books.accounts[0]
    assert (account.contributed, account.lost) == (16 * 110, -16 * 110) and books.is_balanced()


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"trained_tokens": 1, "accounts": []},
        {"trained_tokens": 1, "accounts": [{"pending": [1], "contributed": 0, "lost": 0}] * 2},
        {"trained_tokens": None, "accounts": None},
    ],
    ids=str,
)
def test_accounts_of_another_model_are_refused_and_change_nothing(raw):
    books = trained(8)
    before = books.to_json()
    with pytest.raises((KeyError, TypeError, ValueError)):
        books.restore(raw)
    assert books.to_json() == before


# --- any history ----------------------------------------------------------------------------------


@dataclass
class Life:
    """A peer that trains and takes part, and a log that credits it."""

    books: Ledger = field(default_factory=ledger)
    log: list[Entry] = field(default_factory=list)
    saved: tuple[dict, int] | None = None
    in_flight: dict[int, int] = field(default_factory=dict)
    """Claims by fragment."""

    def train(self, tokens: int) -> None:
        self.books.trained(tokens)

    def send(self, fragment_id: int) -> None:
        self.in_flight[fragment_id] = self.books.claim(fragment_id)

    def decide(self, fragment_id: int, made_it: int) -> None:
        """An entry with the parts whose bit is set in `made_it`."""
        weight = self.in_flight.pop(fragment_id, 0)
        tokens = [weight * (made_it >> p & 1) for p in range(len(VALUES[fragment_id]))]
        self.log.append(credits(*tokens, fragment_id=fragment_id))
        self.books.decided(self.log[-1], ME)

    def rewind(self, entries: int) -> None:
        for given_up in self.log[len(self.log) - entries :]:
            self.books.given_up(given_up, ME)
        del self.log[len(self.log) - entries :]
        if self.saved is not None and self.saved[1] > len(self.log):
            self.saved = None  # a checkpoint of the chain that was given up

    def save(self) -> None:
        self.saved = (self.books.to_json(), len(self.log))

    def restart(self) -> None:
        """From the last checkpoint, and the log on top."""
        self.books, self.in_flight = ledger(), {}
        from_entry = 0
        if self.saved is not None:
            self.books.restore(self.saved[0])
            from_entry = self.saved[1]
        for replayed in self.log[from_entry:]:
            self.books.decided(replayed, ME)

    def credited(self, fragment_id: int) -> int:
        return sum(
            tokens * values
            for e in self.log
            if e.fragment_id == fragment_id
            for tokens, values in zip(credited_tokens(e, ME), VALUES[fragment_id], strict=True)
        )


fragments = st.integers(0, 1)
deeds: st.SearchStrategy[Callable[[Life], None]] = st.one_of(
    st.builds(lambda t: lambda life: life.train(t), st.integers(0, 40)),
    st.builds(lambda f: lambda life: life.send(f), fragments),
    st.builds(lambda f, m: lambda life: life.decide(f, m), fragments, st.integers(0, 7)),
    st.builds(lambda n: lambda life: life.rewind(min(n, len(life.log))), st.integers(0, 3)),
    st.just(Life.save),
    st.just(Life.restart),
)


@given(st.lists(deeds, max_size=40))
def test_the_accounts_always_add_up_and_agree_with_the_log(history):
    life = Life()
    for deed in history:
        deed(life)
        assert life.books.is_balanced()
        for fragment_id, account in enumerate(life.books.accounts):
            assert account.contributed == life.credited(fragment_id)
            assert all(pending >= 0 for pending in account.pending)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), fragments), max_size=20))
def test_in_a_quiet_swarm_nothing_is_lost(rounds):
    """Not even what is trained between the claim and the snapshot."""
    life = Life(Ledger(part_values=VALUES, cap_tokens=10**6))
    for before, meanwhile, fragment_id in rounds:
        life.train(before)
        life.send(fragment_id)
        life.train(meanwhile)
        life.decide(fragment_id, 0b111)
    assert life.books.fates()["lost"] == 0


def test_accounts_that_do_not_add_up_are_noticed():
    books = trained(8)
    books.accounts[1] = replace(books.accounts[1], contributed=1)
    assert not books.is_balanced()
