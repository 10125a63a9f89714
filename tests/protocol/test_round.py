"""One member's side of a round: what it takes, what it refuses, and what it must keep.

How a whole group plays a round, policy by policy, stands in tests/protocol/transcripts.
"""

import pytest

from protocol.codec import codec_named
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    AveragePart,
    Effect,
    Leg,
    MessageReceived,
    Note,
    PartAveraged,
    PartReceived,
    PeerUnreachable,
    Send,
    SendPart,
    ShareTrained,
    SnapshotTaken,
    StartRound,
    TakeSnapshot,
)
from protocol.log import Entry, Part, coordinators
from protocol.manifest import Limits
from protocol.member import Member
from protocol.messages import (
    Accept,
    Accepted,
    Ask,
    Decided,
    Heartbeat,
    Held,
    Leave,
    Message,
    Prepare,
    Promise,
    Ready,
    Roster,
)
from protocol.messages import Member as RosterMember
from protocol.round import RATE_HEADROOM, Exchange
from protocol.schedule import Schedule
from protocol.terms import Terms
from tests.protocol.makers import entry, head, ready

FP32 = codec_named("fp32")
PARTS = (2, 2, 2)
DATA = [bytes([i]) * 8 for i in range(3)]
ABC = ("a", "b", "c")
RUN = next(f"run {i}" for i in range(100) if coordinators(f"run {i}", 0, ABC) == ABC)


def roster(ballot: int = 0, tokens=(1, 1, 1), **changed) -> Roster:
    """By default a owns part 0, b part 1 and c part 2."""
    fields = {
        "round": 0,
        "ballot": ballot,
        "parent": head().digest,
        "members": tuple(
            RosterMember(peer_id=p, tokens=t, pace_steps_per_s=1.0)
            for p, t in zip(ABC, tokens, strict=True)
        ),
        "owners": (0, 1, 2),
        "missing": (),
        "transfer_s": 4.0,
        "deadline_s": 10.0,
    }
    return Roster(**fields | changed)


def member(me: str = "b", *, lockstep: bool = False) -> Member:
    terms = Terms(
        run_id=RUN,
        schedule=Schedule(sync_every=4, num_fragments=2, sync_delay_steps=1, total_steps=40),
        part_values=(PARTS, PARTS),
        codec=FP32,
        limits=Limits(round_deadline_s=20.0),
        lockstep=lockstep,
    )
    return Member(me=me, terms=terms, head=head(), now_s=0.0)


def hear(machine: Member, sender: str, message: Message, now_s: float = 0.0) -> list[Effect]:
    return machine.handle(MessageReceived(sender, message), now_s)


def share(tokens: int = 1) -> ShareTrained:
    return ShareTrained(
        round=0,
        state="s",
        tokens=tokens,
        pace_steps_per_s=1.0,
        up_bytes_per_s=1000.0,
        down_bytes_per_s=1000.0,
        overhead_s=0.1,
    )


def part(sender: str, of: Roster, leg: Leg, part_index: int, data: bytes) -> PartReceived:
    return PartReceived(sender=sender, roster=of.digest, leg=leg, part_index=part_index, data=data)


def complete(machine: Member, of: Roster) -> list[Effect]:
    """Bring b through the whole exchange of a roster that counts it."""
    machine.handle(SnapshotTaken(round=0, parts=tuple(DATA)), 0.0)
    for sender in "ac":
        machine.handle(part(sender, of, Leg.SCATTER, 1, DATA[1]), 0.0)
    machine.handle(PartAveraged(roster=of.digest, part_index=1, data=DATA[1]), 0.0)
    machine.handle(part("a", of, Leg.GATHER, 0, DATA[0]), 0.0)
    return machine.handle(part("c", of, Leg.GATHER, 2, DATA[2]), 0.0)


