"""Store: beginning again from what is on disk."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from peer.disk import Disk
from peer.store import State, Store
from protocol.ballots import Ballots
from protocol.chain import step_of
from protocol.events import Record
from protocol.log import Entry, Genesis, Head
from protocol.messages import Decided, Gone
from tests.peer.chains import Parts, decide, extend, make_entry
from tests.peer.disks import tear
from tests.protocol.makers import RUN
from tests.protocol.signed import decided
from tests.sim.keys import tally_of

GENESIS = Genesis(
    run_id=RUN,
    founder="a",
    voters=("a", "b"),
    incarnations=("a-0", "b-0"),
    tie_breaker="a",
    state_digest="0",
)
FRAGMENTS = 2


def initial() -> list[State]:
    return [(np.zeros(3, np.float32), np.zeros(3, np.float32)) for _ in range(FRAGMENTS)]


def apply(state: State, entry: Entry, parts: Sequence[bytes | None]) -> State:
    """Each entry adds its round: enough to see which ones were applied, and how often."""
    return state[0] + np.float32(entry.round + 1), state[1] + np.float32(1)


def chain_after_genesis(rounds: int, name: str = "") -> list[tuple[Entry, Parts]]:
    chain: list[tuple[Entry, Parts]] = []
    parent = Head.of_genesis(GENESIS).digest
    for round_ in range(rounds):
        made, parts = make_entry(round_, parent, name)
        entry = replace(made, fragment_id=round_ % FRAGMENTS)
        chain.append((entry, parts))
        parent = entry.digest
    return chain


def open_store(disk: Disk, incarnations: Iterable[int] = count()) -> Store:
    numbers = iter(incarnations)
    return Store(disk, tally_of(RUN), new_incarnation=lambda: str(next(numbers)))


def checkpoint(store: Store, chain: Sequence[tuple[Entry, Parts]], rounds: int) -> None:
    states, versions = initial(), [-1] * FRAGMENTS
    for entry, parts in chain[:rounds]:
        states[entry.fragment_id] = apply(states[entry.fragment_id], entry, parts)
        versions[entry.fragment_id] = entry.round
    last = decide(chain[rounds - 1][0])
    private = {"local/0": np.full(3, 7, np.float32)}
    store.checkpoints.save(rounds - 1, last, states, versions, private, {"step": 5})


def values(states: Sequence[State]) -> list[float]:
    return [float(global_params[0]) for global_params, _ in states]


def test_a_new_peer_begins_at_genesis(disk: Disk) -> None:
    store = open_store(disk)
    found = store.recover(GENESIS, initial(), apply)
    assert store.is_new and found is not None
    assert found.head == Head.of_genesis(GENESIS) and values(found.states) == [0, 0]


def test_checkpoint_and_log_lead_to_the_newest_entry(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(5)
    extend(store.book, chain)
    checkpoint(store, chain, 3)
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and found.head == Head.of_entry(chain[-1][0])
    assert values(found.states) == [1 + 3 + 5, 2 + 4] and found.versions == [4, 3]
    assert [entry.round for entry, _ in found.replayed] == [3, 4]
    assert found.private_round == 2 and found.facts == {"step": 5}
    digests = [step.digest for step in found.trail]
    assert digests == [*(e.digest for e, _ in reversed(chain)), Head.of_genesis(GENESIS).digest]


def test_a_checkpoint_knows_what_came_before_it_when_the_log_does_not(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(5)
    steps = [step_of(Head.of_entry(entry)) for entry, _ in reversed(chain)]
    last, states = decide(chain[-1][0]), initial()
    store.checkpoints.save(4, last, states, [-1] * FRAGMENTS, None, {}, steps)
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None
    assert found.trail == (*steps, step_of(Head.of_genesis(GENESIS)))


def made_up(of: Decided) -> Decided:
    """With the accepts of something else."""
    return replace(of, ballot=of.ballot + 1)


def test_what_no_quorum_signed_is_not_gone_on_from(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(4)
    extend(store.book, chain[:2])
    store.book.append(made_up(decide(chain[2][0])), chain[2][1])
    extend(store.book, chain[3:])
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and found.head == Head.of_entry(chain[1][0])
    (note,) = found.notes
    assert "not believed, though it is on disk" in note and "did not sign" in note


@pytest.mark.parametrize("knows_the_entry_before", [True, False])
def test_a_checkpoint_of_what_nobody_signed_is_not_used(
    disk: Disk, knows_the_entry_before: bool
) -> None:
    store, chain = open_store(disk), chain_after_genesis(3)
    if knows_the_entry_before:
        extend(store.book, chain[:2])
    bad = made_up(decide(chain[2][0]))
    store.checkpoints.save(2, bad, initial(), [-1] * FRAGMENTS, None, {})
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and len(found.notes) == 1
    assert found.head.round == (1 if knows_the_entry_before else -1)


def test_too_few_signatures_under_a_checkpoint_show_where_the_log_tells_who_votes(
    disk: Disk,
) -> None:
    store, chain = open_store(disk), chain_after_genesis(3)
    extend(store.book, chain[:2])
    thin = decided(chain[2][0], ("a",))
    store.checkpoints.save(2, thin, initial(), [-1] * FRAGMENTS, None, {})
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and found.head.round == 1
    assert "by no quorum" in found.notes[0]


def test_a_rewind_leads_to_an_entry_before_the_newest_checkpoint(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(6)
    extend(store.book, chain)
    checkpoint(store, chain, 2)
    checkpoint(store, chain, 5)
    found = store.recover(GENESIS, initial(), apply, upto=2)
    assert found is not None and found.head == Head.of_entry(chain[2][0])
    assert values(found.states) == [1 + 3, 2]


def test_what_was_rewound_does_not_come_back_after_a_restart(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(6)
    extend(store.book, chain)
    checkpoint(store, chain, 5)
    before = store.incarnation
    assert [entry.round for entry in store.rewind(2)] == [3, 4, 5]
    assert store.incarnation != before and store.ballots is None
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and found.head == Head.of_entry(chain[2][0])


def test_an_entry_that_is_gone_cannot_be_rewound_to(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(4)
    extend(store.book, chain[:2])
    assert store.recover(GENESIS, initial(), apply, upto=3) is None


def test_entries_of_another_chain_are_not_replayed(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(3)
    other = chain_after_genesis(5, name="other")
    checkpoint(store, chain, 3)
    extend(store.book, other[3:])
    found = open_store(disk).recover(GENESIS, initial(), apply)
    assert found is not None and found.head == Head.of_entry(chain[2][0])


def test_who_asks_for_what_is_no_longer_kept_is_told_so(disk: Disk) -> None:
    store, chain = open_store(disk), chain_after_genesis(5)
    extend(store.book, chain[2:])
    assert store.entries_after(0) == [Gone(round=2)]
    assert store.entries_after(2) == [decide(entry) for entry, _ in chain[3:]]
    assert store.entries_after(4) == []


def accept(store: Store, entry: Entry, parts: Parts) -> None:
    ballots = Ballots(
        round=entry.round, parent=entry.parent, promised=0, accepted_ballot=0, accepted=entry
    )
    store.record(Record(ballots=ballots, parts=parts, then=()))


def test_a_vote_whose_bytes_are_lost_is_void(disk: Disk) -> None:
    """Nobody else may have them, and the others would wait for this peer to give them."""
    store, ((entry, parts),) = open_store(disk), chain_after_genesis(1)
    accept(store, entry, parts)
    assert open_store(disk).ballots is not None
    (name,) = (name for name in disk.names("log") if entry.digest in name)
    tear(disk, name, 9)
    again = open_store(disk, count(5))
    assert again.ballots is None and again.incarnation == "5"
    assert any("bytes that its last vote was for" in note for note in again.notes)


def test_a_vote_of_a_round_that_is_over_needs_no_bytes(disk: Disk) -> None:
    """They go with the candidates when another entry is decided."""
    store = open_store(disk, count(1))
    ((chosen, parts),), ((other, other_parts),) = (
        chain_after_genesis(1),
        chain_after_genesis(1, "x"),
    )
    accept(store, other, other_parts)
    store.append(decide(chosen), parts)
    assert open_store(disk, count(5)).incarnation == "1"
