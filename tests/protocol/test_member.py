"""One member in a round: what it does when, what it takes and what it refuses.

What it votes on stands in test_votes.py, how it follows the log in test_standing.py, and how a
whole group plays a round, policy by policy, in tests/protocol/transcripts.
"""

import pytest

from protocol.commit import MAX_LEAP
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    AveragePart,
    ContributionRefused,
    FetchFailed,
    FetchParts,
    Leg,
    Note,
    PartAveraged,
    PartFetched,
    PeerMet,
    PeerUnreachable,
    Record,
    Send,
    SendPart,
    SnapshotTaken,
    StartRound,
    TakeSnapshot,
)
from protocol.messages import (
    Accept,
    Amend,
    Heartbeat,
    Held,
    Leave,
    Mean,
    Ready,
)
from tests.protocol.makers import ABC, heartbeat, ready, roster
from tests.protocol.members import (
    DATA,
    complete,
    empty_entry,
    follow,
    hear,
    kinds,
    member,
    part,
    share,
    wait,
)
from tests.protocol.signed import decided

# --- the roster -----------------------------------------------------------------------------------


def test_a_member_takes_its_snapshot_once_the_roster_is_there():
    machine = member()
    assert kinds(follow(machine, roster())) == [StartRound, TakeSnapshot]
    assert machine.roster == roster()


def test_a_roster_says_nothing_new_the_second_time():
    machine = member()
    follow(machine, roster())
    assert not hear(machine, "a", roster())


def test_who_is_not_ready_only_receives():
    assert kinds(hear(member(), "a", roster(tokens=(1, 0, 1)))) == [StartRound]


@pytest.mark.parametrize(
    "changed",
    [{"parent": "another log"}, {"ballot": 1}, {"tokens": (1, 7, 1)}, {"deadline_s": 21.0}],
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
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    assert kinds(hear(machine, "b", roster(ballot=1))) == [StartRound, SendPart, SendPart]
    assert not hear(machine, "a", roster())


def test_a_snapshot_is_not_sent_into_a_roster_that_does_not_count_it():
    machine = member("c")
    follow(machine, roster())
    hear(machine, "b", roster(ballot=1, tokens=(1, 1, 0)))
    assert not machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)


def test_a_part_is_expected_only_under_the_roster_in_force():
    machine = member()
    machine.handle(share(), 0.0)
    assert machine.expected_bytes("a", roster().digest, Leg.SCATTER, 1) is None
    hear(machine, "a", roster())
    assert machine.expected_bytes("a", roster().digest, Leg.SCATTER, 1) == 8
    assert machine.expected_bytes("a", roster(ballot=3).digest, Leg.SCATTER, 1) is None
    with pytest.raises(RemoteError):
        machine.expected_bytes("a", roster().digest, Leg.SCATTER, 7)


def test_parts_of_another_roster_change_nothing():
    machine = member()
    follow(machine, roster())
    old = roster(ballot=3)
    assert not machine.handle(part("a", old, Leg.SCATTER, 1), 0.0)
    assert not machine.handle(PartAveraged(roster=old.digest, part_index=1, data=DATA[1]), 0.0)
    refused = ContributionRefused(roster=old.digest, part_index=1, sender="a")
    assert not machine.handle(refused, 0.0)


# --- what everybody holds -------------------------------------------------------------------------


def test_holding_everything_is_reported_to_the_leader_and_repeated():
    machine = member()
    follow(machine, roster())
    (send,) = complete(machine, roster())
    assert isinstance(send, Send) and send.to == "a" and isinstance(send.message, Held)
    assert [mean.part_index for mean in send.message.means] == [0, 1, 2]
    assert send in machine.tick(1.0), "it may have been lost"


def test_what_everybody_holds_is_told_to_whoever_asks_for_it():
    machine = member()
    follow(machine, roster())
    machine.handle(part("a", roster(), Leg.GATHER, 0), 0.0)
    ask = amend(number=2)
    (send,) = hear(machine, "c", ask)
    assert isinstance(send, Send) and send.to == "c" and isinstance(send.message, Held)
    assert send.message.number == 2 and len(send.message.means) == 1
    assert not hear(machine, "c", ask), "once"
    assert not hear(machine, "b", amend(number=1)), "the number must grow"


def amend(number: int, lost: tuple[str, ...] = (), owners=(0, 1, 2), resend_s: float = 0.0):
    return Amend(
        round=0,
        roster=roster().digest,
        number=number,
        lost=lost,
        owners=owners,
        resend_s=resend_s,
    )