def decided_entry(**changed) -> Entry:
    """What a group in which everybody holds DATA decides."""
    fields = {
        "parent": head().digest,
        "parts": tuple(Part(digest(data), (1, 1, 1)) for data in DATA),
        "missing": (),
    }
    return entry(**fields | changed)


def decided(of: Entry) -> Decided:
    return Decided(round=of.round, entry=of, accepted_by=("a", "b"))


def kinds(effects: list[Effect]) -> list[type]:
    return [type(e.message) if isinstance(e, Send) else type(e) for e in effects]


# --- the exchange ---------------------------------------------------------------------------------


def exchange(me: str = "b", **changed) -> Exchange:
    return Exchange(me, roster(**changed), FP32, PARTS)


def test_each_part_goes_to_its_owner():
    sends = [e for e in exchange().contribute(DATA) if isinstance(e, SendPart)]
    assert [(send.to, send.part_index, send.data) for send in sends] == [
        ("a", 0, DATA[0]),
        ("c", 2, DATA[2]),
    ]
    assert {send.leg for send in sends} == {Leg.SCATTER}


def test_an_owner_averages_once_it_has_everything_in_peer_id_order():
    owner = exchange()
    assert not owner.receive("c", Leg.SCATTER, 1, b"c" * 8)
    assert AveragePart not in kinds(owner.contribute([b"b" * 8] * 3))
    (average,) = owner.receive("a", Leg.SCATTER, 1, b"a" * 8)
    assert isinstance(average, AveragePart)
    assert average.senders == ABC
    assert average.contributions == (b"a" * 8, b"b" * 8, b"c" * 8)
    assert average.tokens == (1, 1, 1) and average.values == 2


def test_the_owner_keeps_the_bytes_that_it_sends():
    owner = exchange()
    sends = owner.averaged(1, DATA[1])
    assert {(send.to, send.leg, send.data) for send in sends if isinstance(send, SendPart)} == {
        ("a", Leg.GATHER, DATA[1]),
        ("c", Leg.GATHER, DATA[1]),
    }
    assert owner.means[1] == DATA[1]
    assert not owner.averaged(1, b"other..."), "a mean is made once"


def test_what_arrives_twice_changes_nothing():
    owner = exchange()
    owner.receive("a", Leg.SCATTER, 1, b"a" * 8)
    assert not owner.receive("a", Leg.SCATTER, 1, b"x" * 8)
    owner.contribute(DATA)
    (average,) = owner.receive("c", Leg.SCATTER, 1, b"c" * 8)
    assert isinstance(average, AveragePart) and average.contributions[0] == b"a" * 8
    owner.receive("a", Leg.GATHER, 0, DATA[0])
    owner.receive("a", Leg.GATHER, 0, b"x" * 8)
    assert owner.means[0] == DATA[0]


