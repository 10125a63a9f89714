"""Several simulated peers, their disks, and what lies between them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    FetchFailed,
    MessageReceived,
    PartFetched,
    PartReceived,
    PeerMet,
    PeerUnreachable,
    Send,
    SendPart,
)
from protocol.log import Head
from protocol.messages import Message
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_message, encode_message
from tests.sim.clock import Clock
from tests.sim.disk import SimDisk
from tests.sim.network import Network
from tests.sim.peer import Habits, SimPeer
from tests.sim.plan import Plan, incarnation_at_genesis
from tests.sim.saw import Fate, Lost, Observer, Refused, Sight

GIVE_UP_S = 1.0
"""A call that nobody answers has failed after this long."""
ROSTER_WAIT_S = 5.0
ROSTER_POLL_S = 0.1
"""A part that comes before its roster waits this long for it."""
HELLO_S = 0.3
"""Between a peer's start and the moment when everybody knows its address."""


@lru_cache(maxsize=512)
def decoded(data: bytes) -> Message:
    """What is in an envelope of ours; its values never change, so several peers may share them."""
    return decode_message("", pb.Envelope.FromString(data))


def fits(data: bytes, part_digest: str, size: int) -> bool:
    """Whether these are the bytes that were asked for."""
    return len(data) == size and digest(data) == part_digest


