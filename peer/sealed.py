"""Small JSON files that carry their own digest, so that a damaged one is known for what it is."""

import json
from typing import Any

from peer.disk import MAX_SMALL_BYTES
from protocol.digest import canonical, digest


def seal(record: dict[str, Any]) -> bytes:
    """Bytes of a file with this record, which has no key "digest" of its own."""
    assert "digest" not in record
    data = canonical({**record, "digest": digest(canonical(record))})
    assert len(data) <= MAX_SMALL_BYTES, "a file that nobody could read again"
    return data


def unseal(data: bytes) -> dict[str, Any]:
    """The record that was sealed.

    Raises:
        ValueError: torn, flipped or edited.
    """
    try:
        record: dict[str, Any] = json.loads(data)
        claimed = record.pop("digest")
        found = digest(canonical(record))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("torn") from error
    if claimed != found:
        raise ValueError("its digest does not fit")
    return record
