"""The exchange of one round: what goes where, what is refused, and partial credit.

a owns part 0, b part 1 and c part 2. How a whole group plays a round, policy by policy, stands in
tests/protocol/transcripts.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import codec_named
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import AveragePart, Effect, Leg, SendPart
from protocol.log import Part
from protocol.messages import Amend, Mean
from protocol.provenance import Provenance
from protocol.round import RATE_HEADROOM, Exchange
from tests.protocol import arriving
from tests.protocol.makers import ABC, VALUES, roster, terms
from tests.sim.keys import SimKey

SENT = {peer: [f"{peer} {i}".encode().ljust(8) for i in range(3)] for peer in ABC}
"""What each member contributes to each part."""
MEANS = [f"mean {i}".encode().ljust(8) for i in range(3)]


def exchange(me: str = "b", **changed) -> Exchange:
    provenance = Provenance(me, terms(), SimKey(me))
    return Exchange(me, roster(**changed), codec_named("fp32"), VALUES, provenance)


def contributing(me: str = "b", **changed) -> Exchange:
    """One that has sent its own contributions."""
    machine = exchange(me, **changed)
    machine.contribute(SENT[me])
    return machine


def amend(
    lost: tuple[str, ...] = (), owners: tuple[int, ...] = (0, 1, 2), *, number: int = 0, **changed
) -> Amend:
    fields = {"round": 0, "roster": roster().digest, "resend_s": 0.0}
    return Amend(**fields | changed, number=number, lost=lost, owners=owners)


def takes(
    machine: Exchange,
    sender: str,
    leg: Leg,
    part_index: int,
    data: bytes,
    without: tuple[int, ...] = (),
) -> list[Effect]:
    return machine.receive(arriving.part(sender, machine.roster, leg, part_index, data, without))


def gets(machine: Exchange, sender: str, part_index: int) -> list[Effect]:
    """A contribution arrives."""
    return takes(machine, sender, Leg.SCATTER, part_index, SENT[sender][part_index])


def gets_mean(
    machine: Exchange, sender: str, part_index: int, without: tuple[int, ...] = ()
) -> list[Effect]:
    return takes(machine, sender, Leg.GATHER, part_index, MEANS[part_index], without)


def mean(part_index: int, without: tuple[int, ...] = ()) -> Mean:
    return Mean(part_index=part_index, digest=digest(MEANS[part_index]), without=without)


def sent(effects: list[Effect]) -> list[tuple[str, Leg, int, bytes]]:
    parts = [e for e in effects if isinstance(e, SendPart)]
    return [(part.to, part.leg, part.part_index, part.data) for part in parts]


def averaged_of(effects: list[Effect]) -> list[tuple[int, tuple[str, ...]]]:
    """(part, whose contributions) of every mean that is to be made."""
    return [(e.part_index, e.senders) for e in effects if isinstance(e, AveragePart)]


# --- everybody is there ---------------------------------------------------------------------------


def test_each_part_goes_to_its_owner():
    assert sent(exchange().contribute(SENT["b"])) == [
        ("a", Leg.SCATTER, 0, SENT["b"][0]),
        ("c", Leg.SCATTER, 2, SENT["b"][2]),
    ]


def test_an_owner_averages_once_it_has_everything_in_peer_id_order():
    machine = exchange()
    assert not gets(machine, "c", 1)
    assert not averaged_of(machine.contribute(SENT["b"]))
    (average,) = gets(machine, "a", 1)
    assert isinstance(average, AveragePart)
    assert average.senders == ABC
    assert average.contributions == tuple(SENT[peer][1] for peer in ABC)
    assert average.tokens == (1, 1, 1) and average.values == 2


def test_the_owner_keeps_the_bytes_that_it_sends():
    machine = contributing()
    gets(machine, "a", 1)
    gets(machine, "c", 1)
    assert sent(machine.averaged(1, MEANS[1])) == [
        ("a", Leg.GATHER, 1, MEANS[1]),
        ("c", Leg.GATHER, 1, MEANS[1]),
    ]
    assert machine.means == (mean(1),)
    assert machine.bytes_of(digest(MEANS[1])) == MEANS[1]


def test_what_arrives_twice_changes_nothing():
    machine = exchange()
    gets(machine, "a", 1)
    assert not takes(machine, "a", Leg.SCATTER, 1, b"otherwise"[:8])
    machine.contribute(SENT["b"])
    (average,) = gets(machine, "c", 1)
    assert isinstance(average, AveragePart) and average.contributions[0] == SENT["a"][1]
    assert not gets(machine, "c", 1), "a mean is made once"
    gets_mean(machine, "a", 0)
    gets_mean(machine, "a", 0)
    assert machine.means == (mean(0),)


def test_of_what_one_owner_sends_as_its_mean_only_the_first_is_kept():
    """Or it could fill the memory of everybody."""
    machine = contributing()
    gets_mean(machine, "a", 0)
    takes(machine, "a", Leg.GATHER, 0, b"otherwise"[:8])
    assert machine.means == (mean(0),)


@pytest.mark.parametrize(
    ("sender", "leg", "part_index", "size"),
    [
        ("a", Leg.SCATTER, 0, 8),
        ("a", Leg.SCATTER, 2, 8),
        ("x", Leg.SCATTER, 1, 8),
        ("x", Leg.GATHER, 1, 8),
        ("a", Leg.GATHER, 1, 8),
        ("c", Leg.GATHER, 0, 8),
        ("a", Leg.SCATTER, 3, 8),
        ("a", Leg.SCATTER, -1, 8),
        ("a", Leg.SCATTER, 1, 7),
        ("a", Leg.GATHER, 0, 9),
    ],
)
def test_a_part_that_is_not_its_senders_to_send_is_refused(sender, leg, part_index, size):
    with pytest.raises(RemoteError):
        takes(exchange(), sender, leg, part_index, bytes(size))


@pytest.mark.parametrize("without", [(0, 1, 2), (3,), (-1,), (1, 0), (1, 1)])
def test_a_mean_of_nobody_or_of_strangers_is_refused(without):
    machine = exchange()
    with pytest.raises(RemoteError):
        gets_mean(machine, "a", 0, without)
    assert machine.means == ()


def test_a_member_without_tokens_contributes_nothing_and_is_not_waited_for():
    machine = contributing(tokens=(1, 1, 0))
    assert not exchange("c", tokens=(1, 1, 0)).contributes
    assert averaged_of(gets(machine, "a", 1)) == [(1, ("a", "b"))]
    with pytest.raises(RemoteError):
        gets(machine, "c", 1)


def test_all_members_that_hold_the_same_means_say_so_in_the_same_words():
    reports = set()
    for me in ABC:
        machine = contributing(me)
        for part_index, owner in enumerate(ABC):
            if owner == me:
                for peer in ABC:
                    gets(machine, peer, part_index)
                machine.averaged(part_index, MEANS[part_index])
            else:
                gets_mean(machine, owner, part_index)
        assert machine.is_complete
        reports.add(machine.means)
    assert reports == {(mean(0), mean(1), mean(2))}


def test_a_link_is_planned_to_carry_its_bytes_in_the_time_of_the_roster():
    sends = [e for e in exchange().contribute(SENT["b"]) if isinstance(e, SendPart)]
    # To a: one contribution and one mean of 8 bytes each, in 4 s.
    assert [send.rate_bytes_per_s for send in sends] == [RATE_HEADROOM * 16 / 4.0] * 2


# --- a contributor is lost or late ----------------------------------------------------------------


def test_once_a_contributor_is_given_up_its_parts_are_averaged_without_it():
    machine = contributing()
    gets(machine, "a", 1)
    assert averaged_of(machine.amend("a", amend(lost=("c",)))) == [(1, ("a", "b"))]
    effects = machine.averaged(1, MEANS[1])
    assert machine.means == (mean(1, without=(2,)),)
    assert sent(effects) == [("a", Leg.GATHER, 1, MEANS[1])], "c gets none"
    assert [e.without for e in effects if isinstance(e, SendPart)] == [(2,)]


def test_what_has_arrived_from_a_lost_contributor_counts():
    machine = contributing()
    gets(machine, "c", 1)
    assert not machine.amend("a", amend(lost=("c",))), "a is still waited for"
    assert averaged_of(gets(machine, "a", 1)) == [(1, ABC)]


def test_when_the_time_is_over_every_part_is_averaged_with_what_is_there():
    machine = contributing(owners=(1, 1, 2))
    gets(machine, "a", 0)
    assert averaged_of(machine.close()) == [(0, ("a", "b")), (1, ("b",))]
    assert not machine.close()


def test_what_comes_too_late_changes_nothing():
    machine = contributing()
    machine.close()
    assert not gets(machine, "a", 1)
    machine.averaged(1, MEANS[1])
    assert not gets(machine, "c", 1)
    assert machine.means == (mean(1, without=(0, 2)),)


def test_an_owner_to_which_nothing_came_averages_nothing():
    assert not exchange().close()


def test_a_contribution_that_cannot_be_decoded_is_left_out():
    machine = contributing()
    gets(machine, "c", 1)
    gets(machine, "a", 1)
    assert averaged_of(machine.refused(1, "c")) == [(1, ("a", "b"))]
    machine.averaged(1, MEANS[1])
    assert machine.means == (mean(1, without=(2,)),)


def test_a_part_whose_only_contribution_cannot_be_decoded_waits_for_others():
    machine = exchange()
    gets(machine, "c", 1)
    machine.close()
    assert not machine.refused(1, "c")
    assert averaged_of(machine.contribute(SENT["b"])) == []
    assert averaged_of(machine.close()) == [(1, ("b",))]


def test_a_mean_stands_for_its_contributors_tokens():
    machine = exchange(tokens=(5, 0, 7))
    assert machine.part_of(mean(0)) == Part(digest(MEANS[0]), (5, 0, 7))
    # c is the second of the two contributors.
    assert machine.part_of(mean(0, without=(1,))) == Part(digest(MEANS[0]), (5, 0, 0))


def test_a_round_is_complete_when_nothing_more_can_come():
    machine = contributing()
    machine.close()
    machine.averaged(1, MEANS[1])
    gets_mean(machine, "a", 0)
    assert not machine.is_complete
    machine.amend("a", amend(lost=("c",)))
    assert machine.is_complete, "c has been given up"
    machine.amend("a", amend(lost=("c",), owners=(0, 1, 0), number=3, resend_s=1.0))
    assert not machine.is_complete, "the part has moved, and comes from a"
    takes(machine, "a", Leg.GATHER, 2, MEANS[2], (2,))
    assert machine.is_complete


# --- an owner is lost -----------------------------------------------------------------------------

HEIR = amend(lost=("c",), owners=(0, 1, 0), resend_s=2.0)
"""c is given up, and its part goes to a."""


def test_a_part_whose_owner_is_lost_is_sent_to_the_next_one_and_nothing_else_is():
    machine = contributing()
    assert sent(machine.amend("a", HEIR)) == [("a", Leg.SCATTER, 2, SENT["b"][2])]
    assert machine.owners == ("a", "b", "a") and machine.resent_bytes == 8


def test_the_next_owner_averages_what_it_is_sent_and_its_own():
    machine = contributing("a")
    assert averaged_of(machine.amend("a", HEIR)) == []
    assert averaged_of(gets(machine, "b", 2)) == [(2, ("a", "b"))]
    machine.averaged(2, MEANS[2])
    assert machine.means == (mean(2, without=(2,)),)
    assert machine.resent_bytes == 0, "what it keeps for itself is not sent"


def test_what_goes_to_the_next_owner_goes_once():
    machine = contributing()
    machine.amend("a", HEIR)
    assert not sent(machine.amend("a", amend(lost=("c",), owners=(0, 1, 0), number=3)))
    assert machine.resent_bytes == 8


def test_who_has_not_sent_yet_sends_to_the_next_owner_at_once():
    machine = exchange()
    assert not machine.amend("a", HEIR)
    assert [(to, i) for to, _, i, _ in sent(machine.contribute(SENT["b"]))] == [("a", 0), ("a", 2)]
    assert machine.resent_bytes == 0


def test_a_part_that_moves_away_from_its_live_owner_is_its_first_sending():
    """The owner had kept its own contribution: the wire has not seen it."""
    machine = contributing()
    moved = amend(lost=("b",), owners=(0, 2, 2), resend_s=2.0)
    assert sent(machine.amend("a", moved)) == [("c", Leg.SCATTER, 1, SENT["b"][1])]
    assert machine.resent_bytes == 0


def test_a_mean_of_the_lost_owner_and_one_of_the_next_may_both_be_here():
    machine = contributing()
    gets_mean(machine, "c", 2)
    machine.amend("a", HEIR)
    takes(machine, "a", Leg.GATHER, 2, b"another!", (2,))
    assert machine.means == (mean(2), Mean(part_index=2, digest=digest(b"another!"), without=(2,)))
    assert machine.bytes_of(digest(MEANS[2])) == MEANS[2]
    assert machine.bytes_of(digest(b"another!")) == b"another!"


def test_a_part_is_waited_for_while_an_amendment_may_yet_allow_it():
    machine = contributing()
    assert machine.expected_bytes("a", Leg.GATHER, 2) is None
    machine.amend("a", HEIR)
    assert machine.expected_bytes("a", Leg.GATHER, 2) == 8
    assert contributing("a").expected_bytes("b", Leg.SCATTER, 2) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"owners": (0, 1)},
        {"owners": (0, 1, 3)},
        {"owners": (0, 1, -1)},
        {"lost": ("x",)},
    ],
    ids=str,
)
def test_an_amendment_that_does_not_fit_is_refused_and_changes_nothing(changed):
    machine = contributing()
    with pytest.raises(RemoteError, match="a: an amendment"):
        machine.amend("a", amend(**changed))
    assert machine.number == -1 and machine.owners == ABC and not machine.lost


def test_links_that_carry_moved_parts_get_a_rate_for_them():
    machine = contributing()
    (send,) = machine.amend("a", HEIR)
    assert isinstance(send, SendPart)
    # Part 2 to a in 2 s; the means of it come from a. What was planned before still runs.
    assert send.rate_bytes_per_s == max(RATE_HEADROOM * 16 / 4.0, RATE_HEADROOM * 8 / 2.0)


# --- any order ------------------------------------------------------------------------------------


@given(st.permutations([(peer, i) for peer in "ac" for i in (1, 2)]), st.integers(0, 4))
def test_however_it_comes_about_nothing_is_averaged_twice_and_nobody_counts_twice(order, moment):
    """b owns part 1, and inherits part 2 from c at some moment between the arrivals."""
    machine = contributing()
    effects: list[Effect] = []
    for place, (sender, part_index) in enumerate(order):
        if place == moment:
            moved = amend(lost=("c",), owners=(0, 1, 1), resend_s=1.0)
            effects += machine.amend("a", moved)
        if machine.expected_bytes(sender, Leg.SCATTER, part_index) is not None:
            effects += gets(machine, sender, part_index)
    parts = averaged_of(effects + machine.close())
    assert len({part_index for part_index, _ in parts}) == len(parts)
    assert all(list(senders) == sorted(set(senders)) for _, senders in parts)
    assert all("b" in senders for _, senders in parts)
