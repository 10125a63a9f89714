"""What a peer can give to those who come later: the server asks, log and checkpoints answer."""

from collections.abc import Sequence
from typing import Protocol

from peer.auditing import Inputs
from peer.store import Store
from protocol.member import Member
from protocol.state import Offer


class Library(Protocol):
    """What it gives is verified. All but `is_healthy` may read files and are called in threads."""

    @property
    def is_healthy(self) -> bool:
        """Whether this peer is sure of its state: not forked, and not catching up."""
        ...

    def part(self, digest: str) -> bytes | None:
        """The encoded mean of that digest, or what one of the last means was made of."""
        ...

    def offers(self) -> Sequence[Offer]:
        """The checkpoints, the newest first."""
        ...

    def chunk_digests(self, root: str) -> tuple[str, ...] | None:
        """The chunk list of a fragment's state."""
        ...

    def chunk(self, root: str, index: int) -> bytes | None:
        """One chunk of a fragment's state."""
        ...


class OwnLibrary:
    """This peer's: the round under way, the log, and the checkpoints."""

    def __init__(self, store: Store, member: Member, inputs: Inputs) -> None:
        self._store = store
        self._member = member
        self._inputs = inputs

    @property
    def is_healthy(self) -> bool:
        member = self._member
        return member.standing in ("in step", "done") and member.entries_behind <= 1

    def part(self, digest: str) -> bytes | None:
        return (
            self._member.bytes_of(digest)
            or self._store.book.part(digest)
            or self._inputs.get(digest)
        )

    def offers(self) -> Sequence[Offer]:
        return self._store.checkpoints.offers()

    def chunk_digests(self, root: str) -> tuple[str, ...] | None:
        return self._store.checkpoints.chunk_digests(root)

    def chunk(self, root: str, index: int) -> bytes | None:
        return self._store.checkpoints.chunk(root, index)
