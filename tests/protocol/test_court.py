"""Who is convicted, who is banned, and what becomes of those that are."""

from dataclasses import replace

import pytest

from protocol.checks import check_entry
from protocol.coordinator import next_entry
from protocol.court import MAX_PENDING, PENDING_OF_ONE, RETOLD_AFTER_S, Court, may_ban
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    Audit,
    Effect,
    Event,
    FoundFalse,
    Judge,
    Judged,
    KeepVerdict,
    Leg,
    MeanDoubted,
    Note,
    PartAveraged,
    PeerMet,
    Record,
    Send,
    SnapshotTaken,
)
from protocol.log import Head
from protocol.member import Member
from protocol.messages import Accept, Accuse, Heartbeat, Held, Mean
from tests.protocol import arriving
from tests.protocol.accusing import FALSE, TRUE, accusation, claim_of
from tests.protocol.makers import ABC, DIGEST, head, heartbeat, ready, roster, terms
from tests.protocol.members import (
    DATA,
    empty_entry,
    follow,
    hear,
    member,
    part,
    share,
    votes,
    wait,
)
from tests.sim.keys import SimKey

B_LIED = accusation(FALSE, "c")
C_LIED = accusation(TRUE, "c")
BAN_B = {
    "members": ("a", "c"),
    "voters": ("a", "c"),
    "tie_breaker": "a",
    "banned": (("b", DIGEST),),
}


def court(me: str = "a") -> Court:
    return Court(me, terms(audits=1.0), SimKey(me))


def convicting(me: str = "a") -> Court:
    """One that has convicted b."""
    judge = court(me)
    judge.accused("c", B_LIED)
    judge.judged(Judged(accusation=B_LIED.digest, is_true=False))
    return judge


def beats(*peers: str) -> dict[str, Heartbeat]:
    return {peer: heartbeat(peer, convicts=("b",)) for peer in peers}


# --- verdicts -------------------------------------------------------------------------------------


def test_an_accusation_is_judged_before_it_is_believed():
    judge = court()
    assert judge.accused("c", B_LIED) == [Judge(B_LIED)]
    assert not judge.convicted and not judge.accused("c", B_LIED), "it is being judged"


def test_if_the_claim_is_false_its_owner_is_convicted():
    judge = court()
    judge.accused("c", B_LIED)
    (kept,) = judge.judged(Judged(accusation=B_LIED.digest, is_true=False))
    assert isinstance(kept, KeepVerdict) and kept.verdict.guilty == "b"
    assert not judge.accused("c", B_LIED), "it is settled"


def test_if_the_claim_is_true_the_accuser_is_convicted():
    judge = court()
    judge.accused("c", C_LIED)
    (kept,) = judge.judged(Judged(accusation=C_LIED.digest, is_true=True))
    assert isinstance(kept, KeepVerdict) and kept.verdict.guilty == "c"
    assert set(judge.convicted) == {"c"}


def test_if_nobody_shows_the_inputs_nobody_is_convicted_and_it_can_be_told_again():
    judge = court()
    judge.accused("c", B_LIED)
    (note,) = judge.judged(Judged(accusation=B_LIED.digest, is_true=None))
    assert isinstance(note, Note) and not judge.convicted
    assert judge.accused("c", B_LIED) == [Judge(B_LIED)]


def test_a_claim_with_a_forged_contribution_needs_no_bytes():
    judge = court()
    (kept,) = judge.accused("c", accusation(claim_of(forged=True)))
    assert isinstance(kept, KeepVerdict) and kept.verdict.guilty == "b"