def test_an_amendment_of_somebody_else_than_its_number_says_is_refused():
    machine = member()
    follow(machine, roster())
    with pytest.raises(RemoteError):
        hear(machine, "a", amend(number=2))


def test_an_amendment_of_another_roster_changes_nothing():
    machine = member()
    follow(machine, roster(ballot=3))
    assert not hear(machine, "c", amend(number=2))


def test_a_report_of_what_the_round_does_not_have_is_refused():
    machine = member("a")
    follow(machine, roster())
    strange = Mean(part_index=3, digest="d")
    with pytest.raises(RemoteError):
        hear(machine, "b", Held(round=0, roster=roster().digest, number=-1, means=(strange,)))


def test_a_contribution_that_cannot_be_decoded_is_left_out_aloud():
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    machine.handle(part("a", roster(), Leg.SCATTER, 1), 0.0)
    machine.handle(part("c", roster(), Leg.SCATTER, 1), 0.0)
    refused = ContributionRefused(roster=roster().digest, part_index=1, sender="c")
    note, average = machine.handle(refused, 0.0)
    assert isinstance(note, Note) and "c cannot be decoded" in note.text.replace("of c", "c")
    assert isinstance(average, AveragePart) and average.senders == ("a", "b")


def test_an_owner_averages_what_it_has_when_its_time_is_over():
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    assert AveragePart not in kinds(wait(machine, 7.9))
    averages = [e for e in machine.tick(8.0) if isinstance(e, AveragePart)]
    assert [average.senders for average in averages] == [("b",)]


def test_an_owner_that_slept_takes_in_first_what_came_meanwhile():
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    assert AveragePart not in kinds(machine.tick(9.0)), "although its time is over"
    machine.handle(part("a", roster(), Leg.SCATTER, 1), 9.0)
    (average,) = machine.handle(part("c", roster(), Leg.SCATTER, 1), 9.0)
    assert isinstance(average, AveragePart) and average.senders == ("a", "b", "c")


def test_an_owner_that_slept_does_not_wait_for_ever_either():
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    machine.tick(9.0)
    # Half of the grace time.
    assert AveragePart not in kinds(wait(machine, 11.4))
    assert AveragePart in kinds(wait(machine, 11.6))


def test_in_lockstep_an_owner_waits_for_everybody():
    machine = member(lockstep=True)
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    assert AveragePart not in kinds(wait(machine, 100.0))


def test_parts_that_move_get_the_time_that_they_need():
    machine = member()
    follow(machine, roster())
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    hear(machine, "a", amend(number=0, lost=("c",), owners=(0, 1, 1), resend_s=4.0), 7.0)
    # Twice the planned time and the grace time, from the amendment on.
    assert AveragePart not in kinds(wait(machine, 7.0 + 2 * 4.0 + 5.0 - 0.1))
    assert AveragePart in kinds(wait(machine, 7.0 + 2 * 4.0 + 5.0 + 0.1))
    assert machine.resent_bytes == 0


def unreachable(peer: str, began_s: float) -> PeerUnreachable:
    return PeerUnreachable(peer, "refused", began_s)


# --- leading --------------------------------------------------------------------------------------


def lead(me: str = "a"):
    """A leader whose group has just started round 0."""
    machine = member(me)
    machine.handle(share(), 0.0)
    for peer in {"a", "b", "c"} - {me}:
        hear(machine, peer, ready(tokens=1, state="s"))
    assert machine.roster is not None
    return machine


def held_by(peer: str, of, number: int, *part_indices: int) -> Held:
    means = tuple(Mean(part_index=i, digest=f"mean {i}") for i in part_indices)
    return Held(round=0, roster=of.digest, number=number, means=means)


def amends(effects) -> list[Amend]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Amend)]


def test_a_leader_tells_the_group_at_once_whom_it_has_lost():
    machine = lead()
    effects = machine.handle(unreachable("c", 0.9), 1.0)
    assert [e.to for e in effects if isinstance(e, Send)] == ["b"]
    (told,) = amends(effects)
    assert told.lost == ("c",) and told.owners == machine.roster.owners


def test_once_it_knows_that_nobody_has_a_lost_owners_part_the_part_moves():
    machine = lead()
    of = machine.roster
    lost = [i for i, owner in enumerate(of.owners) if of.peer_ids[owner] == "c"]
    (told,) = amends(machine.handle(unreachable("c", 0.9), 1.0))
    (moved,) = amends(hear(machine, "b", held_by("b", of, told.number), 1.1))
    assert moved.number > told.number and moved.resend_s > 0
    assert all(of.peer_ids[moved.owners[i]] in "ab" for i in lost)


