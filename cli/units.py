"""Text that people type, with units, into numbers. Nothing else in the project parses units."""

import re

from protocol.errors import InputError

_RATE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(kbit|mbit|gbit)\s*$", re.IGNORECASE)
_BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def bytes_per_s(flag: str, text: str) -> float:
    """`20mbit` -> 2 500 000.0; raises InputError that names the flag when the unit is missing."""
    match = _RATE.match(text)
    if match is None:
        raise InputError(f"{flag} {text!r} is not a rate: give a number and a unit, as in 20mbit")
    return float(match[1]) * _BITS[match[2].lower()] / 8


def host_and_port(flag: str, text: str) -> tuple[str, int]:
    """`127.0.0.1:7000`, `[::1]:7000`, or a host alone (port 0: the system chooses)."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, "0"
    if not port.isdigit() or int(port) > 65534 or not host:
        raise InputError(f"{flag} {text!r} is not HOST:PORT, as in 0.0.0.0:7000")
    return host.strip("[]"), int(port)