class Swarm:
    """Peers by id, the wires between them, and everybody who watches."""

    def __init__(self, plan: Plan, network: Network, observers: Iterable[Observer] = ()) -> None:
        self.clock = Clock()
        self.network = network
        self.peers: dict[str, SimPeer] = {}
        self.disks: dict[str, SimDisk] = {}
        self.observers = list(observers)
        self.tamper: Callable[[str, SendPart], bytes] = lambda sender, part: part.data
        """What becomes of a part's bytes on the way; normally nothing."""
        self.blocked_parts: set[tuple[str, str]] = set()
        """Links on which control messages pass and parts get stuck."""
        self.slowness: dict[tuple[str, str], float] = {}
        """How many times longer than planned parts take on a link."""
        self.fetched_bytes: dict[str, int] = {}
        self._plan = plan
        self._rosters: dict[str, str] = {}
        self._line_free_s: dict[tuple[str, str], float] = {}
        self._incarnations: dict[str, int] = {}
        self._encoded: tuple[Message | None, bytes] = (None, b"")

    def new_incarnation(self, me: str) -> Callable[[], str]:
        """The first one of a peer is the one that the genesis lists."""

        def next_one() -> str:
            count = self._incarnations.get(me, 0)
            self._incarnations[me] = count + 1
            return f"{me}-{count}" if count else incarnation_at_genesis(me)

        return next_one

    def add(
        self,
        me: str,
        *,
        step_s: float = 0.25,
        head: Head | None = None,
        habits: Habits | None = None,
    ) -> SimPeer:
        """A peer that steps every `step_s`; `head` is where it stands, if not at genesis."""
        habits = habits or Habits(step_s=step_s)
        self.disks[me] = SimDisk()
        self.peers[me] = SimPeer(self, me, self._plan, habits, self.disks[me], head)
        return self.peers[me]

    def start(self) -> None:
        for peer in self.peers.values():
            peer.start()

    def saw(self, peer: SimPeer | None, sight: Sight) -> None:
        for observer in self.observers:
            observer.saw(self.clock.now_s, peer.me if peer else "", sight)

    # --- what happens to them --------------------------------------------------------------------

    def crash(self, peer_id: str) -> None:
        if not self.peers[peer_id].is_dead:
            self.saw(None, Fate(f"{peer_id} is killed"))
            self.peers[peer_id].is_dead = True

    def restart(self, peer_id: str, *, wiped: bool = False) -> None:
        """Another life on the same disk; `wiped`: only its identity is left."""
        if not self.peers[peer_id].is_dead:
            return
        self.saw(None, Fate(f"{peer_id} is started again{', without its files' if wiped else ''}"))
        habits = self.peers[peer_id].habits
        self.disks[peer_id].crash_after = None
        if wiped:
            self.disks[peer_id] = SimDisk()
            habits = replace(habits, joins_late=True)
        peer = SimPeer(self, peer_id, self._plan, habits, self.disks[peer_id])
        self.peers[peer_id] = peer
        peer.start()
        self.clock.after(HELLO_S, lambda: self.introduce(peer))

    def join(self, peer_id: str, habits: Habits) -> None:
        """A newcomer, when the run is on."""
        self.saw(None, Fate(f"{peer_id} comes"))
        peer = self.add(peer_id, habits=habits)
        peer.start()
        self.clock.after(HELLO_S, lambda: self.introduce(peer))

    def introduce(self, peer: SimPeer) -> None:
        """Hellos, repeated until they got through: everybody there knows everybody."""
        if peer.is_dead:
            return
        unmet = False
        for other in self.peers.values():
            if other is peer or other.is_dead:
                continue
            if self.network.is_cut(peer.me, other.me) or self.network.is_cut(other.me, peer.me):
                unmet = True
                continue
            other.run(partial(other.handle, PeerMet(peer.me)))
            peer.run(partial(peer.handle, PeerMet(other.me)))
        if unmet:
            self.clock.after(2.0, lambda: self.introduce(peer))

    def leave(self, peer_id: str) -> None:
        """As Ctrl-C does: hand over what the others need, say goodbye, stay a moment."""
        peer = self.peers[peer_id]
        if peer.is_dead:
            return
        self.saw(None, Fate(f"{peer_id} is asked to leave"))
        peer.run(peer.hand_over)
        self.clock.after(1.5, lambda: peer.run(peer.say_goodbye))

        def go() -> None:
            self.saw(None, Fate(f"{peer_id} is gone"))
            peer.is_dead = True

        self.clock.after(4.0, go)

    def freeze(self, peer_id: str, for_s: float) -> None:
        peer = self.peers[peer_id]
        if peer.is_frozen or peer.is_dead:
            return
        self.saw(None, Fate(f"{peer_id} freezes for {for_s:.1f} s"))
        peer.is_frozen = True
        peer.idle_s += for_s
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
        if to not in self.peers:
            self._fail(sender, to)
            return
        if self._encoded[0] is not message:
            # What goes to all is one object, sent to one after another.
            self._encoded = (message, encode_message(message).SerializeToString())
        data = self._encoded[1]
        delays_s = self.network.delays_s()
        if not delays_s:
            self.saw(self.peers[sender], Lost(Send(to, message)))
        for delay_s in delays_s:
            self.clock.after(delay_s, lambda: self._told(sender, to, data))

    def _told(self, sender: str, to: str, data: bytes) -> None:
        """A control message arrives, or the sender learns that nobody answers."""
        peer = self.peers[to]
        # TCP and TLS have checksums of their own: a bit error is a message that never came.
        if not self._is_silent(sender, to) and self.network.received(data) == data:
            peer.run(lambda: self._hear(peer, sender, data))
        if peer.is_frozen or self._is_silent(sender, to):
            self._fail(sender, to)

    def _hear(self, peer: SimPeer, sender: str, data: bytes) -> None:
        peer.receive(sender, MessageReceived(sender, decoded(data)))

    def _is_silent(self, sender: str, to: str) -> bool:
        return self.peers[to].is_dead or self.network.is_cut(sender, to)

    def _fail(self, sender: str, to: str) -> None:
        peer = self.peers[sender]
        failure = PeerUnreachable(to, "no answer", peer.now_s)
        self.clock.after(GIVE_UP_S, lambda: peer.run(lambda: peer.handle(failure)))

    # --- the bulk lane ---------------------------------------------------------------------------

    def start_round(self, peer_id: str, roster: str) -> None:
        """Drop what still travels for other rosters."""
        self._rosters[peer_id] = roster
        for line in self._line_free_s:
            if line[0] == peer_id:
                self._line_free_s[line] = self.clock.now_s

    def is_of_the_past(self, sender: str, part: SendPart) -> bool:
        """Whether its sender has dropped it: another roster is in force there."""
        return self._rosters[sender] != part.roster

    def push(self, sender: str, part: SendPart) -> None:
        """Parts leave one after another, at the planned rate."""
        assert part.rate_bytes_per_s > 0
        line = (sender, part.to)
        begins_s = max(self.clock.now_s, self._line_free_s.get(line, 0.0))
        takes_s = len(part.data) / part.rate_bytes_per_s * self.slowness.get(line, 1.0)
        self._line_free_s[line] = begins_s + takes_s
        delays_s = self.network.delays_s()
        if not delays_s:
            self.saw(self.peers[sender], Lost(part))
        life = self.peers[sender]
        for delay_s in delays_s:
            arrives_s = self._line_free_s[line] + delay_s
            self.clock.at(arrives_s, lambda: self._pushed(life, part))

    def _pushed(self, life: SimPeer, part: SendPart) -> None:
        sender = life.me
        if life.is_frozen:
            life.run(lambda: self._pushed(life, part))
            return
        if self.is_of_the_past(sender, part) or life.is_dead:
            return
        if (sender, part.to) in self.blocked_parts:
            self.saw(life, Lost(part))
            return
        if self._is_silent(sender, part.to):
            self._fail(sender, part.to)
            return
        data = self.tamper(sender, part)
        if self.network.received(data) != data:
            self.saw(life, Lost(part))  # its digest does not fit
            return
        peer = self.peers[part.to]
        give_up_s = self.clock.now_s + ROSTER_WAIT_S
        sent = replace(part, data=data)
        peer.run(lambda: self._take_part(peer, sender, sent, give_up_s))

    def _take_part(self, peer: SimPeer, sender: str, part: SendPart, give_up_s: float) -> None:
        """Hand a part over once its roster is in force there."""
        event = PartReceived(
            sender=sender,
            roster=part.roster,
            leg=part.leg,
            part_index=part.part_index,
            data=part.data,
            without=part.without,
            signature=part.signature,
            inputs=part.inputs,
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

    # --- bytes by content address ----------------------------------------------------------------

    def shown(self, peer: SimPeer, source: str, part_digest: str) -> bytes | None:
        """What another peer, or itself, gives to one that asks at this moment."""
        other = self.peers.get(source)
        if other is None or other.is_frozen or other.is_dead:
            return None
        is_cut = self.network.is_cut(source, peer.me) or self.network.is_cut(peer.me, source)
        return None if is_cut else other.part(part_digest)

    def fetch(
        self, peer: SimPeer, wanted: Sequence[tuple[str, int]], sources: Sequence[str]
    ) -> None:
        for part_digest, size in wanted:
            self._fetch(peer, part_digest, size, list(sources))

    def _fetch(self, peer: SimPeer, part_digest: str, size: int, sources: list[str]) -> None:
        """Ask one source after another."""
        if not sources:
            failed = FetchFailed(part_digest)
            self.clock.after(0.0, lambda: peer.run(lambda: peer.handle(failed)))
            return
        source = self.peers.get(sources[0])
        delays_s = self.network.delays_s()
        is_there = (
            source is not None
            and delays_s
            and not source.is_frozen
            and not self._is_silent(peer.me, source.me)
            and not self._is_silent(source.me, peer.me)
        )
        data = source.part(part_digest) if source is not None and is_there else None
        received = None if data is None else self.network.received(data)
        if received is None or not fits(received, part_digest, size):
            again = partial(self._fetch, peer, part_digest, size, sources[1:])
            self.clock.after(0.1 if is_there else GIVE_UP_S, lambda: peer.run(again))
            return
        self.fetched_bytes[peer.me] = self.fetched_bytes.get(peer.me, 0) + len(received)
        fetched = PartFetched(part_digest, received)
        self.clock.after(2 * delays_s[0], lambda: peer.run(lambda: peer.handle(fetched)))
