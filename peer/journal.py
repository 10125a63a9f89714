"""What this peer has promised and accepted, on disk before anybody is told (I4).

A vote that was given and forgotten could decide one round twice. So a journal has an incarnation,
and every entry lists, with each voter, the incarnation that its vote needs: whoever lost its
journal comes back under another one, and votes again once an entry lists that.
"""

from collections.abc import Callable
from typing import Final

from peer.disk import Disk
from peer.sealed import seal, unseal
from protocol.ballots import Ballots

_NAME: Final = "journal.json"


class Journal:
    """One small file, replaced for every vote. Used by one thread at a time."""

    def __init__(self, disk: Disk, incarnation: str, ballots: Ballots | None) -> None:
        """What is on disk already; use `open`."""
        self._disk = disk
        self._incarnation = incarnation
        self._ballots = ballots

    @classmethod
    def open(cls, disk: Disk, new_incarnation: Callable[[], str]) -> tuple["Journal", str]:
        """The journal on this disk, or a fresh one where it is missing or damaged.

        Args:
            new_incarnation: gives one that was never used before, such as 16 random digits.

        Returns:
            the journal and, unless it was found whole, one sentence that says what happened.
        """
        try:
            return cls._read(disk), ""
        except FileNotFoundError:
            found = "there is no journal"
        except OSError as error:
            found = f"the journal cannot be read ({error.strerror})"
        except ValueError as error:
            found = f"the journal is damaged ({error})"
        return cls.begin_anew(disk, new_incarnation, found)

    @classmethod
    def begin_anew(
        cls, disk: Disk, new_incarnation: Callable[[], str], found: str
    ) -> tuple["Journal", str]:
        """A journal without votes, and a sentence about it; `found` is why the old one is void."""
        journal = cls(disk, new_incarnation(), None)
        sentence = f"{found}: this peer votes again once an entry lists it as {journal.incarnation}"
        try:
            journal._replace(journal.incarnation, None)
        except OSError as error:
            # Harmless: the incarnation reaches the disk with the first vote, or nothing is voted.
            sentence += f"; a new one cannot be written ({error.strerror})"
        return journal, sentence

    @property
    def incarnation(self) -> str:
        return self._incarnation

    @property
    def ballots(self) -> Ballots | None:
        """Of the last instance that this peer voted in; None before its first vote."""
        return self._ballots

    def write(self, ballots: Ballots) -> None:
        """Durable before it returns.

        Raises:
            OSError: it cannot be written; the old ballots stay in force, and no answer may be given
                for the new ones.
        """
        self._replace(self._incarnation, ballots)

    def renew(self, new_incarnation: Callable[[], str]) -> None:
        """Forget every vote, under a new incarnation: another chain was adopted.

        Raises:
            OSError: it cannot be written; everything stays as it was.
        """
        self._replace(new_incarnation(), None)

    def _replace(self, incarnation: str, ballots: Ballots | None) -> None:
        record = {"incarnation": incarnation, "ballots": ballots and ballots.to_json()}
        self._disk.replace(_NAME, [seal(record)])
        self._incarnation, self._ballots = incarnation, ballots

    @classmethod
    def _read(cls, disk: Disk) -> "Journal":
        """Raises OSError, or ValueError when the file is not a whole journal."""
        record = unseal(disk.read(_NAME))
        try:
            incarnation, ballots = record["incarnation"], record["ballots"]
            if not isinstance(incarnation, str) or not incarnation:
                raise ValueError("no incarnation")
            return cls(disk, incarnation, None if ballots is None else Ballots.from_json(ballots))
        except (KeyError, TypeError) as error:
            raise ValueError("not a journal") from error