@pytest.mark.parametrize(
    ("sender", "leg", "part_index", "size"),
    [
        ("a", Leg.SCATTER, 0, 8),
        ("a", Leg.SCATTER, 2, 8),
        ("x", Leg.SCATTER, 1, 8),
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
        exchange().receive(sender, leg, part_index, bytes(size))


def test_a_member_without_tokens_contributes_nothing_and_is_not_waited_for():
    owner = exchange(tokens=(1, 1, 0))
    assert not exchange("c", tokens=(1, 1, 0)).contributes
    owner.contribute(DATA)
    assert kinds(owner.receive("a", Leg.SCATTER, 1, DATA[1])) == [AveragePart]
    with pytest.raises(RemoteError):
        owner.receive("c", Leg.SCATTER, 1, DATA[1])


def test_all_members_that_hold_the_same_means_name_one_digest():
    digests = set()
    for me in ABC:
        machine = exchange(me)
        for part_index, owner in enumerate(ABC):
            if owner == me:
                machine.averaged(part_index, DATA[part_index])
            else:
                machine.receive(owner, Leg.GATHER, part_index, DATA[part_index])
        assert machine.is_complete
        digests.add(machine.parts_digest)
    assert len(digests) == 1


def test_a_link_is_planned_to_carry_its_bytes_in_the_time_of_the_roster():
    sends = [e for e in exchange().contribute(DATA) if isinstance(e, SendPart)]
    # To a: one contribution and one mean of 8 bytes each, in 4 s.
    assert [send.rate_bytes_per_s for send in sends] == [RATE_HEADROOM * 16 / 4.0] * 2


# --- a member -------------------------------------------------------------------------------------


def test_a_member_takes_its_snapshot_once_the_roster_is_there():
    machine = member()
    machine.handle(share(), 0.0)
    assert kinds(hear(machine, "a", roster())) == [StartRound, TakeSnapshot]
    assert machine.roster == roster()


def test_a_roster_says_nothing_new_the_second_time():
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    assert not hear(machine, "a", roster())


def test_who_is_not_ready_only_receives():
    machine = member()
    assert kinds(hear(machine, "a", roster(tokens=(1, 0, 1)))) == [StartRound]


def test_holding_everything_is_reported_to_the_coordinator():
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    (send,) = complete(machine, roster())
    assert isinstance(send, Send) and send.to == "a" and isinstance(send.message, Held)


@pytest.mark.parametrize(
    "changed",
    [
        {"parent": "another log"},
        {"ballot": 1},
        {"owners": (0, 1)},
        {"owners": (0, 1, 3)},
        {"owners": (0, 1, -1)},
        {"tokens": (1, 7, 1)},
        {"tokens": (0, 0, 0)},
        {"transfer_s": 1e7},
        {"deadline_s": 21.0},
        {"members": ()},
        {"members": tuple(reversed(roster().members))},
        {"members": roster().members[::2]},
    ],
    ids=str,
)
def test_a_roster_that_makes_no_sense_is_refused_and_changes_nothing(changed):
    machine = member()
    machine.handle(share(), 0.0)
    with pytest.raises(RemoteError):
        hear(machine, "a", roster(**changed))
    assert machine.roster is None


def test_the_higher_ballot_wins_and_the_snapshot_serves_again():
    machine = member("c")
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    machine.handle(SnapshotTaken(round=0, parts=tuple(DATA)), 0.0)
    assert kinds(hear(machine, "b", roster(ballot=1))) == [StartRound, SendPart, SendPart]
    assert not hear(machine, "a", roster())


def test_a_snapshot_is_not_sent_into_a_roster_that_does_not_count_it():
    machine = member("c")
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    hear(machine, "b", roster(ballot=1, tokens=(1, 1, 0)))
    assert not machine.handle(SnapshotTaken(round=0, parts=tuple(DATA)), 0.0)


def test_a_part_is_expected_only_under_the_roster_in_force():
    machine = member()
    machine.handle(share(), 0.0)
    assert machine.expected_bytes("a", roster().digest, Leg.SCATTER, 1) is None
    hear(machine, "a", roster())
    assert machine.expected_bytes("a", roster().digest, Leg.SCATTER, 1) == 8
    assert machine.expected_bytes("a", roster(ballot=3).digest, Leg.SCATTER, 1) is None
    with pytest.raises(RemoteError):
        machine.expected_bytes("a", roster().digest, Leg.SCATTER, 0)


def test_a_voter_accepts_a_full_entry_only_while_it_holds_the_bytes():
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    accept = Accept(round=0, ballot=0, entry=decided_entry())
    assert not hear(machine, "a", accept)
    complete(machine, roster())
    assert kinds(hear(machine, "a", accept)) == [Accepted]


def test_a_decided_entry_is_applied_with_its_bytes():
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    complete(machine, roster())
    assert hear(machine, "a", decided(decided_entry())) == [
        ApplyEntry(decided_entry(), tuple(DATA))
    ]
    assert machine.head.digest == decided_entry().digest and machine.round == 1
    assert not hear(machine, "a", decided(decided_entry())), "the second time changes nothing"


def test_a_second_roster_does_not_throw_away_what_the_first_has_completed():
    machine = member("b")
    machine.handle(share(), 0.0)
    hear(machine, "a", roster())
    complete(machine, roster())
    hear(machine, "c", roster(ballot=2))
    assert kinds(hear(machine, "a", decided(decided_entry()))) == [ApplyEntry]


def test_without_the_bytes_a_member_says_forked_and_stops_contributing():
    machine = member()
    machine.handle(share(), 0.0)
    (note,) = hear(machine, "a", decided(decided_entry()))
    assert isinstance(note, Note) and note.text.startswith("forked: the bytes of round 0")
    assert machine.standing == "forked" and machine.round == 0
    assert not machine.handle(share(), 0.0)
    ahead = Heartbeat(round=5, head="x", step=9)
    assert not hear(machine, "a", ahead), "it asks for nothing that it cannot use"
    assert kinds(machine.tick(1.0)) == [Heartbeat, Heartbeat]


def test_an_entry_without_a_quorum_is_refused():
    machine = member()
    alone = Decided(round=0, entry=decided_entry(parts=(None,) * 3), accepted_by=("c",))
    with pytest.raises(RemoteError):
        hear(machine, "c", alone)
    assert machine.round == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"fragment_id": 1},
        {"planned_steps": 5},
        {"parts": (None,) * 4},
        {"members": ("b", "a", "c")},
        {"voters": ()},
        {"tie_breaker": "x"},
        {"parts": (Part(digest(b""), (1,)), None, None)},
    ],
    ids=str,
)
def test_a_malformed_entry_is_refused_wherever_it_comes(changed):
    bad = decided_entry(**{"parts": (None,) * 3} | changed)
    for message in (
        decided(bad),
        Accept(round=0, ballot=0, entry=bad),
        Promise(round=0, ballot=0, accepted_ballot=0, accepted=bad),
    ):
        with pytest.raises(RemoteError):
            hear(member(), "a", message)


