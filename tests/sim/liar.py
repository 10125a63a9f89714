"""Somebody who makes up votes and decisions: it hears everything, and has no key but its own.

It calls itself whoever it likes, as a transport without identities lets it, and says what would be
believed if nobody looked at signatures, or not at what they were given for.
"""

import random
from collections import deque
from collections.abc import Sequence

from protocol.accepts import SignedAccept, Vote
from protocol.ballots import NO_BALLOT
from protocol.coordinator import forced_entry, next_entry
from protocol.events import MessageReceived, Send
from protocol.log import Entry, Head
from protocol.messages import Accept, Accepted, Decided, Message
from protocol.wire.codec import decode_message, encode_message
from tests.sim.keys import SimKey
from tests.sim.peer import SimPeer
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Sight
from tests.sim.swarm import Swarm

NAME = "liar"
REMEMBERED = 40


class Liar:
    """An observer of the swarm that strikes now and then, until `until_s`."""

    def __init__(
        self, chance: random.Random, plan: Plan, swarm: Swarm, lies: int, until_s: float
    ) -> None:
        self._chance = chance
        self._plan = plan
        self._swarm = swarm
        self._accepts: deque[SignedAccept] = deque(maxlen=REMEMBERED)
        """That somebody gave for something."""
        self._proposed: dict[str, Accept] = {}
        """What each peer has asked the others to accept last."""
        for _ in range(lies):
            swarm.clock.at(chance.uniform(0.5, until_s), self._strike)

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        match sight:
            case Send(_, Accepted(accept=accept)):
                self._accepts.append(accept)
            case Send(_, Accept() as accept):
                self._proposed[peer_id] = accept

    def _strike(self) -> None:
        victim = self._swarm.peers[self._chance.choice(sorted(self._swarm.peers))]
        others = sorted(set(victim.member.head.voters) - {victim.me})
        if victim.is_dead or victim.is_frozen or not others:
            return
        sender = self._chance.choice(others)
        proposed = self._proposed.get(victim.me)
        head = victim.member.head
        if proposed is not None and proposed.entry.parent == head.digest:
            self._tell(victim, sender, self._made_up_accepted(proposed, sender, head))
        forces = self._chance.random() < 0.2
        lie = self._made_up_term(head, sender) if forces else self._made_up_decision(head)
        self._tell(victim, sender, lie)

    def _tell(self, victim: SimPeer, sender: str, lie: Message) -> None:
        self._swarm.saw(None, Fate(f"{victim.me} is told a {type(lie).__name__} that is made up"))
        message = decode_message(sender, encode_message(lie))
        victim.run(lambda: victim.receive(sender, MessageReceived(sender, message)))

    def _made_up_accepted(self, proposed: Accept, voter: str, head: Head) -> Accepted:
        vote = Vote.on(proposed.entry, proposed.ballot)
        (accept,) = self._made_up_accepts(vote, [voter], head)
        return Accepted(
            round=vote.round,
            ballot=vote.ballot,
            entry_digest=vote.entry_digest,
            accept=accept,
        )

    def _made_up_decision(self, head: Head) -> Decided:
        journals = dict(zip(head.voters, head.incarnations, strict=True))
        entry = next_entry(
            self._plan.terms,
            head,
            members=journals,
            lost={},
            parts=None,
            missing=(),
            reason="made up",
        )
        return self._decided(entry, self._chance.randrange(3), head.voters, head)

    def _made_up_term(self, head: Head, by: str) -> Decided:
        voters = {by: head.incarnation_of(by)}
        entry = forced_entry(self._plan.terms, head, me=by, voters=voters)
        return self._decided(entry, NO_BALLOT, [by], head)

    def _decided(self, entry: Entry, ballot: int, by: Sequence[str], head: Head) -> Decided:
        accepts = self._made_up_accepts(Vote.on(entry, ballot), by, head)
        return Decided(round=entry.round, entry=entry, ballot=ballot, accepts=accepts)

    def _made_up_accepts(
        self, vote: Vote, by: Sequence[str], head: Head
    ) -> tuple[SignedAccept, ...]:
        """Given for something else where there are such; else with its own key."""
        given = {accept.voter: accept for accept in self._accepts}
        if given.keys() >= set(by) and self._chance.random() < 0.5:
            return tuple(given[voter] for voter in by)
        journals = [head.incarnation_of(voter) for voter in by]
        return tuple(
            SignedAccept.of(vote, self._plan.run_id, voter, journal, SimKey(NAME))
            for voter, journal in zip(by, journals, strict=True)
        )
