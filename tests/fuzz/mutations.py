"""Inputs that nobody honest writes, made of those that somebody does; all follow from a seed.

    damaged     bytes flipped, cut, moved, repeated, zeroed; the end of another sample; mere chance
    protobuf    the wire as a tree, whatever it means: values at their bounds or of another type,
                fields gone, moved, unknown, exploded or of another sample, lengths that lie
    json_text   types swapped, numbers that are none or too large, depth, keys twice, half
                surrogates; canonical, so that it is not refused for its form alone, or not
    sealed      the same, mostly under a digest that fits again (peer/sealed.py)
    headed      a length, a header of JSON and data, as in safetensors files
    lines       JSON lines

Each takes a generator, a sample and another sample, and returns bytes.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

from protocol.digest import canonical, digest

Mutation: TypeAlias = Callable[[Random, bytes, bytes], bytes]

INTEGERS: Final = (0, 1, 2, 3, 7, 127, 128, 255, 65_537, 2**31 - 1, 2**31, 2**32, 2**53 + 1)
INTEGERS_64: Final = (*INTEGERS, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1)
DOUBLES: Final = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-9, 1e6, 1e308, float("inf"), float("nan"))
TEXTS: Final = ("", "a", "b-0", "\0", "../../x", "\x1b[2J", "é", "x" * 512, "x" * 513, "0" * 64)
BOMB_SHARE: Final = 1 / 500
"""Of the places where something is repeated without measure: they take a millisecond each."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""That repetition makes of something: twice what gRPC lets in, and what is read of a small file."""


# --- bytes ---------------------------------------------------------------------------------------


