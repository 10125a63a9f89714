"""A peer without which the others could not decide hands over before it leaves."""

from collections import deque

from protocol.codec import codec_named
from protocol.events import Effect, MessageReceived, Send
from protocol.log import Genesis, Head
from protocol.manifest import Limits
from protocol.member import Member
from protocol.schedule import Schedule
from protocol.terms import Terms


def swarm(*peers: str, lockstep: bool = False) -> dict[str, Member]:
    """Members at genesis; the first one is the tie-breaker."""
    terms = Terms(
        run_id="run",
        schedule=Schedule(sync_every=4, num_fragments=2, sync_delay_steps=1, total_steps=40),
        part_values=((2, 2), (2, 2)),
        codec=codec_named("fp32"),
        limits=Limits(),
        lockstep=lockstep,
    )
    genesis = Genesis(
        run_id="run",
        founder=peers[0],
        voters=tuple(sorted(peers)),
        tie_breaker=peers[0],
        state_digest="0",
    )
    return {
        peer: Member(me=peer, terms=terms, head=Head.of_genesis(genesis), now_s=0.0)
        for peer in peers
    }


def deliver(members: dict[str, Member], sender: str, effects: list[Effect]) -> None:
    """Pass messages on, and those that they cause, until there are none."""
    waiting = deque((sender, effect) for effect in effects)
    while waiting:
        sender, effect = waiting.popleft()
        if isinstance(effect, Send) and effect.to in members:
            received = MessageReceived(sender, effect.message)
            answers = members[effect.to].handle(received, 0.0)
            waiting.extend((effect.to, answer) for answer in answers)


def test_of_two_peers_the_other_decides_alone_once_the_tie_breaker_handed_over():
    members = swarm("a", "b")
    a, b = members["a"], members["b"]
    assert a.is_needed and not b.is_needed
    # Half of the voters with the tie-breaker: it decides that by itself.
    deliver(members, "a", a.hand_over(0.0))
    assert b.head.round == 0 and b.head.voters == ("b",) and b.head.tie_breaker == "b"
    assert not a.is_needed and a.hand_over(0.0) == []
    deliver(members, "a", a.leave())
    assert b.peer_states() == {"a": "left"} and not b.lacks_quorum


def test_of_three_peers_nobody_is_needed_until_one_is_lost():
    members = swarm("a", "b", "c")
    assert not any(member.is_needed for member in members.values())
    assert all(member.hand_over(0.0) == [] for member in members.values())
    deliver(members, "c", members.pop("c").leave())
    assert members["a"].is_needed and members["b"].is_needed
    deliver(members, "b", members["b"].hand_over(0.0))
    assert members["a"].head.voters == ("a",)


def test_a_peer_alone_and_one_in_lockstep_just_leave():
    alone = swarm("a")["a"]
    fixed = swarm("a", "b", lockstep=True)["a"]
    assert not alone.is_needed and not fixed.is_needed
    assert alone.hand_over(0.0) == [] and fixed.hand_over(0.0) == []


def test_a_proposal_that_is_under_way_is_not_disturbed():
    members = swarm("a", "b", "c")
    a = members["a"]
    deliver(members, "c", members.pop("c").leave())
    assert a.hand_over(0.0)
    assert a.is_needed and a.hand_over(0.0) == []
