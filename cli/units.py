"""Text that people type, with units, into numbers. Nothing else in the project parses units."""

import re

from protocol.errors import InputError

_RATE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*(kbit|mbit|gbit)\s*", re.IGNORECASE | re.ASCII)
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?")
_SIZE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*(kB|MB|GB|TB)\s*", re.IGNORECASE | re.ASCII)
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


def host_and_port(flag: str, text: str) -> tuple[str, int]:
    """`127.0.0.1:7000`, `[::1]:7000`, or a host alone (port 0: the system chooses)."""
    match = _HOST_PORT.fullmatch(text)
    # 65535 itself has no next port for the DHT.
    if match is None or int(match[3] or 0) > 65534:
        raise InputError(f"{flag} {text!r} is not HOST:PORT, as in 0.0.0.0:7000 or [::]:7000")
    return match[1] or match[2], int(match[3] or 0)
