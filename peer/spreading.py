"""Throwing out: each peer passes the newest list on, and has nothing more to do with who is on it.

News go to everybody at once; besides, each peer compares lists with one other in turn, so that who
was away, or hidden from some, hears of it too. Cost: one small call every EXCHANGE_S.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from peer.board import Board
from peer.contact import Contact
from peer.gathering import Gathering
from peer.grpc_client import Asker
from peer.revocation import Revocations
from peer.runfile import RunFile
from protocol.errors import DilocoError, RemoteError, UnavailableError

EXCHANGE_S: Final = 10.0


class Spreader:
    """Keeps this peer's list the newest that anybody has."""

    def __init__(
        self,
        revocations: Revocations,
        gathering: Gathering,
        asker: Asker,
        remembered: RunFile,
        board: Board,
        drop: Callable[[str], None],
    ) -> None:
        """`drop` ends all that goes to a peer."""
        self._revocations = revocations
        self._gathering = gathering
        self._asker = asker
        self._remembered = remembered
        self._board = board
        self._drop = drop
        self._to_tell: list[Contact] = []
        self._news = asyncio.Event()
        for signed in remembered.revocations():
            with contextlib.suppress(RemoteError):  # of an authority that this run had no longer
                revocations.take(signed, "")
        revocations.on_news = self._on_news

    def _on_news(self, added: frozenset[str]) -> None:
        # They are told, too: an honest one leaves then.
        self._to_tell = self._gathering.contacts()
        names = self._gathering.names()
        for peer_id in added:
            self._gathering.forget(peer_id)
            self._drop(peer_id)
            self._board.note(f"{names.get(peer_id, peer_id[:8])} was thrown out of the run")
        try:
            self._remembered.remember_revocations(self._revocations.signed)
        except OSError as error:
            self._board.note(f"who was thrown out cannot be kept: {error.strerror}")
        self._news.set()

    async def run(self) -> None:
        """Without end; raises DilocoError when this peer is thrown out itself."""
        turn = 0
        while True:
            if self._gathering.me.peer_id in self._revocations:
                raise DilocoError(
                    "the founder threw this peer out of the run: what it has trained so far is in"
                    " its directory"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_S):
                    await self._news.wait()
            self._news.clear()
            to_tell, self._to_tell = self._to_tell, []
            if not to_tell and (others := self._gathering.contacts()):
                to_tell, turn = [others[turn % len(others)]], turn + 1
            await asyncio.gather(*(self._exchange(contact) for contact in to_tell))

    async def _exchange(self, contact: Contact) -> None:
        with contextlib.suppress(UnavailableError, RemoteError):
            heard = await self._asker.revoked(contact, self._revocations.signed)
            self._revocations.take(heard, contact.peer_id)
