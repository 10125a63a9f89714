"""What a peer can give to those who come later: the server asks, log and checkpoints answer."""

from collections.abc import Sequence
from typing import Protocol

from protocol.state import Offer


class Library(Protocol):
    """What it gives is verified. All but `is_healthy` may read files and are called in threads."""

    @property
    def is_healthy(self) -> bool:
        """Whether this peer is sure of its state: not forked, not alone, not catching up."""
        ...

    def part(self, digest: str) -> bytes | None:
        """The encoded mean of that digest."""
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
