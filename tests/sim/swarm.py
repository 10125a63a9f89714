"""Several simulated peers and what lies between them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from protocol.errors import RemoteError
from protocol.events import (
    MessageReceived,
    PartReceived,
    PeerUnreachable,
    Send,
    SendPart,
)
from protocol.log import Head
from protocol.messages import Message
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_message, encode_message
from tests.sim.clock import Clock
from tests.sim.network import Network
from tests.sim.peer import SimPeer
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Lost, Observer, Refused, Sight

GIVE_UP_S = 1.0
"""A call that nobody answers has failed after this long."""
ROSTER_WAIT_S = 5.0
ROSTER_POLL_S = 0.1
"""A part that comes before its roster waits this long for it."""


class Swarm:
    """Peers by id, the wires between them, and everybody who watches."""

    def __init__(self, plan: Plan, network: Network, observers: Iterable[Observer] = ()) -> None:
        self.clock = Clock()
        self.network = network
        self.peers: dict[str, SimPeer] = {}
        self.observers = list(observers)
        self.tamper: Callable[[str, SendPart], bytes] = lambda sender, part: part.data
        """What becomes of a part's bytes on the way; normally nothing."""
        self.blocked_parts: set[tuple[str, str]] = set()
        """Links on which control messages pass and parts get stuck."""
        self._plan = plan
        self._rosters: dict[str, str] = {}
        self._line_free_s: dict[tuple[str, str], float] = {}

    def add(self, me: str, *, step_s: float = 0.25, head: Head | None = None) -> SimPeer:
        """A peer that steps every `step_s`; `head` is where it stands, if not at genesis."""
        head = head or self._plan.genesis_head()
        self.peers[me] = SimPeer(self, me, self._plan, step_s, head)
        return self.peers[me]

    def start(self) -> None:
        for peer in self.peers.values():
            peer.start()

    def saw(self, peer: SimPeer | None, sight: Sight) -> None:
        for observer in self.observers:
            observer.saw(self.clock.now_s, peer.me if peer else "", sight)

    # --- what happens to them --------------------------------------------------------------------

    def crash(self, peer_id: str) -> None:
        self.saw(None, Fate(f"{peer_id} is killed"))
        self.peers[peer_id].is_dead = True

    def leave(self, peer_id: str) -> None:
        if not self.peers[peer_id].is_dead:
            self.saw(None, Fate(f"{peer_id} is asked to leave"))
            self.peers[peer_id].run(self.peers[peer_id].leave)

    def freeze(self, peer_id: str, for_s: float) -> None:
        peer = self.peers[peer_id]
        if peer.is_frozen or peer.is_dead:
            return
        self.saw(None, Fate(f"{peer_id} freezes for {for_s:.1f} s"))
        peer.is_frozen = True
        peer.frozen_s += for_s
        self.clock.after(for_s, lambda: self._thaw(peer))

    def _thaw(self, peer: SimPeer) -> None:
        self.saw(None, Fate(f"{peer.me} goes on"))
        peer.thaw()

    def cut(self, links: list[tuple[str, str]], for_s: float, text: str) -> None:
        """Nothing passes these directed links for a while."""
        self.saw(None, Fate(f"{text} for {for_s:.1f} s"))
        self.network.cut(links)
        self.clock.after(for_s, lambda: self._mend(links, text))

    def _mend(self, links: list[tuple[str, str]], text: str) -> None:
        self.saw(None, Fate(f"over: {text}"))
        self.network.mend(links)

    # --- the control lane ------------------------------------------------------------------------

    def tell(self, sender: str, to: str, message: Message) -> None:
        data = encode_message(message).SerializeToString()
        delays_s = self.network.delays_s()
        if not delays_s:
            self.saw(self.peers[sender], Lost(Send(to, message)))
        for delay_s in delays_s:
            self.clock.after(delay_s, lambda: self._told(sender, to, data))

    def _told(self, sender: str, to: str, data: bytes) -> None:
        """A control message arrives, or the sender learns that nobody answers."""
        peer = self.peers[to]
        if not self._is_silent(sender, to):
            peer.run(lambda: self._hear(peer, sender, data))
        if peer.is_frozen or self._is_silent(sender, to):
            self._fail(sender, to)

    def _hear(self, peer: SimPeer, sender: str, data: bytes) -> None:
        message = decode_message(sender, pb.Envelope.FromString(data))
        peer.receive(sender, MessageReceived(sender, message))

    def _is_silent(self, sender: str, to: str) -> bool:
        return self.peers[to].is_dead or self.network.is_cut(sender, to)

    def _fail(self, sender: str, to: str) -> None:
        failure = PeerUnreachable(to, "no answer")
        peer = self.peers[sender]
        self.clock.after(GIVE_UP_S, lambda: peer.run(lambda: peer.handle(failure)))

    # --- the bulk lane ---------------------------------------------------------------------------

    def start_round(self, peer_id: str, roster: str) -> None:
        """Drop what still travels for other rosters."""
        self._rosters[peer_id] = roster
        for line in self._line_free_s:
            if line[0] == peer_id:
                self._line_free_s[line] = self.clock.now_s

    def push(self, sender: str, part: SendPart) -> None:
        """Parts leave one after another, at the planned rate."""
        assert part.rate_bytes_per_s > 0
        line = (sender, part.to)
        begins_s = max(self.clock.now_s, self._line_free_s.get(line, 0.0))
        self._line_free_s[line] = begins_s + len(part.data) / part.rate_bytes_per_s
        delays_s = self.network.delays_s()
        if not delays_s:
            self.saw(self.peers[sender], Lost(part))
        for delay_s in delays_s:
            arrives_s = self._line_free_s[line] + delay_s
            self.clock.at(arrives_s, lambda: self._pushed(sender, part))

    def _pushed(self, sender: str, part: SendPart) -> None:
        if self.peers[sender].is_frozen:
            self.peers[sender].run(lambda: self._pushed(sender, part))
            return
        if self._rosters[sender] != part.roster or self.peers[sender].is_dead:
            return
        if (sender, part.to) in self.blocked_parts:
            self.saw(self.peers[sender], Lost(part))
            return
        if self._is_silent(sender, part.to):
            self._fail(sender, part.to)
            return
        sent = replace(part, data=self.tamper(sender, part))
        peer = self.peers[part.to]
        give_up_s = self.clock.now_s + ROSTER_WAIT_S
        peer.run(lambda: self._take_part(peer, sender, sent, give_up_s))

    def _take_part(self, peer: SimPeer, sender: str, part: SendPart, give_up_s: float) -> None:
        """Hand a part over once its roster is in force there."""
        event = PartReceived(
            sender=sender,
            roster=part.roster,
            leg=part.leg,
            part_index=part.part_index,
            data=part.data,
        )
        try:
            expected = peer.member.expected_bytes(sender, part.roster, part.leg, part.part_index)
        except RemoteError as error:
            self.saw(peer, Refused(sender, event, error.why))
            return
        if expected is not None:
            peer.receive(sender, event)
        elif self.clock.now_s < give_up_s:
            again = partial(self._take_part, peer, sender, part, give_up_s)
            self.clock.after(ROSTER_POLL_S, lambda: peer.run(again))