def test_one_peer_on_another_log_makes_nobody_fork_a_quorum_does():
    machine = member()
    elsewhere = Heartbeat(round=-1, head="elsewhere", step=1)
    assert not hear(machine, "a", elsewhere)
    assert machine.standing == "in step"
    hear(machine, "c", elsewhere)
    assert machine.standing == "forked"


def test_a_roster_that_averages_a_peer_with_another_state_is_refused():
    machine = member()
    machine.handle(share(), 0.0)
    assert not hear(machine, "c", ready(tokens=1, state="another"))
    with pytest.raises(RemoteError):
        hear(machine, "a", roster())
    assert kinds(hear(machine, "a", roster(tokens=(1, 1, 0)))) == [StartRound, TakeSnapshot]


def test_an_entry_of_another_log_is_that_peers_word_only():
    machine = member()
    assert not hear(machine, "a", decided(decided_entry(parent="elsewhere")))
    assert machine.standing == "in step" and machine.round == 0


def test_early_messages_wait_for_their_round_and_a_bad_one_takes_nothing_back():
    machine = member()
    empty = decided_entry(parts=(None,) * 3, reason="nothing")
    hear(machine, "a", ready(round=1, parent=empty.digest))
    hear(machine, "c", roster(round=1, parent="elsewhere"))
    effects = hear(machine, "a", decided(empty))
    assert kinds(effects)[0] is ApplyEntry and machine.round == 1
    assert "refused" in "".join(e.text for e in effects if isinstance(e, Note))


def test_who_is_behind_asks_and_is_answered():
    machine = member()
    ahead = Heartbeat(round=0, head="x", step=1)
    assert hear(machine, "a", ahead) == [Send("a", Ask(round=-1))]
    hear(machine, "a", decided(decided_entry(parts=(None,) * 3)))
    assert kinds(hear(machine, "c", Ask(round=-1))) == [Decided]
    assert not hear(machine, "c", Ask(round=0))
    assert not hear(machine, "c", Ask(round=-1), 0.9), "once per heartbeat and peer"
    assert kinds(hear(machine, "c", Ask(round=-1), 1.0)) == [Decided]


