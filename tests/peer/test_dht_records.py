"""A DHT node that strangers store into, as many of them as they like."""

import time
from typing import Any

import msgpack
import pytest

from peer.contact import MAX_BYTES
from peer.dht_records import (
    MAX_KEYS,
    MAX_LIFE_S,
    MAX_RECORDS,
    Guard,
    bounded_storage,
    peers_key,
    validator,
)
from protocol.errors import RemoteError
from tests.peer.people import contact

RUN = "a" * 64


@pytest.fixture
def dht() -> Any:
    """hivemind is slow to import, and only these tests need it."""
    return pytest.importorskip("hivemind.dht.routing").DHTID


def record(dht: Any, value: bytes, subkey: str, life_s: float = 60.0, run_id: str = RUN) -> Any:
    from hivemind.dht.validation import DHTRecord

    key = dht.generate(source=peers_key(run_id)).to_bytes()
    return DHTRecord(key, msgpack.packb(subkey), msgpack.packb(value), time.time() + life_s)


def test_a_million_announcements_take_no_more_room_than_a_few(dht: Any) -> None:
    storage, ends_s = bounded_storage(), time.time() + 60
    for number in range(20 * MAX_KEYS):
        storage.store(dht.generate(source=number), b"value", ends_s)
        assert len(storage.data) <= MAX_KEYS
    key = dht.generate(source="run")
    for number in range(20 * MAX_RECORDS):
        storage.store_subkey(key, f"peer {number}", b"value", ends_s + 1)
    known, _ = storage.get(key)
    assert 0 < len(known.data) <= MAX_RECORDS


def test_a_record_is_replaced_by_a_newer_one_as_before(dht: Any) -> None:
    storage, now_s = bounded_storage(), time.time()
    key = dht.generate(source="run")
    assert storage.store_subkey(key, "anna", b"old", now_s + 30)
    assert storage.store_subkey(key, "anna", b"new", now_s + 60)
    assert not storage.store_subkey(key, "anna", b"older", now_s + 10)
    known, _ = storage.get(key)
    assert known.get("anna").value == b"new"


def test_what_would_stay_for_long_or_is_too_large_is_not_stored(dht: Any) -> None:
    guard = Guard()
    takes = validator(guard).validate
    anna = contact("anna", RUN)
    value = anna.signed.SerializeToString()
    assert takes(record(dht, value, anna.peer_id))
    assert not takes(record(dht, value, anna.peer_id, life_s=2 * MAX_LIFE_S))
    assert not takes(record(dht, bytes(2 * MAX_BYTES), anna.peer_id))
    assert guard.refused == {"a record that would stay too long": 1, "an oversized record": 1}


def test_in_a_guarded_run_only_those_that_may_be_there_are_stored(dht: Any) -> None:
    guard = Guard()
    guard.guarded[dht.generate(source=peers_key(RUN)).to_bytes()] = RUN
    anna, bert = contact("anna", RUN), contact("bert", RUN)

    def only_anna(found: Any) -> None:
        if found.peer_id != anna.peer_id:
            raise RemoteError(found.peer_id, "not invited")

    guard.check = only_anna
    takes = validator(guard).validate
    assert takes(record(dht, anna.signed.SerializeToString(), anna.peer_id))
    assert not takes(record(dht, bert.signed.SerializeToString(), bert.peer_id))
    assert not takes(record(dht, anna.signed.SerializeToString(), bert.peer_id))
    assert not takes(record(dht, b"nonsense", bert.peer_id))
    assert guard.refused["not invited"] == 1