BAD = {
    "signed by another": accusation(FALSE, "c", signer="x"),
    "of a claim that its owner never made": accusation(replace(FALSE, mean=TRUE.mean)),
    "of a part that there is not": accusation(
        replace(FALSE, slot=replace(FALSE.slot, part_index=9))
    ),
    "of another run": accusation(replace(FALSE, slot=replace(FALSE.slot, run_id="another"))),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_accusation_is_refused_and_convicts_nobody(bad):
    judge = court()
    with pytest.raises(RemoteError):
        judge.accused("c", bad)
    assert not judge.convicted


def test_a_verdict_that_nobody_asked_for_convicts_nobody():
    judge = court()
    assert not judge.judged(Judged(accusation=B_LIED.digest, is_true=False))
    assert not judge.convicted


def test_one_accuser_keeps_this_peer_busy_with_so_many_only():
    judge = court()
    lies = [accusation(claim_of(bytes([i]) * 8), "c") for i in range(PENDING_OF_ONE + 1)]
    asked = [effect for lie in lies for effect in judge.accused("c", lie)]
    assert asked == [Judge(lie) for lie in lies[:PENDING_OF_ONE]]


def test_accusers_without_end_keep_this_peer_busy_with_so_many_only():
    judge = court()
    lies = [accusation(claim_of(bytes([i]) * 8), f"accuser {i}") for i in range(2 * MAX_PENDING)]
    asked = [effect for lie in lies for effect in judge.accused("c", lie)]
    assert asked == [Judge(lie) for lie in lies[:MAX_PENDING]]
    judge.judged(Judged(accusation=lies[0].digest, is_true=None))
    assert judge.accused("c", lies[-1]) == [Judge(lies[-1])]


def test_of_two_voters_none_can_ban_the_other_whatever_it_has_convicted_it_of():
    """The tie-breaker would decide that by itself, as whoever has forced a term does."""
    two = replace(head(), voters=("a", "b"), incarnations=("0", "0"))
    assert not convicting().to_ban(two, {})
    assert not may_ban(0, two) and may_ban(0, head()) and not may_ban(1, head())
    entry = empty_entry(
        two, members=("a",), voters=("a",), tie_breaker="a", banned=(("b", DIGEST),)
    )
    with pytest.raises(RemoteError, match="malformed"):
        check_entry("a", entry, terms(audits=1.0), two)


def test_nobody_convicts_itself():
    judge = court("b")
    judge.accused("c", B_LIED)
    assert not judge.judged(Judged(accusation=B_LIED.digest, is_true=False))


def test_an_own_audit_convicts_at_once_and_is_told_to_all_that_do_not_know():
    judge = court()
    (kept,) = judge.found_false(FALSE)
    assert isinstance(kept, KeepVerdict) and kept.verdict.accusation == accusation(FALSE, "a")
    told = judge.to_tell(head(), "bcd", beats("c"), 0.0)
    accuse = Accuse(round=0, accusation=accusation(FALSE, "a"))
    assert told == [Send("d", accuse)], "c says that it knows, and b need not be told"
    assert not judge.to_tell(head(), "bcd", beats("c"), RETOLD_AFTER_S / 2)
    assert judge.to_tell(head(), "bcd", beats("c"), RETOLD_AFTER_S) == told


# --- bans -----------------------------------------------------------------------------------------


def test_a_ban_is_proposed_once_a_quorum_says_that_it_agrees():
    judge = convicting()
    assert not judge.to_ban(head(), {})
    assert judge.to_ban(head(), beats("c")) == {"b": B_LIED.digest}
    assert not judge.to_ban(head(), beats("x")), "who has no vote does not count"


def test_who_is_banned_is_convicted_no_more():
    at = replace(head(), banned=(("b", DIGEST),))
    judge = convicting()
    assert not judge.to_ban(at, beats("c")) and not judge.told_by(at)
    assert not judge.to_tell(at, "c", {}, 0.0)


def judging(me: str = "a"):
    """A voter that has seen the proof against b."""
    machine = member(me)
    hear(machine, "c", Accuse(round=0, accusation=B_LIED))
    machine.handle(Judged(accusation=B_LIED.digest, is_true=False), 0.0)
    return machine


def test_a_voter_accepts_a_ban_only_after_it_has_seen_the_proof():
    ban = Accept(round=0, ballot=2, entry=empty_entry(**BAN_B))
    assert not votes(hear(member("a"), "c", ban))
    assert len(votes(hear(judging(), "c", ban))) == 1


def test_a_voter_says_whom_it_has_convicted():
    machine = judging()
    told = [e.message for e in wait(machine, 2.0) if isinstance(e, Send)]
    assert {m.convicts for m in told if isinstance(m, Heartbeat)} == {("b",)}
    assert any(isinstance(m, Accuse) for m in told)


def test_who_is_convicted_is_in_no_group_that_this_peer_forms():
    machine = judging()
    assert machine.expected == ("c",)


AFTER_BAN = empty_entry(**BAN_B)


def test_after_the_ban_nobody_waits_for_it_and_its_ready_is_refused():
    machine = member("a", at=Head.of_entry(AFTER_BAN))
    machine.handle(PeerMet("b"), 0.0)
    assert machine.expected == ("c",)
    with pytest.raises(RemoteError, match="banned"):
        hear(machine, "b", ready(round=1, parent=AFTER_BAN.digest))


def test_a_roster_with_somebody_banned_is_refused():
    machine = member("a", at=Head.of_entry(AFTER_BAN))
    machine.handle(replace(share(), round=1), 0.0)
    leader = machine._round.order[0]
    with pytest.raises(RemoteError, match="malformed"):
        hear(machine, leader, roster(round=1, parent=AFTER_BAN.digest))


def test_who_is_banned_is_told_and_is_silent():
    machine = member("b", at=Head.of_entry(AFTER_BAN))
    (note,) = machine.handle(replace(share(), round=1), 0.0)
    assert isinstance(note, Note) and "banned" in note.text


AFTER = Head.of_entry(AFTER_BAN)
GOOD = empty_entry(AFTER, members=("a", "c"), voters=("a", "c"), banned=AFTER.banned)
NO_BAN = {
    "one is forgotten": {"banned": ()},
    "the proof is another": {"banned": (("b", "0" * 64),)},
    "the proof is no digest": {"banned": (("b", DIGEST), ("c", "x")), "voters": ("a",)},
    "in disorder": {"banned": (("c", DIGEST), ("b", DIGEST)), "voters": ("a",)},
    "one is still a voter": {"banned": (("b", DIGEST), ("c", DIGEST))},
    "one that was banned before votes": {"voters": ABC},
    "one that was banned before is a member": {"members": ABC},
    "a forced term bans": {
        "banned": (("b", DIGEST), ("c", DIGEST)),
        "voters": ("a",),
        "term": AFTER.term + 1,
    },
}


@pytest.mark.parametrize("changed", NO_BAN.values(), ids=NO_BAN)
def test_an_entry_that_bans_wrongly_is_refused(changed):
    check_entry("x", GOOD, terms(), AFTER)
    with pytest.raises(RemoteError, match="malformed"):
        check_entry("x", replace(GOOD, **changed), terms(), AFTER)


def test_who_is_away_is_not_dropped_with_who_is_banned():
    """Of a, b and c, b is banned and a not heard of: c alone must not decide from then on."""
    made = next_entry(
        terms(),
        head(),
        members={"c": "c-0"},
        lost={"a": "silent"},
        parts=None,
        missing=(),
        banned={"b": DIGEST},
        reason="nothing",
    )
    assert made.voters == ("a", "c") and made.banned == (("b", DIGEST),)


def test_somebody_is_left_to_decide():
    made = next_entry(
        terms(),
        head(),
        members=dict(zip(ABC, head().incarnations, strict=True)),
        lost={},
        parts=None,
        missing=(),
        banned=dict.fromkeys(ABC, DIGEST),
        reason="nothing",
    )
    assert made.voters == ABC and not made.banned


def test_a_leader_that_found_a_lie_proposes_the_ban():
    machine = member("a")
    machine.handle(FoundFalse(FALSE), 0.0)
    follow(machine, roster())
    effects = []
    while machine.wakes_at_s() < 15.0:
        now_s = machine.wakes_at_s()
        hear(machine, "b", heartbeat("b"), now_s)
        hear(machine, "c", heartbeat("c", convicts=("b",)), now_s)
        effects += machine.tick(now_s)
    (entry, *_) = [
        send.message.entry
        for effect in effects
        if isinstance(effect, Record)
        for send in effect.then
        if isinstance(send.message, Accept)
    ]
    assert entry.banned == (("b", accusation(FALSE, "a").digest),)
    assert entry.voters == ("a", "c")


def leading() -> Member:
    """Peer a, which has begun round 0 with b and c."""
    machine = member("a", audits=1.0)
    machine.handle(share(), 0.0)
    for peer in "bc":
        hear(machine, peer, ready(tokens=1, state="s"))
    return machine


def with_means_of_all(machine: Member, news: Event | None = None) -> list[Effect]:
    """It averages its part, gets those of b and c, and hears that all hold all of them.

    `news` comes before that.
    """
    of = machine.roster
    machine.handle(SnapshotTaken(round=0, parts=DATA), 0.0)
    for sender in "bc":
        machine.handle(part(sender, of, Leg.SCATTER, 0), 0.5)
    machine.handle(PartAveraged(roster=of.digest, part_index=0, data=DATA[0]), 0.6)
    effects = []
    for index, owner in ((1, "b"), (2, "c")):
        given = [arriving.contribution(peer, of, index, DATA[index]) for peer in ABC]
        claim = arriving.claim(owner, of, index, DATA[index], given)
        mean = arriving.part(owner, of, Leg.GATHER, index, DATA[index], claimed=claim)
        effects += machine.handle(mean, 0.7)
    means = tuple(Mean(part_index=i, digest=digest(data)) for i, data in enumerate(DATA))
    if news is not None:
        machine.handle(news, 0.75)
    for peer in "bc":
        held = Held(round=0, roster=of.digest, number=-1, means=means)
        effects += hear(machine, peer, held, 0.8)
    return effects


NEWS = {
    "nothing": None,
    "its owner is convicted in mid-round": FoundFalse(FALSE),
    "it contradicts what this peer gave": MeanDoubted(1, digest(DATA[1])),
}


@pytest.mark.parametrize("news", NEWS.values(), ids=NEWS)
def test_a_leader_leaves_out_a_mean_that_it_does_not_believe(news):
    (entry,) = [
        send.message.entry
        for effect in with_means_of_all(leading(), news)
        if isinstance(effect, Record)
        for send in effect.then
        if isinstance(send.message, Accept) and send.to == "b"
    ]
    assert [part is None for part in entry.parts] == [False, news is not None, False]
    assert not entry.is_empty and "b" in entry.members


def test_whoever_claims_a_mean_that_contradicts_this_peer_is_looked_into_once_a_round():
    machine = leading()
    of = machine.roster
    given = [arriving.contribution(peer, of, 1, DATA[1]) for peer in ABC]
    claim = arriving.claim("b", of, 1, DATA[1], given)
    doubted = MeanDoubted(1, digest(DATA[1]))
    assert not machine.handle(doubted, 0.5), "nobody has claimed it"
    machine.handle(arriving.part("b", of, Leg.GATHER, 1, DATA[1], claimed=claim), 0.6)
    assert not machine.handle(MeanDoubted(2, doubted.digest), 0.7), "another part of equal bytes"
    assert machine.handle(doubted, 0.7) == [Audit(claim)]
    assert not machine.handle(doubted, 0.8)


def test_whom_this_peer_has_convicted_it_does_not_look_into_again():
    machine = leading()
    machine.handle(FoundFalse(FALSE), 0.1)
    with_means_of_all(machine)
    assert not machine.handle(MeanDoubted(1, digest(DATA[1])), 0.9)
