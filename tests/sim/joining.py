"""Taking a snapshot from others on a virtual clock: peer/snapshot.py's `Download`, without threads.

Who is believed, what is asked from whom, how it is verified and what ends up on disk is the real
code; only the requests themselves are made up. Chunks can be damaged on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from peer.download import Plan, Request
from peer.snapshot import FOLDER, Choice, choose
from peer.store import Recovered
from protocol.chain import step_of
from protocol.digest import digest
from protocol.events import GetSnapshot
from protocol.log import Head
from protocol.state import CHUNK_BYTES, list_of, parse_list
from tests.sim.saw import Fate

if TYPE_CHECKING:
    from tests.sim.peer import SimPeer
    from tests.sim.swarm import Swarm

POLL_S = 0.2
GIVE_UP_S = 20.0
CHUNK_LIST = -1
"""In place of a chunk's index: the list of the chunks' digests, which is asked for first."""


class Joining:
    """One attempt of one peer; calls `done` once, with the state or with the reason."""

    def __init__(self, swarm: Swarm, peer: SimPeer, wanted: GetSnapshot) -> None:
        self._swarm = swarm
        self._peer = peer
        self._wanted = wanted
        self._checkpoints = peer.store.checkpoints
        self._began_s = swarm.clock.now_s
        self._lists: dict[str, tuple[str, ...]] = {}
        self._choice: Choice | None = None
        self._plan: Plan[tuple[str, int]] = Plan((), ())
        self._noted = 0
        self._is_over = False

    def start(self) -> None:
        reachable = [p for p in self._swarm.peers.values() if self._can_reach(p)]
        offers = {
            p.me: p.store.checkpoints.offers()
            for p in reachable
            if p.member.standing in ("in step", "done")
        }
        self._choice, why = choose(
            self._peer.store.tally,
            offers,
            self._peer.fragment_values,
            self._wanted.after,
            without_quorum=self._wanted.without_quorum,
        )
        if self._choice is None:
            self._end(None, why)
            return
        self._checkpoints.expect(self._choice.offer)
        wanted = [f for f in self._choice.offer.fragments if not self._checkpoints.holds(f)]
        self._plan = Plan([(f.root, CHUNK_LIST) for f in wanted], self._choice.donors)
        self._go_on()

    def _can_reach(self, other: SimPeer) -> bool:
        return (
            other is not self._peer
            and not other.is_dead
            and not other.is_frozen
            and not self._swarm.network.is_cut(other.me, self._peer.me)
            and not self._swarm.network.is_cut(self._peer.me, other.me)
        )

    def _go_on(self) -> None:
        """Ask whoever should be asked now; look again a little later."""
        assert self._choice is not None
        if self._plan.is_complete:
            self._next_stage()
            return
        now_s = self._swarm.clock.now_s
        if self._plan.is_hopeless or now_s > self._began_s + GIVE_UP_S:
            self._end(None, "no donor is left")
            return
        for donor in self._choice.donors:
            request = self._plan.begin(donor, now_s)
            if request is not None:
                self._ask(donor, request)
        self._later(POLL_S, self._go_on)

    def _ask(self, donor: str, request: Request[tuple[str, int]]) -> None:
        delays_s = self._swarm.network.delays_s()
        other = self._swarm.peers[donor]
        answers = self._can_reach(other) and bool(delays_s)
        pieces = [(i, self._given(other, *i) if answers else None) for i in request.items]
        delay_s = 2 * delays_s[0] if delays_s else 1.0
        self._later(delay_s, partial(self._answered, donor, request, pieces))

    def _given(self, donor: SimPeer, root: str, index: int) -> bytes | None:
        if index == CHUNK_LIST:
            digests = donor.store.checkpoints.chunk_digests(root)
            data = None if digests is None else list_of(digests)
        else:
            data = donor.store.checkpoints.chunk(root, index)
        return None if data is None else self._swarm.network.chunk(data)

    def _answered(
        self,
        donor: str,
        request: Request[tuple[str, int]],
        pieces: list[tuple[tuple[str, int], bytes | None]],
    ) -> None:
        for (root, index), data in pieces:
            if data is None or not self._plan.is_asked(donor):
                continue
            expected = root if index == CHUNK_LIST else self._lists[root][index]
            if digest(data) != expected:
                self._plan.drop(donor, f"chunk {index} has another digest")
                continue
            self._keep(root, index, data)
            self._plan.arrived(request, (root, index))
        self._plan.end(request, self._swarm.clock.now_s)
        for sentence in self._plan.notes[self._noted :]:
            self._swarm.saw(self._peer, Fate(f"{self._peer.me}: {sentence}"))
        self._noted = len(self._plan.notes)

    def _keep(self, root: str, index: int, data: bytes) -> None:
        if index == CHUNK_LIST:
            assert self._choice is not None
            values = next(f.values for f in self._choice.offer.fragments if f.root == root)
            self._lists[root] = parse_list(data, values)
        else:
            self._peer.disk.replace(_name(root, index), [data])

    def _next_stage(self) -> None:
        """After the lists the chunks that no earlier attempt has left here; then the end."""
        assert self._choice is not None
        here = set(self._peer.disk.names(FOLDER))
        missing = [
            (root, index)
            for root, digests in self._lists.items()
            for index, expected in enumerate(digests)
            if _name(root, index) not in here or digest(self._read(root, index)) != expected
        ]
        if missing:
            donors = [d for d in self._choice.donors if self._plan.is_asked(d)]
            self._plan = Plan(missing, donors or self._choice.donors)
            self._noted = 0
            self._go_on()
        else:
            self._finish()

    def _finish(self) -> None:
        assert self._choice is not None
        offer = self._choice.offer
        for fragment in offer.fragments:
            if fragment.root in self._lists:
                read = partial(self._read, fragment.root)
                self._checkpoints.adopt_fragment(fragment, self._lists[fragment.root], read)
        self._checkpoints.adopt(offer, {})
        for name in self._peer.disk.names(FOLDER):
            self._peer.disk.remove(name)
        loaded, notes = self._checkpoints.load_newest(offer.round)
        if loaded is None or loaded.round != offer.round:
            self._end(None, f"the snapshot cannot be read back: {'; '.join(notes)}")
            return
        head = Head.of_entry(offer.decided.entry)
        state = Recovered(
            head=head,
            trail=(step_of(head),),
            states=list(loaded.states),
            versions=list(loaded.versions),
            private=None,
            private_round=offer.round,
            facts={},
        )
        self._end(state, "")

    def _end(self, state: Recovered | None, why: str) -> None:
        self._is_over = True
        self._peer.joined(state, why)

    def _read(self, root: str, index: int) -> bytes:
        return self._peer.disk.read_at(_name(root, index), 0, CHUNK_BYTES + 1)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        self._swarm.clock.after(delay_s, lambda: self._peer.run(lambda: self._guarded(call)))

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._is_over:
            return  # the disk failed under it, say
        try:
            call()
        except OSError as error:
            self._end(None, str(error))


def _name(root: str, index: int) -> str:
    return f"{FOLDER}/{root}-{index}"