@pytest.mark.parametrize("message", [ready(), Prepare(round=0, ballot=0)], ids=str)
def test_who_still_talks_about_an_old_round_is_told_its_entry(message):
    machine = member()
    hear(machine, "c", decided(decided_entry(parts=(None,) * 3)))
    assert kinds(hear(machine, "a", message)) == [Decided]


def test_a_stranger_is_refused():
    with pytest.raises(RemoteError):
        hear(member(), "stranger", Heartbeat(round=-1, head=head().digest, step=0))


def test_a_peer_without_a_vote_is_not_asked_to_vote():
    machine = member()
    hear(machine, "a", decided(decided_entry(parts=(None,) * 3, voters=("a", "c"))))
    with pytest.raises(RemoteError):
        hear(machine, "a", Prepare(round=1, ballot=0))


# --- who is there ---------------------------------------------------------------------------------


def test_a_silent_peer_is_lost_and_a_word_brings_it_back():
    machine = member()
    now_s = 0.0
    while now_s < 7.0:
        now_s += 0.5
        machine.tick(now_s)
        hear(machine, "c", Heartbeat(round=-1, head=head().digest, step=0), now_s)
    assert machine.peer_states() == {"a": "silent for 6 s", "c": "live"}
    hear(machine, "a", Heartbeat(round=-1, head=head().digest, step=0), now_s)
    assert machine.peer_states() == {"a": "live", "c": "live"}


def test_a_peer_that_slept_does_not_take_the_others_for_lost():
    machine = member()
    machine.tick(0.0)
    machine.tick(1000.0)
    assert machine.peer_states() == {"a": "live", "c": "live"}


def test_a_failed_call_says_nothing_about_a_peer_that_was_just_heard():
    machine = member()
    hear(machine, "a", Heartbeat(round=-1, head=head().digest, step=0), 5.0)
    assert not machine.handle(PeerUnreachable("a", "refused"), 5.5)
    assert kinds(machine.handle(PeerUnreachable("a", "refused"), 6.0)) == [Note]
    assert machine.peer_states()["a"] == "refused"


def test_who_left_stays_away_whatever_arrives_late():
    machine = member()
    hear(machine, "c", ready())
    hear(machine, "c", Leave(round=-1))
    hear(machine, "c", Heartbeat(round=-1, head=head().digest, step=0))
    assert machine.peer_states()["c"] == "left"
    assert machine.others == ("a",)


def test_a_lost_quorum_is_known():
    machine = member()
    assert not machine.lacks_quorum
    hear(machine, "a", Leave(round=-1))
    assert not machine.lacks_quorum
    hear(machine, "c", Leave(round=-1))
    assert machine.lacks_quorum


def test_heartbeats_go_out_every_second_with_the_ready_that_may_have_been_lost():
    machine = member()
    assert kinds(machine.tick(0.0)) == [Heartbeat, Heartbeat]
    machine.handle(share(), 0.5)
    assert not machine.tick(0.9)
    assert kinds(machine.tick(1.0)) == [Heartbeat, Heartbeat, Ready, Ready]
    hear(machine, "a", roster(), 1.5)
    assert kinds(machine.tick(2.0)) == [Heartbeat, Heartbeat]


def test_a_peer_with_hardly_any_bandwidth_plans_no_endless_round():
    machine = member("a")
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1, up_bytes_per_s=1e-9))
    hear(machine, "c", ready(tokens=1, down_bytes_per_s=1e-300))
    assert machine.roster is not None
    assert machine.roster.transfer_s <= machine.roster.deadline_s <= 20.0


def test_with_slow_steps_the_deadline_is_later():
    machine = member("a")
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1))
    hear(machine, "c", ready(tokens=1, pace_steps_per_s=0.1))
    assert machine.roster is not None and machine.roster.deadline_s > 10.0
