"""Who owns which parts: every one exactly once, and the slowest link is done as early as can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from protocol.partition import (
    Link,
    assign_parts,
    owner_shares,
    round_traffic,
    transfer_time_s,
)

rates = st.floats(1e3, 1e9)
links = st.lists(st.builds(Link, rates, rates, st.booleans()), min_size=1, max_size=12)


def slowest_s(shares, links):
    """Time of an exchange of one byte per member, as protocol/partition.py states it."""
    members = len(links)
    return max(
        (1 + (members - 2) * share) / link.narrow_bytes_per_s
        for share, link in zip(shares, links, strict=True)
    )


def best_s(links):
    """The same by brute force: a linear programme over the shares and the time."""
    members = len(links)
    able = [link.dialable for link in links]
    if not any(able):
        able = [True] * members
    limits = np.zeros((members, members + 1))
    for i, link in enumerate(links):
        limits[i, i] = members - 2
        limits[i, -1] = -link.narrow_bytes_per_s
    answer = linprog(
        c=[0.0] * members + [1.0],
        A_ub=limits,
        b_ub=[-1.0] * members,
        A_eq=[[1.0] * members + [0.0]],
        b_eq=[1.0],
        bounds=[(0.0, 1.0 if is_able else 0.0) for is_able in able] + [(0.0, None)],
    )
    assert answer.success
    return answer.fun


@given(links)
def test_the_shares_sum_to_one(links):
    shares = owner_shares(links)
    assert len(shares) == len(links)
    assert all(share >= 0 for share in shares)
    assert sum(shares) == pytest.approx(1)


@given(links)
def test_a_peer_that_cannot_be_dialled_owns_nothing(links):
    if any(link.dialable for link in links):
        shares = owner_shares(links)
        assert all(s == 0 for s, link in zip(shares, links, strict=True) if not link.dialable)


@settings(max_examples=30)
@given(st.lists(st.builds(Link, st.floats(1, 1e3), st.floats(1, 1e3)), min_size=3, max_size=9))
def test_water_filling_is_as_fast_as_the_linear_programme(links):
    assert slowest_s(owner_shares(links), links) <= 1.01 * best_s(links)


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(Link, st.floats(1, 1e3), st.floats(1, 1e3), st.booleans()),
        min_size=3,
        max_size=9,
    )
)
def test_so_it_is_when_some_cannot_be_dialled(links):
    assert slowest_s(owner_shares(links), links) <= 1.01 * best_s(links)


@given(links, st.floats(1.0, 1e9), st.floats(0.0, 1e4))
def test_in_the_time_that_there_is_shares_are_as_equal_as_links_allow(
    links, fragment_bytes, time_s
):
    shares = owner_shares(links, fragment_bytes, time_s)
    assert sum(shares) == pytest.approx(1)
    if len(links) <= 2:
        return
    takes_s = [
        fragment_bytes * (1 + (len(links) - 2) * share) / link.narrow_bytes_per_s
        for share, link in zip(shares, links, strict=True)
        if share
    ]
    fastest_s = fragment_bytes * slowest_s(owner_shares(links), links)
    if max(takes_s) > time_s * (1 + 1e-6):
        assert shares == owner_shares(links), "not to be done in that time: as early as can be"
        assert fastest_s > time_s * (1 - 1e-6)
        return
    largest = max(shares)
    is_able = [link.dialable or not any(x.dialable for x in links) for link in links]
    owners = zip(shares, links, is_able, strict=True)
    for share, link, able in owners:
        if able and share < largest * (1 - 1e-6):
            more_s = fragment_bytes * (1 + (len(links) - 2) * largest) / link.narrow_bytes_per_s
            assert more_s > time_s, "it could have owned as much as the others"


def test_a_link_that_is_measured_slower_owns_no_less_while_there_is_time():
    slower = [Link(1e6, 1e6), Link(5e5, 1e6), Link(9e5, 9e5), Link(1e6, 1e6)]
    assert owner_shares(slower, 1e5, time_s=2.0) == pytest.approx([0.25] * 4)
    assert owner_shares(slower, 1e6, time_s=2.0)[1] == pytest.approx(0.0)


@given(st.integers(1, 16))
def test_equal_links_own_equal_shares(members):
    shares = owner_shares([Link(1e6, 1e6)] * members)
    assert shares == pytest.approx([1 / members] * members)


@given(links, st.integers(0, 200))
def test_every_part_has_exactly_one_owner(links, part_count):
    owners = assign_parts(owner_shares(links), part_count)
    assert len(owners) == part_count
    assert all(0 <= owner < len(links) for owner in owners)


@given(links, st.integers(1, 64))
def test_at_every_moment_nobody_is_more_than_one_part_ahead_of_its_share(links, part_count):
    shares = owner_shares(links)
    owners = assign_parts(shares, part_count)
    for done in range(1, part_count + 1):
        for member, share in enumerate(shares):
            assert owners[:done].count(member) < share * done + 1
            assert share > 0 or member not in owners


@given(st.integers(2, 12), st.integers(1, 8))
def test_at_equal_links_everybody_sends_and_receives_2_v_m_minus_1_over_m(members, parts_each):
    part_bytes = [1000] * (members * parts_each)
    owners = assign_parts(owner_shares([Link(1e6, 1e6)] * members), len(part_bytes))
    traffic = round_traffic(owners, part_bytes, [True] * members)
    expected = 2 * sum(part_bytes) * (members - 1) / members
    for member in range(members):
        assert traffic.sent_bytes(member) == expected
        assert traffic.received_bytes(member) == expected


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(1, 40), st.randoms())
def test_what_is_sent_is_received_and_receivers_send_only_their_means(contributing, parts, chance):
    members = len(contributing)
    owners = [chance.randrange(members) for _ in range(parts)]
    part_bytes = [chance.randrange(1, 5000) for _ in range(parts)]
    traffic = round_traffic(owners, part_bytes, contributing)
    everybody = range(members)
    assert sum(map(traffic.sent_bytes, everybody)) == sum(map(traffic.received_bytes, everybody))
    for member in everybody:
        owned = sum(size for owner, size in zip(owners, part_bytes, strict=True) if owner == member)
        others = sum(part_bytes) - owned
        contributed = others if contributing[member] else 0
        assert traffic.sent_bytes(member) == contributed + owned * (members - 1)
        received = sum(contributing) - contributing[member]
        assert traffic.received_bytes(member) == others + owned * received


def test_a_round_takes_the_time_there_is_or_longer_where_a_link_is_slow():
    links = [Link(1000, 1000), Link(1000, 500)]
    traffic = round_traffic([0, 1], [1000, 1000], [True, True])
    assert transfer_time_s(traffic, links, target_s=60) == 60
    assert transfer_time_s(traffic, links, target_s=0) == 2000 / 500
    assert transfer_time_s(round_traffic([0], [1000], [True]), [Link(1, 1)], target_s=0) == 0
