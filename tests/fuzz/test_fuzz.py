"""A short run over every seam; and that the fuzzer, where something is wrong, does not miss it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protocol import messages as m
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import encode_message
from tests.fuzz import fuzzing, mutations
from tests.fuzz.__main__ import chosen, main
from tests.fuzz.fuzzing import Tally, fuzz, try_input, watched
from tests.fuzz.target import Target
from tests.fuzz.wire import each_message

INPUTS = 15_000


def test_nothing_is_found_in_a_short_run(capsys: pytest.CaptureFixture[str]):
    main(["--inputs", str(INPUTS)])
    said = capsys.readouterr().out
    totals = json.loads(said.splitlines()[-1])
    # Hangs are counted, and depend on what else the machine does: no test fails by them.
    assert (totals["inputs"], totals["crashes"], totals["wrongly_accepted"]) == (INPUTS, 0, 0), said


def test_an_input_is_fed_again_by_its_place(capsys: pytest.CaptureFixture[str]):
    assert main(["--target", "contact", "--seed", "3", "--replay", "5"]) == 0
    once = capsys.readouterr().out
    assert main(["--target", "contact", "--seed", "3", "--replay", "5"]) == 0
    assert once == capsys.readouterr().out and "seed 3, input 5: b" in once
    with pytest.raises(SystemExit):
        main(["--target", "none"])
    assert "there is no target none; there are envelope" in capsys.readouterr().err


def test_no_message_is_forgotten():
    assert {type(message) for message in each_message()} == set(m.Message.__args__)


def test_no_call_is_forgotten():
    """Each names the target that is fed what others send in it; some send nothing."""
    targets = {
        "Hello": ("hello", "hello-reply"),
        "Tell": ("envelope", None),
        "Push": ("chunks", None),
        "Status": (None, "status-reply"),
        "Log": ("log-request", "log-reply"),
        "Fetch": ("fetch-request", "pieces"),
        "Offers": (None, "offers"),
        "Chunks": ("chunks-request", "pieces"),
        "Revoked": ("revocations", "revocations"),
    }
    calls = pb.DESCRIPTOR.services_by_name["Peer"].methods_by_name
    empty = {"Ack", "StatusRequest", "OffersRequest"}
    with watched():
        names = {target.name for target in chosen(None)}
    assert set(targets) == set(calls)
    for call, (asked, answered) in targets.items():
        assert asked in names or calls[call].input_type.name in empty
        assert answered in names or calls[call].output_type.name in empty


# --- does it see anything? -----------------------------------------------------------------------


class Honest(Target):
    """Bytes under their digest: refused unless it fits."""

    name = "honest"

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.samples = [bytes.fromhex(digest(data)) + data for data in (b"one", b"two, longer")]

    def feed(self, data: bytes) -> bytes:
        if digest(data[32:]) != data[:32].hex():
            raise RemoteError("a", "another digest")
        return data[32:]

    def is_right(self, data: bytes, made: bytes) -> bool:
        return digest(made) == data[:32].hex()

    def state(self) -> Any:
        return len(self.seen)


class Believer(Honest):
    """It forgets to compare."""

    def feed(self, data: bytes) -> bytes:
        return data[32:]


class Crasher(Honest):
    """It looks something up that need not be there."""

    def feed(self, data: bytes) -> bytes:
        return {sample[:32]: sample[32:] for sample in self.samples}[data[:32]]


class Looper(Honest):
    """It reads until a mark that may never come."""

    def feed(self, data: bytes) -> bytes:
        while data not in self.samples:
            pass
        return data[32:]


class Hoarder(Honest):
    """It keeps what it was given."""

    def feed(self, data: bytes) -> bytes:
        self._kept = [*getattr(self, "_kept", []), b"\1" * 2**20]
        return super().feed(data)


class Glutton(Honest):
    """It makes room for as much as it is told."""

    def feed(self, data: bytes) -> bytes:
        if data not in self.samples:
            spare_mb = fuzzing.peak_rss_mb() - fuzzing.resident_mb()
            assert b"\1" * (int(spare_mb + 64) << 20)
        return super().feed(data)


class Gullible(Honest):
    """It takes note before it refuses."""

    def feed(self, data: bytes) -> bytes:
        self.seen.append(data)
        return super().feed(data)


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    with watched():
        yield


def found_in(target: Target, inputs: int = 200) -> Tally:
    return fuzz(target, seed=1, inputs=inputs)


def test_where_nothing_is_wrong_nothing_is_found():
    tally = found_in(Honest())
    assert not tally.counts and 0 < tally.accepted < 20
    assert tally.refused.keys() == {"another digest"}


def test_what_is_believed_without_its_digest_is_found():
    tally = found_in(Believer())
    assert set(tally.counts) == {"wrong"} and "believed" in tally.findings[0].why
    assert "--target honest --seed 1 --replay" in tally.findings[0].text(1)


def test_a_crash_is_found_and_its_input_made_smaller():
    tally = found_in(Crasher())
    assert set(tally.counts) == {"crash"} and "KeyError" in tally.findings[0].why
    assert tally.findings[0].data == b""
    assert tally.inputs == 200, "it goes on after a finding"


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "HANG_S", 0.05)
    tally = found_in(Looper(), inputs=3)
    assert set(tally.counts) == {"hang"}


def test_memory_that_is_kept_is_found():
    assert set(found_in(Hoarder()).counts) == {"growth"}


def test_memory_without_measure_for_one_input_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "MAX_AT_ONCE_MB", 16.0)
    tally = found_in(Glutton(), inputs=4)
    assert set(tally.counts) == {"growth"} and "at once" in tally.findings[0].why


def test_a_refused_input_that_changed_something_is_found():
    tally = found_in(Gullible())
    assert set(tally.counts) == {"wrong"} and "changed something" in tally.findings[0].why


def test_a_sample_that_is_refused_teaches_nothing():
    target = Honest()
    target.samples = [b"no digest"]
    with pytest.raises(AssertionError, match="a valid sample is refused"):
        found_in(target)


def test_reasons_are_counted_without_end_by_nobody():
    tally = Tally("x")
    for number in range(1000):
        tally.refuse(f"reason {number}: more")
    assert len(tally.refused) == fuzzing.MAX_REASONS + 1 and tally.refused.total() == 1000


# --- its means -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", each_message(), ids=lambda message: type(message).__name__)
def test_the_tree_of_a_message_is_its_bytes(message: m.Message):
    data = encode_message(message).SerializeToString()
    fields = mutations.parse(data)
    assert fields is not None and mutations.serialize(fields) == data


def test_mutations_reach_past_the_parser_and_follow_from_the_seed():
    with watched():
        (target,) = chosen("envelope")
    outcomes = [try_input(target, target.input(1, place)) for place in range(500)]
    assert [target.input(1, n) for n in range(9)] == [target.input(1, n) for n in range(9)]
    accepted = sum(outcome == "accepted" for outcome, _ in outcomes)
    reasons = {why.split(":")[0] for outcome, why in outcomes if outcome == "refused"}
    assert 50 < accepted < 450 and len(reasons) > 10