def test_what_a_lost_owner_had_sent_to_some_only_the_others_fetch():
    """Nothing more can come of that part: the round does not wait for its deadline."""
    machine = lead("a")
    of = machine.roster
    assert of.owners == (0, 1, 2)
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    for sender in "bc":
        machine.handle(part(sender, of, Leg.SCATTER, 0), 0.5)
    machine.handle(PartAveraged(roster=of.digest, part_index=0, data=DATA[0]), 0.6)
    (told,) = amends(machine.handle(unreachable("c", 0.9), 1.0))
    all_of_them = [Mean(part_index=i, digest=digest(data)) for i, data in enumerate(DATA)]
    held = Held(round=0, roster=of.digest, number=told.number, means=tuple(all_of_them))
    assert not hear(machine, "b", held, 1.1), "part 1 is still on its way from b, which is alive"
    effects = machine.handle(part("b", of, Leg.GATHER, 1), 1.2)
    assert effects == [FetchParts(((digest(DATA[2]), 8),), ("b",))]
    (record,) = machine.handle(PartFetched(digest(DATA[2]), DATA[2]), 1.3)
    assert isinstance(record, Record)
    accept = record.then[0].message
    assert isinstance(accept, Accept)
    assert [p.digest for p in accept.entry.parts if p] == [digest(data) for data in DATA]


def test_a_leader_asks_for_what_nobody_gives_once_per_heartbeat():
    """Whoever says that it holds what it does not must not keep the leader asking in a circle."""
    machine = lead()
    of = machine.roster
    (told,) = amends(machine.handle(unreachable("c", 0.9), 1.0))
    lie = tuple(Mean(part_index=i, digest=digest(b"a lie %d" % i)) for i in range(3))
    held = Held(round=0, roster=of.digest, number=told.number, means=lie)
    hear(machine, machine.me, held, 1.1)
    (fetch,) = hear(machine, "b", held, 1.1)
    assert isinstance(fetch, FetchParts) and fetch.sources == ("b",)
    for name, _ in fetch.wanted:
        assert not machine.handle(FetchFailed(name), 1.2)
    again = [e for e in machine.tick(machine.wakes_at_s() + 1.0) if isinstance(e, FetchParts)]
    assert again == [fetch]


@pytest.mark.parametrize("number", [2 + 3 * MAX_LEAP, 2**63 - 2])
def test_nobody_uses_up_the_numbers_of_amendments(number: int):
    machine = member()
    follow(machine, roster())
    sender = ABC[number % 3]
    with pytest.raises(RemoteError, match="out of reach"):
        hear(machine, sender, amend(number=number))


# --- who is there ---------------------------------------------------------------------------------


def test_a_stranger_is_refused_until_it_is_met():
    machine = member()
    with pytest.raises(RemoteError):
        hear(machine, "stranger", heartbeat("stranger"))
    assert kinds(machine.handle(PeerMet("stranger"), 0.0)) == [Heartbeat]
    assert not hear(machine, "stranger", heartbeat("stranger"))
    assert "stranger" in machine.others


def test_no_more_peers_are_known_than_a_run_can_have_and_lost_ones_make_room():
    machine = member(max_peers=3)
    for name in "defgh":
        machine.handle(PeerMet(name), 0.0)
    assert machine.others == ("a", "c", "d", "e", "f", "g")
    machine.handle(unreachable("d", 1.0), 2.0)
    machine.handle(PeerMet("h"), 2.0)
    assert machine.others == ("a", "c", "e", "f", "g", "h")


def test_a_silent_peer_is_lost_and_a_word_brings_it_back():
    machine = member()
    now_s = 0.0
    while now_s < 7.0:
        now_s += 0.5
        machine.tick(now_s)
        hear(machine, "c", heartbeat("c"), now_s)
    assert machine.peer_states() == {"a": "silent for 6 s", "c": "live"}
    (note,) = hear(machine, "a", heartbeat("a"), now_s)
    assert isinstance(note, Note) and note.text == "a is back"
    assert machine.peer_states() == {"a": "live", "c": "live"}


def test_a_lost_peer_that_says_what_makes_no_sense_is_lost_still():
    machine = member()
    machine.handle(unreachable("a", 1.0), 1.0)
    with pytest.raises(RemoteError):
        hear(machine, "a", roster(parent="another log"), 2.0)
    assert machine.live == ("c",) and machine.peer_states()["a"] == "refused"
    (note,) = hear(machine, "a", heartbeat("a"), 3.0)
    assert isinstance(note, Note) and "is back" in note.text and machine.live == ("a", "c")


def test_a_peer_that_slept_does_not_take_the_others_for_lost():
    machine = member()
    machine.tick(0.0)
    machine.tick(1000.0)
    assert machine.peer_states() == {"a": "live", "c": "live"}


