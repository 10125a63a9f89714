"""The shared state of one peer: from entry to entry, to disk, and over to another chain.

The replica computes it and the store keeps it. Here is in which order, so that the trainer (which
goes on meanwhile), the ledger and the disk always speak of the same entry.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass

from peer.arithmetic import Arithmetic
from peer.catchup import Catchup
from peer.scribe import Scribe
from peer.share import Share
from peer.store import Recovered, State
from protocol.errors import RemoteError, UnavailableError
from protocol.events import ApplyEntry, GetSnapshot, Restored, RestoreFailed, Rewind
from protocol.log import Genesis
from protocol.messages import Step


@dataclass
class SharedState:
    """What is in force on this peer, and the only code that puts anything else in force."""

    me: str
    genesis: Genesis
    initial: Sequence[State]
    """At genesis."""
    recovered: InitVar[Recovered]
    """What is in force to begin with."""
    share: Share
    scribe: Scribe
    catchup: Catchup
    note: Callable[[str], None]

    def __post_init__(self, recovered: Recovered) -> None:
        self.replica, self.trainer = self.share.replica, self.share.trainer
        self.ledger, self._schedule = self.share.ledger, self.share.manifest.schedule
        self.arithmetic = Arithmetic(self.replica)
        self.round = recovered.head.round
        """Of the last applied entry."""
        self.versions = list(recovered.versions)
        """For each fragment the round of the last entry that averaged it."""
        self._last: ApplyEntry | None = None
        self._is_folding = False
        """However many rounds one inner step takes, one request waits for its end."""
        # Who leaves, or whose disk works again, saves at any time: never half an entry.
        self._whole = asyncio.Lock()
        self.digest = ""
        """Of the fragment that the last entry averaged; the genesis vouches for the rest."""
        if self.round >= 0:
            self.digest = self.replica.fragment_digest(self._schedule.fragment_of(self.round))

    # --- on --------------------------------------------------------------------------------------

    async def apply(self, effect: ApplyEntry) -> None:
        """Put an entry in force. The model follows with `fold_in`."""
        async with self._whole:
            await self._apply(effect)

    async def _apply(self, effect: ApplyEntry) -> None:
        entry, parts = effect.entry, effect.parts
        if not entry.is_empty:
            contributed = entry.contributed_parts(self.me)
            outer_step = await self.arithmetic.calculate(
                self.replica.outer_step, entry, parts, contributed
            )
            await self.trainer.unchanged(lambda: self.replica.advance(outer_step))
            self.versions[entry.fragment_id] = entry.round
        await self._take_digest(entry.fragment_id)
        self.ledger.decided(entry, self.me)
        self.round, self._last = entry.round, effect
        self.share.entry_applied()

    async def fold_in(self) -> None:
        """Let the model follow what is in force, at the next step boundary."""
        if self._is_folding:
            return
        self._is_folding = True
        try:
            while not self.replica.is_folded:
                await self.trainer.at_boundary(self.replica.fold_in)
        finally:
            self._is_folding = False

    async def begin_here(self) -> None:
        """A newcomer's local parameters begin at the global_params in force."""
        async with self._whole:
            await self.trainer.at_boundary(lambda: self.replica.begin_at(self.replica.states, None))

    async def _take_digest(self, fragment_id: int) -> None:
        calculate = self.arithmetic.calculate
        self.digest = await calculate(self.replica.fragment_digest, fragment_id)

    # --- to disk ---------------------------------------------------------------------------------

    async def save(self, trail: Sequence[Step]) -> None:
        """Keep the state after the last entry applied here, if any, and what is this peer's own.

        Args:
            trail: the entries up to that one, newest first; newer ones may be in it.
        """
        async with self._whole:
            await self._save(trail)

    async def _save(self, trail: Sequence[Step]) -> None:
        effect = self._last
        if effect is None or self.scribe.is_saving:
            return
        step, private = await self.trainer.unchanged(
            lambda: (
                self.trainer.updated_step,
                {**self.replica.save_local(), **self.trainer.save()},
            )
        )
        facts = {"step": step, "ledger": self.ledger.to_json(self.share.tokens_after(step))}
        states, versions = self.replica.states, list(self.versions)
        checkpoints = self.scribe.store.checkpoints
        self.scribe.save(
            lambda: checkpoints.save(
                effect.decided.round, effect.decided, states, versions, private, facts, trail
            )
        )

    # --- another one -----------------------------------------------------------------------------

    async def restore(
        self, effect: Rewind | GetSnapshot, live: Callable[[], Iterable[str]]
    ) -> Restored | RestoreFailed:
        """Put the state in force that the group goes on from.

        Args:
            live: gives the peers that are thought to be alive now.
        """
        state: Recovered | None = None
        if isinstance(effect, Rewind):
            state = await self.scribe.ask(lambda: self._recover(effect.round, effect.head))
        is_rewound = state is not None
        if state is None:
            try:
                state = await self.catchup.take_snapshot(
                    live, effect.after, without_quorum=effect.without_quorum
                )
            except (UnavailableError, RemoteError, OSError) as error:
                return RestoreFailed(str(error))
        async with self._whole:
            incarnation = await self._forget_after(state.head.round if is_rewound else None)
            await self._adopt(state)
        return Restored(head=state.head, trail=state.trail, incarnation=incarnation)

    def _recover(self, round_: int, head: str) -> Recovered | None:
        store = self.scribe.store
        return store.recover(self.genesis, self.initial, self.replica.apply, round_, head)

    async def _forget_after(self, round_: int | None) -> str:
        """Forget this peer's votes, and its log after this round, or all of it before a snapshot.

        Returns:
            the incarnation under which it votes again; none when votes cannot be forgotten.
        """
        store = self.scribe.store
        try:
            if round_ is None:
                await self.scribe.ask(store.begin_anew)
            else:
                for entry in await self.scribe.ask(lambda: store.rewind(round_)):
                    self.ledger.given_up(entry, self.me)
        except OSError as error:
            self.note(f"votes cannot be forgotten ({error.strerror}), so this peer has none")
            return ""
        return store.incarnation

    async def _adopt(self, state: Recovered) -> None:
        await self.trainer.at_boundary(lambda: self.replica.adopt(state.states))
        self.versions = list(state.versions)
        self.round, self._last = state.head.round, None
        self.share.begin_here()
        if self.round < 0:
            self.digest = ""
        else:
            await self._take_digest(self._schedule.fragment_of(self.round))
