"""A peer without which the others could not decide hands over before it leaves."""

from collections import deque

from protocol.events import Effect, MessageReceived, Record, Send
from protocol.log import Head
from protocol.member import Member
from tests.protocol.makers import genesis, terms
from tests.sim.keys import SimKey


def swarm(*peers: str, lockstep: bool = False) -> dict[str, Member]:
    """Members at genesis; the first one is the tie-breaker."""
    head = Head.of_genesis(genesis(peers))
    common = terms(lockstep=lockstep)
    return {
        peer: Member(
            me=peer,
            terms=common,
            head=head,
            now_s=0.0,
            signer=SimKey(peer),
            incarnation=f"{peer}-0",
        )
        for peer in peers
    }


def deliver(members: dict[str, Member], sender: str, effects: list[Effect]) -> None:
    """Pass messages on, and those that they cause, until there are none. Disks never fail."""
    waiting = deque((sender, effect) for effect in effects)
    while waiting:
        sender, effect = waiting.popleft()
        if isinstance(effect, Record):
            waiting.extend((sender, send) for send in effect.then)
        elif isinstance(effect, Send) and effect.to in members:
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