def damaged(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to four accidents."""
    buffer = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_ACCIDENTS)(rng, buffer, other)
    return bytes(buffer)


def _flip(rng: Random, buffer: bytearray, other: bytes) -> None:
    if buffer:
        buffer[rng.randrange(len(buffer))] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, buffer: bytearray, other: bytes) -> None:
    at = _place(rng, buffer)
    buffer[at : at + 8] = rng.randbytes(rng.randint(1, 8))


def _insert(rng: Random, buffer: bytearray, other: bytes) -> None:
    at = _place(rng, buffer)
    buffer[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))


def _delete(rng: Random, buffer: bytearray, other: bytes) -> None:
    at = _place(rng, buffer)
    del buffer[at : at + rng.choice((1, 2, 8, 64))]


def _truncate(rng: Random, buffer: bytearray, other: bytes) -> None:
    del buffer[_place(rng, buffer) :]


def _extend(rng: Random, buffer: bytearray, other: bytes) -> None:
    buffer += bytes(2**20) if rng.random() < BOMB_SHARE else rng.choice((b" ", b"\0", b"\n", b"}"))


def _zero(rng: Random, buffer: bytearray, other: bytes) -> None:
    at, size = _place(rng, buffer), rng.choice((1, 4, 16, 512))
    buffer[at : at + size] = bytes(len(buffer[at : at + size]))


def _repeat(rng: Random, buffer: bytearray, other: bytes) -> None:
    at = _place(rng, buffer)
    piece = bytes(buffer[at : at + rng.choice((1, 8, 64))])
    buffer[at:at] = piece * _count(rng, len(piece))


def _splice(rng: Random, buffer: bytearray, other: bytes) -> None:
    buffer[_place(rng, buffer) :] = other[_place(rng, other) :]


_ACCIDENTS: Final = (
    _flip, _flip, _overwrite, _insert, _delete, _truncate, _extend, _zero, _repeat, _splice,
)  # fmt: skip


def _place(rng: Random, data: bytes | bytearray) -> int:
    return rng.randrange(len(data) + 1)


def _count(rng: Random, size: int) -> int:
    """How often something of that size is repeated."""
    count = 70_000 if rng.random() < BOMB_SHARE else rng.choice((2, 3, 17, 300))
    return min(count, MOST_BYTES // max(size, 1))


# --- protobuf ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Field:
    """One field as it stands on the wire."""

    number: int
    kind: int
    """Wire type: 0 varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes."""
    value: Any
    """An int, bytes, or the fields of a message."""
    lie: int = 0
    """What is added to the length that is told."""


def protobuf(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to three changes of the tree; of the bytes, where they are no tree."""
    fields, donor = parse(data), parse(other)
    if fields is None:
        return damaged(rng, data, other)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if _change_fields(rng, fields, donor or []):
            break
    return serialize(fields)


def _change_fields(rng: Random, fields: list[Field], donor: list[Field]) -> bool:
    """One change; whether it was a repetition, which has to be the last: copies are one object."""
    spots = _spots(fields)
    if not spots:
        fields.append(_unknown(rng))
        return False
    siblings, at = rng.choice(spots)
    field = siblings[at]
    match rng.randrange(12):
        case 0:
            del siblings[at]
        case 1:
            siblings[at:at] = [field] * _count(rng, len(serialize([field])))
            return True
        case 2:
            siblings.insert(at, _unknown(rng))
        case 3:
            field.number = rng.choice((1, 2, 3, 4, 5, 9, 15, 16, 99, 2**29 - 1))
        case 4:
            field.lie = rng.choice((-1, 1, 8, 2**31 - 1, 2**62))
        case 5:
            rng.shuffle(siblings)
        case 6 if strangers := _spots(donor):
            theirs, place = rng.choice(strangers)
            siblings[at] = Field(field.number, theirs[place].kind, _payload(theirs[place]))
        case 7:
            siblings[at] = _unknown(rng, field.number)
        case _:
            field.value = _other_value(rng, field)
    return False


def _other_value(rng: Random, field: Field) -> Any:
    match field.kind:
        case 0:
            near = (field.value + rng.choice((-1, 1))) % 2**64
            return rng.choice((near, rng.choice(INTEGERS_64), rng.getrandbits(64), 2**70))
        case 1:
            return struct.pack("<d", rng.choice(DOUBLES))
        case 5:
            return rng.randbytes(4)
    value = _payload(field)
    if value[:1] in (b"{", b"[") and rng.random() < 0.8:
        return json_text(rng, value, b"")
    if rng.random() < 0.5:
        return rng.choice(TEXTS).encode()
    return damaged(rng, value, rng.randbytes(8))


def _unknown(rng: Random, number: int | None = None) -> Field:
    values = {
        0: rng.choice(INTEGERS_64),
        1: struct.pack("<d", rng.choice(DOUBLES)),
        2: rng.choice(TEXTS).encode(),
        3: b"",  # the beginning of a group, which proto3 has not
        5: rng.randbytes(4),
    }
    kind = rng.choice(list(values))
    return Field(rng.randint(1, 30) if number is None else number, kind, values[kind])


def _spots(fields: list[Field]) -> list[tuple[list[Field], int]]:
    """Every field, as a list and a place in it."""
    spots = [(fields, at) for at in range(len(fields))]
    for field in fields[:64]:
        if isinstance(field.value, list):
            spots += _spots(field.value)
    return spots


def parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The fields of a message, and of those in it; None when it cannot be one."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if at < 0 or not 0 < number < 2**29:
            return None
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            if at < 0 or size > len(data):
                return None
            value, at = data[at : at + size], at + size
            inner = parse(value, depth + 1) if value and depth < 4 else None
            value = value if inner is None else inner
        else:
            return None
        if not 0 <= at <= len(data):
            return None
        fields.append(Field(number, kind, value))
    return fields


def serialize(fields: list[Field]) -> bytes:
    """The bytes of a message, with whatever lies are in it."""
    data = bytearray()
    for field in fields:
        data += _as_varint(field.number << 3 | field.kind)
        if field.kind == 0:
            data += _as_varint(field.value)
        elif field.kind == 2:
            value = _payload(field)
            data += _as_varint(max(0, len(value) + field.lie)) + value
        else:
            data += field.value
    return bytes(data)


def _payload(field: Field) -> Any:
    return serialize(field.value) if isinstance(field.value, list) else field.value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number there and the place behind it, or -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, -1


def _as_varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


# --- JSON ----------------------------------------------------------------------------------------

_TOKENS: Final = {
    "@1e999": "1e999",
    "@-0": "-0",
    "@1.0": "1.0",
    "@many digits": "9" * 5000,
    "@deep": "[" * 300 + "]" * 300,
    "@deeper": '{"a":' * 100_000,
    "@half": '"\\ud800"',
}
"""What no Python value is written as; it takes the place of its name in the text."""


def json_text(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to three changes of the value, or of how it is spelled."""
    value = _loaded(data)
    if value is None:
        return damaged(rng, data, other)
    return _spelled(rng, changed(rng, value, _loaded(other)))


def changed(rng: Random, value: Any, other: Any = None) -> Any:
    """A value that JSON can say, with one to three differences."""
    root = [value]
    for _ in range(rng.choice((1, 1, 2, 3))):
        slots = _slots(root)
        container, key = rng.choice(slots)
        if rng.random() < 0.15 and (container is not root):
            del container[key]
        elif rng.random() < 0.1 and isinstance(container, list):
            container[key:key] = [container[key]] * _count(rng, len(repr(container[key])))
            break  # the copies are one object: another change of it would be one of all
        elif rng.random() < 0.1 and isinstance(container, dict):
            container[rng.choice((key + "x", *TEXTS, *container))] = container.pop(key)
        else:
            container[key] = _other_json(rng, container[key], other)
    return root[0]


def _other_json(rng: Random, value: Any, other: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.7:
        return json_text(rng, value.encode(), b"").decode(errors="replace")
    if isinstance(value, str) and value and rng.random() < 0.4:
        return damaged(rng, value.encode(), b"").decode(errors="replace")
    if isinstance(value, int | float) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**31, 2**63))
    token = rng.choice(tuple(_TOKENS)[:5])
    if rng.random() < BOMB_SHARE:
        token = "@deeper"
    return rng.choice(
        (
            None,
            rng.random() < 0.5,
            rng.choice(INTEGERS_64) * rng.choice((1, -1)),
            rng.choice(DOUBLES),
            rng.choice(TEXTS),
            token,
            [],
            {},
            [value],
            {"x": value},
            str(value)[:2000],
            "@half",
            other,
        )
    )


def _spelled(rng: Random, value: Any) -> bytes:
    compact = rng.random() < 0.8
    try:
        text = json.dumps(
            value,
            sort_keys=compact,
            separators=(",", ":") if compact else None,
            ensure_ascii=compact,
        )
    except (RecursionError, ValueError):  # an integer of too many digits is not written either
        return b"[" * 5000
    for name, token in _TOKENS.items():
        text = text.replace(json.dumps(name), token)
    if text[:1] == "{" and rng.random() < 0.1:  # the first key once more
        text = "{" + text[1:].partition(",")[0].rstrip("}") + "," + text[1:]
    return text.encode(errors="replace")


def _slots(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every value in a tree, as a container and a key of it; the first thousand."""
    slots: list[tuple[Any, Any]] = []
    containers: list[Any] = [root]
    for container in containers:
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            slots.append((container, key))
            if isinstance(container[key], dict | list):
                containers.append(container[key])
        if len(slots) > 1000:
            break
    return slots


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# --- files ---------------------------------------------------------------------------------------


def sealed(rng: Random, data: bytes, other: bytes) -> bytes:
    """Damage that no digest shows, two times of three: what an edited file may say."""
    record = _loaded(data)
    if not isinstance(record, dict) or rng.random() < 1 / 3:
        return json_text(rng, data, other)
    record.pop("digest", None)
    record = changed(rng, record, _loaded(other))
    try:
        again = json.loads(_spelled(rng, record))
        return canonical({**again, "digest": digest(canonical(again))})
    except (ValueError, TypeError, RecursionError):
        return _spelled(rng, record)


def is_sealed(data: bytes) -> bool:
    """Whether a file carries a digest that fits; told without the code that is tested."""
    try:
        record = json.loads(data)
        claimed = record.pop("digest")
        return bool(claimed == digest(canonical(record)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def headed(rng: Random, data: bytes, other: bytes) -> bytes:
    """A changed header under its own length, or under one that lies."""
    size = int.from_bytes(data[:8], "little")
    head, rest = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.7:
        head = json_text(rng, head, b"")
    else:
        rest = damaged(rng, rest, other)
    told = len(head) if rng.random() < 0.9 else rng.choice(INTEGERS_64)
    return told.to_bytes(8, "little") + head + rest


def lines(rng: Random, data: bytes, other: bytes) -> bytes:
    """Lines of JSON, one of them changed, gone, moved or torn."""
    kept = data.split(b"\n")
    at = rng.randrange(len(kept))
    match rng.randrange(8):
        case 0:
            del kept[at]
        case 1:
            rng.shuffle(kept)
        case 2:
            kept[at:at] = [kept[at]] * rng.choice((1, 2, 50))
        case 3:
            kept[at] = damaged(rng, kept[at], other)
        case _:
            kept[at] = json_text(rng, kept[at], b"")
    return b"\n".join(kept)
