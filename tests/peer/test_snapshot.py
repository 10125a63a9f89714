"""Joining with a snapshot: whom to believe, and that one honest donor is enough to get it whole."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from peer import snapshot
from peer.checkpoint import Checkpoints
from peer.snapshot import Choice, Download, Progress
from protocol.digest import digest
from protocol.errors import RemoteError, UnavailableError
from protocol.state import Offer, list_of, state_bytes
from tests.peer.shelves import (
    RUN,
    VALUES,
    Shelf,
    checkpoints_of,
    flipped,
    run,
    served,
    states_of,
)
from tests.protocol.makers import RUN as RUN_ID
from tests.protocol.makers import entry
from tests.protocol.signed import decided
from tests.sim.disk import SimDisk
from tests.sim.keys import tally_of


def choose(*offers, **named) -> tuple[Choice | None, str]:
    return snapshot.choose(tally_of(RUN_ID), *offers, **named)


# --- choosing ------------------------------------------------------------------------------------


def offers_of(*rounds: int, seed: int = 0) -> tuple[Offer, ...]:
    return checkpoints_of(seed, *rounds).offers()


def test_the_newest_that_a_majority_of_its_voters_offers_is_taken():
    offers = {"a": offers_of(4, 5, 6), "b": offers_of(3, 4, 5), "c": offers_of(2, 3, 4)}
    choice, _ = choose(offers, VALUES)
    assert choice is not None
    assert (choice.offer.round, choice.donors) == (5, ("a", "b"))


def test_who_offers_the_same_without_a_vote_is_a_donor_too():
    offers = {"b": offers_of(4), "c": offers_of(4), "archive": offers_of(4)}
    choice, _ = choose(offers, VALUES)
    assert choice is not None and choice.donors == ("archive", "b", "c")


def test_non_voters_alone_vouch_for_nothing():
    offers = {name: offers_of(4) for name in ("x", "y", "z", "a")}
    choice, why = choose(offers, VALUES)
    assert choice is None and "round 4, is offered by 4 of 4 peers, 3 vote there" in why


def test_when_its_voters_are_gone_half_of_those_that_are_there_will_do():
    archives = {"x": offers_of(4), "y": offers_of(5)}
    choice, _ = choose(archives, VALUES, without_quorum=True)
    assert choice is not None and (choice.offer.round, choice.donors) == (5, ("y",))
    assert choose(archives | {"z": offers_of(6)}, VALUES, without_quorum=True)[0] is None


def test_what_voters_vouch_for_comes_before_anything_newer():
    offers = {"a": offers_of(4), "b": offers_of(4), "x": offers_of(5), "y": offers_of(5)}
    choice, _ = choose(offers, VALUES, without_quorum=True)
    assert choice is not None and choice.donors == ("a", "b")


def test_exactly_half_needs_the_tie_breaker():
    offers = offers_of(4)
    pair = tuple(replace(o, decided=decided(entry(round=4, voters=("a", "b")))) for o in offers)
    assert choose({"a": pair}, VALUES)[0] is not None
    assert choose({"b": pair}, VALUES)[0] is None


def test_who_names_itself_the_only_voter_is_not_believed():
    liar = tuple(
        replace(o, decided=decided(entry(round=9, voters=("l",), tie_breaker="l"), ("l",)))
        for o in offers_of(9, seed=5)
    )
    choice, _ = choose({"a": offers_of(4), "b": offers_of(4), "l": liar}, VALUES)
    assert choice is not None and choice.offer.round == 4 and "l" not in choice.donors


def test_one_entry_with_another_state_is_another_offer():
    choice, _ = choose({"a": offers_of(4), "b": offers_of(4), "c": offers_of(4, seed=1)}, VALUES)
    assert choice is not None and choice.donors == ("a", "b")


def test_whose_accepts_were_counted_makes_no_difference():
    others = tuple(replace(o, decided=decided(o.decided.entry, ("b", "c"))) for o in offers_of(4))
    choice, _ = choose({"a": offers_of(4), "b": others}, VALUES)
    assert choice is not None and choice.donors == ("a", "b")


@pytest.mark.parametrize("by", [(), ("a", "b")])
def test_an_offer_that_nobody_signed_for_is_none(by):
    """Three who say the same are a quorum, and nobody has accepted what they say."""
    accepts = decided(entry(round=5), by, ballot=1).accepts
    made_up = tuple(replace(o, decided=replace(o.decided, accepts=accepts)) for o in offers_of(5))
    honest = {"a": offers_of(4), "b": offers_of(4)}
    assert choose({"a": made_up, "b": made_up, "c": made_up}, VALUES)[0] is None
    choice, _ = choose({"a": made_up + honest["a"], "b": made_up + honest["b"]}, VALUES)
    assert choice is not None and choice.offer.round == 4


def test_a_state_of_another_shape_is_no_offer():
    offers = {"a": offers_of(4), "b": offers_of(4)}
    assert choose(offers, (7, 8, 9)) == (None, "nobody has a checkpoint to give")
    assert choose({"a": ()}, VALUES) == (None, "nobody has a checkpoint to give")


# --- downloading ---------------------------------------------------------------------------------


def test_a_state_is_downloaded_from_honest_peers_although_one_lies():
    async def work() -> None:
        shelves = {
            "a": Shelf(checkpoints_of(0, 6)),
            "b": Shelf(checkpoints_of(0, 6), spoil=flipped),
            "c": Shelf(checkpoints_of(0, 6)),
        }
        disk, notes, seen = SimDisk(), [], []
        checkpoints = Checkpoints(disk, RUN)
        async with AsyncExitStack() as stack:
            sources = {
                name: (await stack.enter_async_context(served(name, shelf)))[0]
                for name, shelf in shelves.items()
            }
            offers = {name: await source.ask_offers() for name, source in sources.items()}
            choice, _ = choose(offers, VALUES)
            assert choice is not None and choice.donors == ("a", "b", "c")
            await Download(
                disk,
                checkpoints,
                choice.offer,
                sources,
                on_progress=seen.append,
                note=notes.append,
            ).run({"step": 0})
        assert checkpoints.offers() == shelves["a"].offers()
        loaded, _ = Checkpoints(disk, RUN).load_newest()
        assert loaded is not None
        for found, wanted in zip(loaded.states, states_of(6), strict=True):
            assert [v.tobytes() for v in found] == [v.tobytes() for v in wanted]
        assert notes == [
            "donor b is not asked any more: sent bytes that are not those that were asked for"
        ]
        assert shelves["a"].chunks_given and shelves["c"].chunks_given
        assert_progress(seen)
        assert disk.names("snapshot") == []

    run(work)


def assert_progress(seen: list[Progress]) -> None:
    total = sum(map(state_bytes, VALUES))
    done = [progress.done_bytes for progress in seen]
    assert {progress.total_bytes for progress in seen} == {total}
    assert done == sorted(done) and done[0] == 0 and done[-1] == total
    assert all(progress.bytes_per_s > 0 for progress in seen[1:])


class Near:
    """A donor in the same process, which can be made to fail after so many chunks."""

    def __init__(self, shelf: Shelf, lives_for: int = 10**9) -> None:
        self.shelf = shelf
        self.lives_for = lives_for
        self.given: list[tuple[str, int]] = []

    async def fetch_parts(
        self, wanted: Mapping[str, int], rate_bytes_per_s: float = 0.0
    ) -> dict[str, bytes]:
        lists = {root: self.shelf.chunk_digests(root) for root in wanted}
        return {root: list_of(digests) for root, digests in lists.items() if digests}

    async def fetch_chunks(self, root, wanted, on_chunk, rate_bytes_per_s=0.0) -> None:
        for index, (wanted_digest, size) in wanted.items():
            await asyncio.sleep(0)
            if len(self.given) >= self.lives_for:
                raise UnavailableError("connection refused")
            data = self.shelf.chunk(root, index)
            assert data is not None and len(data) == size
            if digest(data) != wanted_digest:
                raise RemoteError("", "sent something else")
            self.given.append((root, index))
            await on_chunk(index, data)


def test_a_download_that_was_cut_off_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr("peer.download.MAX_FAILURES", 1)

    async def work() -> None:
        donor = checkpoints_of(0, 6)
        [offer] = donor.offers()
        disk = SimDisk()
        first, second = Near(Shelf(donor), lives_for=9), Near(Shelf(donor))
        with pytest.raises(UnavailableError, match="no donor of the snapshot of round 6"):
            await Download(disk, Checkpoints(disk, RUN), offer, {"a": first}).run({})
        here = disk.names("snapshot")
        assert here and disk.names("fragments")
        disk.flip_bit(here[0], 77)
        disk.replace("snapshot/" + "0" * 64 + "-3", [b"of another download"])
        checkpoints, seen = Checkpoints(disk, RUN), []
        await Download(disk, checkpoints, offer, {"b": second}, on_progress=seen.append).run({})
        assert checkpoints.offers() == donor.offers()
        assert len(first.given) == 9
        assert set(first.given) & set(second.given) == {parsed(here[0])}
        assert seen[0].done_bytes > 0
        assert disk.names("snapshot") == []

    run(work)


def parsed(name: str) -> tuple[str, int]:
    root, _, index = name.removeprefix("snapshot/").partition("-")
    return root, int(index)


def test_fragments_that_are_here_already_are_not_fetched():
    async def work() -> None:
        disk = SimDisk()
        mine = checkpoints_of(0, 6, disk=disk)
        donor = Checkpoints(SimDisk(), RUN)
        states = [*states_of(6)[:2], states_of(99)[2]]
        donor.save(8, decided(entry(round=8), ("a",)), states, [6, 6, 8], None, {})
        near = Near(Shelf(donor))
        await Download(disk, mine, donor.offers()[0], {"a": near}).run({})
        assert {root for root, _ in near.given} == {donor.offers()[0].fragments[2].root}
        assert mine.rounds() == (6, 8)

    run(work)


def test_liars_alone_give_nothing():
    async def work() -> None:
        donor = checkpoints_of(0, 6)
        disk, notes = SimDisk(), []
        liars = {name: Near(Shelf(donor, spoil=flipped)) for name in "ab"}
        checkpoints = Checkpoints(disk, RUN)
        with pytest.raises(UnavailableError):
            await Download(disk, checkpoints, donor.offers()[0], liars, note=notes.append).run({})
        assert checkpoints.rounds() == () and disk.names("snapshot") == []
        assert len(notes) == 2

    run(work)


def test_a_full_disk_is_said_and_what_is_here_stays():
    async def work() -> None:
        donor, disk = checkpoints_of(0, 6), SimDisk()
        mine = checkpoints_of(0, 5, disk=disk)
        disk.is_full = True
        with pytest.raises(OSError, match="No space left"):
            await Download(disk, mine, donor.offers()[0], {"a": Near(Shelf(donor))}).run({})
        assert mine.rounds() == (5,)
        loaded, notes = Checkpoints(disk, RUN).load_newest()
        assert loaded is not None and loaded.round == 5 and not notes

    run(work)


def test_nothing_is_left_running_when_a_download_is_cancelled():
    async def work() -> None:
        donor, disk = checkpoints_of(0, 6), SimDisk()
        frozen, before = Near(Shelf(donor)), asyncio.all_tasks()
        asked = asyncio.Event()

        async def hang(*args: object) -> None:
            asked.set()
            await asyncio.sleep(3600)

        frozen.fetch_chunks = hang
        download = Download(disk, Checkpoints(disk, RUN), donor.offers()[0], {"a": frozen})
        task = asyncio.create_task(download.run({}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before

    run(work)
