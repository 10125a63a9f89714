"""What this peer's part of the DHT holds: only what it believes, and only so much.

hivemind's own storage has no bounds, and keeps a record until it expires, whatever it says of that.
A flood here is a flood of records that expire within minutes; the soonest go first.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from peer.contact import MAX_BYTES, Contact, read_contact
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb

MAX_RECORDS: Final = 512
"""Under one key, stored or read."""
MAX_KEYS: Final = 256
MAX_LIFE_S: Final = 300.0
"""Honest records expire after a minute, by clocks that hivemind keeps within 3 s."""


def peers_key(run_id: str) -> str:
    return f"diloco/{run_id}/peers"


class Guard:
    """Which records are believed."""

    def __init__(self) -> None:
        self.guarded: dict[bytes, str] = {}
        """run_id by the DHT's key for it."""
        self.refused: Counter[str] = Counter()
        self.check: Callable[[Contact], None] = lambda contact: None
        """Raises RemoteError for the contact of a peer that is not to be in the run."""

    def read(self, run_id: str, peer_id: Any, value: Any) -> Contact | None:
        """The contact in a record, or None, counted."""
        try:
            if not isinstance(value, bytes) or len(value) > MAX_BYTES:
                raise RemoteError("", "a record that is no contact")
            contact = read_contact(pb.SignedContact.FromString(value), run_id, "")
            if contact.peer_id != peer_id:
                raise RemoteError("", "a record in another peer's place")
            contact.refuse_stale(time.time(), "")
            self.check(contact)
        except (RemoteError, DecodeError) as error:
            self.refused[error.why if isinstance(error, RemoteError) else "a garbled record"] += 1
            return None
        return contact


def validator(guard: Guard) -> Any:
    """hivemind asks it about every record that somebody stores here or answers with."""
    import msgpack
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.utils import get_dht_time

    class OnlyContacts(RecordValidatorBase):  # type: ignore[misc]
        def validate(self, record: DHTRecord) -> bool:
            # Also of keys that are not ours: their records are stored here all the same.
            if len(record.value) + len(record.subkey) > 2 * MAX_BYTES:
                guard.refused["an oversized record"] += 1
                return False
            if record.expiration_time > get_dht_time() + MAX_LIFE_S:
                guard.refused["a record that would stay too long"] += 1
                return False
            run_id = guard.guarded.get(record.key)
            if run_id is None:
                return True
            try:
                # Not with hivemind's own types, whose decoders raise many things.
                place, value = map(msgpack.unpackb, (record.subkey, record.value))
            except ValueError:
                guard.refused["a garbled record"] += 1
                return False
            return guard.read(run_id, place, value) is not None

    return OnlyContacts()


def bounded_storage() -> Any:
    """As hivemind's, with an end to keys and to records under one key."""
    from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue

    class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
        def store_subkey(self, key: Any, subkey: Any, value: bytes, expiration_time: float) -> bool:
            known = self.get(key)
            if known is None:
                self.store(key, DictionaryDHTValue(MAX_RECORDS), expiration_time)
            return bool(super().store_subkey(key, subkey, value, expiration_time))

    return BoundedStorage(maxsize=MAX_KEYS)