def test_a_failed_call_says_nothing_about_a_peer_that_was_heard_since_it_began():
    machine = member()
    hear(machine, "a", heartbeat("a"), 5.0)
    assert not machine.handle(unreachable("a", began_s=4.9), 5.5)
    assert kinds(machine.handle(unreachable("a", began_s=5.1), 5.5)) == [Note]
    assert machine.peer_states()["a"] == "refused"


def test_a_peer_that_does_not_hear_this_one_is_lost():
    machine = member()
    (note,) = hear(machine, "a", heartbeat("a", deaf_to=("b",)))
    assert isinstance(note, Note) and "does not hear this peer" in note.text
    assert not machine.is_alone and machine.peer_states()["a"] == "does not hear this peer"


def test_this_peer_says_whom_it_does_not_hear():
    machine = member()
    machine.handle(unreachable("a", 1.0), 2.0)
    beats = [e.message for e in machine.tick(2.0) if isinstance(e, Send)]
    assert {beat.deaf_to for beat in beats if isinstance(beat, Heartbeat)} == {("a",)}


def test_who_left_stays_away_whatever_arrives_late():
    machine = member()
    hear(machine, "c", ready())
    hear(machine, "c", Leave(round=-1))
    hear(machine, "c", heartbeat("c"))
    assert machine.peer_states()["c"] == "left" and machine.live == ("a",)
    assert machine.others == ("a", "c"), "it has to hear of the entry that omits it"
    hear(machine, "a", decided(empty_entry(voters=("a", "b"))))
    assert machine.others == ("a",)


def test_a_lost_quorum_is_known():
    machine = member()
    assert not machine.lacks_quorum
    hear(machine, "a", Leave(round=-1))
    assert not machine.lacks_quorum
    hear(machine, "c", Leave(round=-1))
    assert machine.lacks_quorum and machine.is_alone


def test_voters_that_have_lost_their_journals_make_no_quorum():
    machine = member()
    for peer in "ac":
        hear(machine, peer, heartbeat(peer, incarnation=f"{peer}-1"))
    assert machine.lacks_quorum and not machine.is_alone


def test_heartbeats_go_out_every_second_with_the_ready_that_may_have_been_lost():
    machine = member()
    assert kinds(machine.tick(0.0)) == [Heartbeat, Heartbeat]
    machine.handle(share(), 0.5)
    assert not machine.tick(0.9)
    assert kinds(machine.tick(1.0)) == [Heartbeat, Heartbeat, Ready, Ready]
    hear(machine, "a", roster(), 1.5)
    assert kinds(machine.tick(2.0)) == [Heartbeat, Heartbeat]


def test_a_heartbeat_says_whether_this_peer_trains_and_with_which_journal_it_votes():
    (send, _) = member(trains=False, incarnation="b-9").tick(0.0)
    assert isinstance(send, Send) and isinstance(send.message, Heartbeat)
    assert (send.message.trains, send.message.incarnation) == (False, "b-9")


# --- messages of other rounds ---------------------------------------------------------------------


def test_early_messages_wait_for_their_round_and_a_bad_one_takes_nothing_back():
    machine = member()
    hear(machine, "a", ready(round=1, parent=empty_entry().digest))
    hear(machine, "c", roster(round=1, parent="elsewhere"))
    effects = hear(machine, "a", decided(empty_entry()))
    assert kinds(effects)[0] is ApplyEntry and machine.round == 1
    assert "refused" in "".join(e.text for e in effects if isinstance(e, Note))
    assert machine._round.readies.keys() == {"a"}


# --- odd planning ---------------------------------------------------------------------------------


def test_a_peer_with_hardly_any_bandwidth_plans_no_endless_round():
    machine = member("a")
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1, up_bytes_per_s=1e-9))
    hear(machine, "c", ready(tokens=1, down_bytes_per_s=1e-300))
    assert machine.roster is not None
    assert machine.roster.transfer_s <= machine.roster.deadline_s <= 20.0


def test_with_hardly_any_bandwidth_a_part_that_moves_has_no_endless_time_either():
    machine = member("a")
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1, up_bytes_per_s=1e-300))
    hear(machine, "c", ready(tokens=1))
    of = machine.roster
    assert of is not None and "c" in {of.peer_ids[owner] for owner in of.owners}
    (told,) = amends(machine.handle(unreachable("c", 0.9), 1.0))
    hear(machine, "a", held_by("a", of, told.number), 1.1)
    (moved,) = amends(hear(machine, "b", held_by("b", of, told.number), 1.1))
    assert 0 < moved.resend_s <= 20.0
