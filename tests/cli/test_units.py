"""Rates and addresses as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.units import bytes_per_s, count, duration_s, host_and_port
from protocol.errors import InputError

BITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}


@given(
    thousandths=st.integers(0, 10**9),
    unit=st.sampled_from(sorted(BITS)),
    space=st.sampled_from(["", " "]),
    upper=st.booleans(),
)
def test_a_rate_is_a_number_and_a_unit(thousandths, unit, space, upper):
    text = f"{thousandths // 1000}.{thousandths % 1000:03d}{space}{unit}"
    rate = bytes_per_s("--up", text.upper() if upper else text)
    assert rate == pytest.approx(thousandths / 1000 * BITS[unit] / 8)


@given(st.floats(allow_nan=True).map(str) | st.integers().map(str) | st.text(max_size=12))
def test_a_rate_without_a_unit_is_refused_and_the_flag_is_named(text):
    if text.strip().lower().endswith("bit"):
        return
    with pytest.raises(InputError, match=r"--down .* as in 20mbit"):
        bytes_per_s("--down", text)


@pytest.mark.parametrize("text", ["20", "mbit", "-1mbit", "1e3mbit", "20mb", "20mbits", "2,5mbit"])
def test_rates_that_look_almost_right_are_refused(text):
    with pytest.raises(InputError):
        bytes_per_s("--up", text)


@given(host=st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True), port=st.integers(0, 65534))
def test_a_host_and_a_port(host, port):
    assert host_and_port("--listen", f"{host}:{port}") == (host, port)


@given(address=st.ip_addresses(v=6), port=st.integers(0, 65534))
def test_an_ipv6_address_stands_in_brackets(address, port):
    assert host_and_port("--listen", f"[{address}]:{port}") == (str(address), port)
    assert host_and_port("--listen", f"[{address}]") == (str(address), 0)


def test_a_host_alone_leaves_the_port_to_the_system():
    assert host_and_port("--listen", "127.0.0.1") == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    "text",
    ["", ":7000", "host:", "host:port", "host:-1", "host:65535", "host:7000:1", "[::1", "::1"],
)
def test_what_is_no_host_and_port_is_refused(text):
    with pytest.raises(InputError, match=r"--listen .* as in 0\.0\.0\.0:7000"):
        host_and_port("--listen", text)


@given(st.text(max_size=30))
def test_no_text_does_anything_but_give_a_host_and_a_port_or_a_refusal(text):
    try:
        host, port = host_and_port("--listen", text)
    except InputError:
        return
    assert host and 0 <= port < 65535


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("0.8s", 0.8), ("2 min", 120), ("0s", 0)]
)
def test_a_time_is_a_number_and_a_unit(text, seconds):
    assert duration_s("--rtt", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "ms", "-5ms", "1e3s", "5h", "5 m s"])
def test_a_time_without_a_unit_is_refused(text):
    with pytest.raises(InputError, match=r"--rtt .* as in 50ms"):
        duration_s("--rtt", text)


@pytest.mark.parametrize(
    ("text", "things"), [("1B", 10**9), ("350M", 350 * 10**6), ("1.5k", 1500), ("7", 7)]
)
def test_a_count_may_have_a_letter(text, things):
    assert count("--parameters", text) == things


@pytest.mark.parametrize(
    "text", ["", "0", "B", "-1B", "1e9", "1b", "1 billion", "0.5", "9" * 12 + "T"]
)
def test_a_count_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"--parameters .* as in 350M or 1B"):
        count("--parameters", text)
