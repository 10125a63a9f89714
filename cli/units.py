"""Text that people type, with units, into numbers. Nothing else in the project parses units."""

import re

from protocol.errors import InputError

_RATE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*(kbit|mbit|gbit)\s*", re.IGNORECASE | re.ASCII)
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?")
_SIZE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*(kB|MB|GB|TB)\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*(ms|s|min)\s*", re.IGNORECASE | re.ASCII)
_DAYS = re.compile(r"\s*([0-9]{1,5}(?:\.[0-9]+)?)\s*(d|h|min)\s*", re.IGNORECASE | re.ASCII)
_COUNT = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]+)?)\s*([kKMBT]?)\s*", re.ASCII)
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0}
_TIMES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_MAX_COUNT = 1e14
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def bytes_per_s(flag: str, text: str) -> float:
    """`20mbit` -> 2 500 000.0; raises InputError that names the flag when the unit is missing."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise InputError(f"{flag} {text!r} is not a rate: give a number and a unit, as in 20mbit")
    return float(match[1]) * _BITS[match[2].lower()] / 8


def size_bytes(flag: str, text: str) -> int:
    """`1GB` -> 1 000 000 000; raises InputError that names the flag when the unit is missing."""
    match = _SIZE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{flag} {text!r} is not a size: give a number and a unit, as in 1GB")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def duration_s(flag: str, text: str) -> float:
    """`250ms` -> 0.25; raises InputError that names the flag when the unit is missing."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InputError(f"{flag} {text!r} is not a time: give a number and a unit, as in 50ms")
    return float(match[1]) * _SECONDS[match[2].lower()]


def days(flag: str, text: str) -> float:
    """`30d` -> 30.0, `12h` -> 0.5; raises InputError that names the flag when there is no unit."""
    match = _DAYS.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{flag} {text!r} is not a time: give a number and a unit, as in 30d")
    return float(match[1]) * {"d": 1.0, "h": 1 / 24, "min": 1 / 1440}[match[2].lower()]


def count(flag: str, text: str) -> int:
    """`350M` -> 350 000 000, `1B` -> 1 000 000 000; raises InputError that names the flag."""
    match = _COUNT.fullmatch(text)
    value = float(match[1]) * _TIMES[match[2]] if match else 0.0
    if not 1 <= value <= _MAX_COUNT:
        raise InputError(f"{flag} {text!r} is not a number of things: say it as in 350M or 1B")
    return int(value)


def host_and_port(flag: str, text: str) -> tuple[str, int]:
    """`127.0.0.1:7000`, `[::1]:7000`, or a host alone (port 0: the system chooses)."""
    match = _HOST_PORT.fullmatch(text)
    # 65535 itself has no next port for the DHT.
    if match is None or int(match[3] or 0) > 65534:
        raise InputError(f"{flag} {text!r} is not HOST:PORT, as in 0.0.0.0:7000 or [::]:7000")
    return match[1] or match[2], int(match[3] or 0)
