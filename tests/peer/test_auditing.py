"""Owners' work is done again with the bytes that others show, and proofs are kept on disk."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from peer.auditing import KEPT_PROOFS, KEPT_ROUNDS, MOST_UNDERWAY, Auditor, Inputs
from peer.sealed import seal
from peer.verdicts import FOLDER, Verdicts
from protocol.audit import is_true
from protocol.claims import Claim
from protocol.digest import digest
from protocol.events import CompareMean, FetchParts, MeanDoubted, Verdict
from tests.protocol.accusing import CODEC, FALSE, INPUTS, MEAN, TRUE, accusation, average, claim_of
from tests.protocol.makers import terms
from tests.sim.disk import SimDisk
from tests.sim.keys import tally_of

BY_PEER = {peer: {digest(data): data} for peer, data in INPUTS.items()}
TALLY = tally_of(TRUE.slot.run_id)
OWNER_SHOWS_ALL = {"b": {digest(data): data for data in INPUTS.values()}}


class Bench:
    """An auditor, a, and what others show it."""

    def __init__(
        self, shown: Mapping[str, Mapping[str, bytes]], audits: float = 8.0, me: str = "a"
    ) -> None:
        self.asked: list[FetchParts] = []
        self.notes: list[str] = []
        self.computed = 0
        self._shown = shown
        self.auditor = Auditor(
            me,
            terms(audits=audits),
            average=average,
            calculate=self._calculate,
            fetch=self._fetch,
            note=self.notes.append,
        )

    async def _calculate(self, function: Callable[..., Any], *args: Any) -> Any:
        self.computed += function is is_true
        return function(*args)

    async def _fetch(self, fetch: FetchParts, on_part: Callable[[str, bytes], None]) -> None:
        self.asked.append(fetch)
        await asyncio.sleep(0)
        for name, _ in fetch.wanted:
            for source in fetch.sources:
                if (data := self._shown.get(source, {}).get(name)) is not None:
                    on_part(name, data)
                    break

    def find_false(self, *claims: Claim) -> list[Claim]:
        return asyncio.run(self.auditor.find_false(claims))

    def compare(self, claim: Claim, mean: bytes) -> MeanDoubted | None:
        slot = claim.slot
        arrived = CompareMean(round=slot.round, part_index=slot.part_index, data=mean)
        return asyncio.run(self.auditor.compare(arrived))


# --- audits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [BY_PEER, OWNER_SHOWS_ALL], ids=["by contributors", "by owner"])
def test_a_false_mean_is_found_and_a_true_one_passes(shown):
    bench = Bench(shown)
    bench.auditor.keep(0, [INPUTS["a"]])
    assert bench.find_false(TRUE, FALSE) == [FALSE]
    assert bench.computed == 3, "a lie is computed twice before anybody is accused of it"
    assert {fetch.sources for fetch in bench.asked} == {("b",), ("c", "b")}


def test_what_nobody_shows_proves_nothing_and_is_said():
    bench = Bench({"a": BY_PEER["a"], "c": BY_PEER["c"]})
    assert not bench.find_false(FALSE) and not bench.computed
    assert bench.notes == ["nobody shows this peer what b averaged in part 1 of round 0"]


def test_a_forged_contribution_needs_no_bytes():
    bench = Bench({})
    forged = claim_of(forged=True)
    assert bench.find_false(forged) == [forged] and not bench.asked


def test_what_this_peer_has_kept_it_does_not_ask_for():
    bench = Bench({})
    bench.auditor.keep(0, INPUTS.values())
    assert bench.find_false(FALSE) == [FALSE] and not bench.asked


def test_without_audits_nothing_is_kept_and_nothing_drawn():
    bench = Bench(BY_PEER, audits=0.0)
    bench.auditor.keep(0, INPUTS.values())
    assert not bench.find_false(FALSE)
    assert bench.auditor.inputs.get(digest(INPUTS["a"])) is None


def test_a_slow_link_leaves_rounds_unaudited_rather_than_pile_them_up():
    bench = Bench(OWNER_SHOWS_ALL)

    async def all_at_once() -> list[list[Claim]]:
        audits = [bench.auditor.find_false([FALSE]) for _ in range(MOST_UNDERWAY + 1)]
        return await asyncio.gather(*audits)

    assert asyncio.run(all_at_once()) == [[FALSE]] * MOST_UNDERWAY + [[]]


OWN = [INPUTS["c"]] * 3
FAR = CODEC.encode(-CODEC.decode(MEAN, 2))


def test_what_is_far_from_what_this_peer_gave_is_looked_at_first():
    """Of three parts, with two audits: that one always, and one of the others."""
    claims = [claim_of(FAR, part=1)] + [claim_of(part=part) for part in (0, 2)]
    for _ in range(20):
        bench = Bench(OWNER_SHOWS_ALL, audits=2.0, me="c")
        asyncio.run(bench.auditor.gave(0, OWN))
        for claim, mean in zip(claims, (FAR, MEAN, MEAN), strict=True):
            bench.compare(claim, mean)
        assert bench.find_false(*claims) == [claims[0]]


def test_a_mean_that_is_far_too_long_is_doubted():
    bench = Bench({}, me="c")
    asyncio.run(bench.auditor.gave(0, OWN))
    long = CODEC.encode(100 * CODEC.decode(INPUTS["c"], 2))
    assert bench.compare(TRUE, long) == MeanDoubted(1, digest(long))
    assert bench.compare(TRUE, MEAN) is None and bench.auditor.found["contradicted"] == 1


def test_who_gave_nothing_to_a_round_doubts_no_mean_of_it():
    bench = Bench({}, me="c")
    asyncio.run(bench.auditor.gave(1, OWN))
    assert bench.compare(TRUE, FAR) is None


@pytest.mark.parametrize(("claim", "is_so"), [(TRUE, True), (FALSE, False)])
def test_who_judges_asks_everybody_and_keeps_the_proof(claim, is_so):
    everything = {digest(data): data for data in INPUTS.values()}
    bench = Bench({"d": everything})
    judged = asyncio.run(bench.auditor.judge(accusation(claim), ["c", "d"]))
    assert judged.is_true is is_so and judged.accusation == accusation(claim).digest
    assert all(bench.auditor.inputs.get(name) == data for name, data in everything.items())


# --- what is kept ---------------------------------------------------------------------------------


def test_inputs_are_kept_for_some_rounds():
    inputs = Inputs()
    for round_ in range(KEPT_ROUNDS + 1):
        inputs.keep(round_, [bytes([round_])])
    assert inputs.get(digest(bytes([0]))) is None
    assert inputs.get(digest(bytes([1]))) == bytes([1])


def test_what_two_rounds_share_stays_with_the_later_one():
    inputs = Inputs()
    inputs.keep(0, [b"same"])
    for round_ in range(1, KEPT_ROUNDS + 1):
        inputs.keep(round_, [b"same"] if round_ == 1 else [])
    assert inputs.get(digest(b"same")) == b"same"


def test_a_rewind_forgets_the_rounds_that_are_given_up():
    inputs = Inputs()
    inputs.keep(9, [b"later"])
    inputs.keep(8, [b"again"])
    assert inputs.get(digest(b"later")) is None and inputs.get(digest(b"again"))


def test_proofs_outlast_rounds_and_are_bounded():
    inputs = Inputs()
    for i in range(KEPT_PROOFS + 1):
        inputs.keep_proof({digest(bytes([i])): bytes([i])})
    inputs.keep(99, [])
    assert inputs.get(digest(bytes([0]))) is None
    assert inputs.get(digest(bytes([KEPT_PROOFS]))) == bytes([KEPT_PROOFS])


# --- proofs on disk -------------------------------------------------------------------------------


def test_a_verdict_is_on_disk_and_comes_back():
    disk, verdict = SimDisk(), Verdict("b", accusation())
    said = Verdicts(disk, TALLY).keep(verdict)
    assert said.startswith("b averaged part 1 of round 0 falsely; the proof is in state/verdicts/")
    assert Verdicts(disk, TALLY).known == (verdict,)


def test_who_accused_falsely_is_named():
    said = Verdicts(SimDisk(), TALLY).keep(Verdict("c", accusation(TRUE)))
    assert said.startswith("c accused b falsely, of part 1 of round 0;")


@pytest.mark.parametrize(
    "made_up",
    [
        pytest.param(Verdict("d", accusation()), id="of somebody whom it does not name"),
        pytest.param(Verdict("b", accusation(signer="x")), id="signed by another"),
        pytest.param(Verdict("b", accusation(claim_of(signer="x"))), id="a claim of another's"),
    ],
)
def test_a_proof_that_somebody_made_up_is_not_used(made_up):
    disk = SimDisk()
    Verdicts(disk, TALLY).keep(made_up)
    verdicts = Verdicts(disk, TALLY)
    assert not verdicts.known and "is damaged" in verdicts.notes[0]


@pytest.mark.parametrize("data", [b"{}", seal({"guilty": "b"}), seal({"guilty": 1})])
def test_a_damaged_proof_is_said_and_not_used(data):
    disk = SimDisk()
    disk.replace(f"{FOLDER}/{'0' * 64}.json", [data])
    verdicts = Verdicts(disk, TALLY)
    assert not verdicts.known and len(verdicts.notes) == 1


def test_a_full_disk_is_said():
    disk = SimDisk()
    disk.is_full = True
    assert "cannot be written" in Verdicts(disk, TALLY).keep(Verdict("b", accusation()))
