"""What peers say to each other on the control lane, as values.

Each message belongs to one round of one run; the wire codec (protocol/wire/codec.py) is the only
place that knows how they are written. Bulk data (parts) travels apart from these, as chunks.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

from protocol.accepts import SignedAccept, Vote
from protocol.audit import Accusation
from protocol.ballots import NO_BALLOT
from protocol.digest import canonical, digest
from protocol.log import Entry, json_int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """To all voters: I trained my share for this round."""

    round: int
    parent: str
    """Digest of the entry that I would continue."""
    state: str
    """Digest of the fragment that it averaged, as I have it now: equal entries must give it."""
    tokens: int
    """Trained since my last contribution to this fragment, capped; my weight in the mean."""
    pace_steps_per_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    overhead_s: float
    """What I measured that readiness and decision add to a round."""
    dialable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One peer's line in a roster."""

    peer_id: str
    incarnation: str
    """Of the journal that it votes with from the next entry on."""
    tokens: int
    """0: receives the means and contributes nothing."""
    pace_steps_per_s: float


@dataclass(frozen=True, kw_only=True)
class Roster:
    """From a coordinator to its group: this is the round, go. Keeps its digest, so no slots."""

    round: int
    ballot: int
    parent: str
    members: tuple[Member, ...]
    """In peer_id order."""
    owners: tuple[int, ...]
    """For each part the index of its owner in `members`."""
    missing: tuple[tuple[str, str], ...]
    transfer_s: float
    """Planned length of the exchange; every link's rate is its bytes divided by this."""
    close_s: float
    """After this long an owner averages what it has; who comes later is missing from the part."""
    deadline_s: float
    """After this long the entry is proposed with the parts that are there, be it none."""

    @cached_property
    def peer_ids(self) -> tuple[str, ...]:
        return tuple(member.peer_id for member in self.members)

    @cached_property
    def digest(self) -> str:
        """Repeated by every part, so that two rosters of one round never mix."""
        return digest(
            canonical(
                [
                    self.round,
                    self.ballot,
                    self.parent,
                    [[m.peer_id, m.tokens] for m in self.members],
                    list(self.owners),
                ]
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend:
    """From whoever leads the roster's group now: go on without these, with these owners.

    Also the question what everybody holds; it is answered by Held.
    """

    round: int
    roster: str
    number: int
    """Grows; number n belongs to the coordinator at place n mod the count of voters."""
    lost: tuple[str, ...]
    """Members whose bytes are not waited for any longer."""
    owners: tuple[int, ...]
    resend_s: float
    """Planned length of what has to be sent again; 0 when nothing moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean of one part that somebody holds: which bytes, and whose contributions are not in it.

    Two may exist for one part, when its owner was given up too early; the entry names one.
    """

    part_index: int
    digest: str
    without: tuple[int, ...] = ()
    """Places in the roster of contributors that are missing from it, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """To who leads the group: these means are here. Sent when all are, and when asked."""

    round: int
    roster: str
    number: int
    """Of the last amendment that I follow; -1 for none."""
    means: tuple[Mean, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Paxos 1a: promise me to ignore lower ballots, and tell me what you accepted."""

    round: int
    parent: str
    """Digest of the entry before: on another chain the same round is another instance."""
    ballot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Paxos 1b."""

    round: int
    parent: str
    ballot: int
    accepted_ballot: int
    """-1: nothing accepted."""
    accepted: Entry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Paxos 2a: accept this entry."""

    round: int
    ballot: int
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Paxos 2b: I accepted it."""

    round: int
    ballot: int
    entry_digest: str
    accept: SignedAccept

    def vote(self, parent: str) -> Vote:
        """What was accepted, in the instance that continues this entry."""
        return Vote(
            round=self.round, parent=parent, ballot=self.ballot, entry_digest=self.entry_digest
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """To everybody: this entry is the log's next one."""

    round: int
    entry: Entry
    ballot: int
    """In which it was accepted; NO_BALLOT for a forced term."""
    accepts: tuple[SignedAccept, ...]
    """Of a quorum, in the order of their voters; of a forced term, of who forced it."""

    @property
    def accepted_by(self) -> tuple[str, ...]:
        return tuple(accept.voter for accept in self.accepts)

    @property
    def vote(self) -> Vote:
        return Vote.on(self.entry, self.ballot)

    def to_json(self) -> dict[str, Any]:
        return {
            "entry": self.entry.to_json(),
            "ballot": self.ballot,
            "accepts": [accept.to_json() for accept in self.accepts],
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        if "accepts" not in raw:
            raise ValueError("it is of a version that kept no signatures: found the run anew")
        entry = Entry.from_json(raw["entry"])
        return cls(
            round=entry.round,
            entry=entry,
            ballot=json_int(raw["ballot"], lowest=NO_BALLOT),
            accepts=tuple(map(SignedAccept.from_json, raw["accepts"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Every second to everybody: I am alive, this is where I stand."""

    round: int
    """Of my last entry."""
    head: str
    """Its digest."""
    incarnation: str
    """Of my journal; empty if I cannot vote."""
    step: int
    """My inner steps: shows that the trainer lives, not only the process. -1: I am finished."""
    trains: bool
    """False: I follow the log and contribute nothing (an archive)."""
    deaf_to: tuple[str, ...] = ()
    """Peers that I do not hear: a link that carries one way only counts as down on both sides."""
    convicts: tuple[str, ...] = ()
    """Peers that were proven to me to lie, and are not banned yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Your log is longer than mine: send me the entries after this one."""

    round: int
    """Of my last entry."""
    head: str
    """Its digest: from another one the answer is a Trail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The entries that you asked for are no longer kept here: take a snapshot."""

    round: int
    """Of the oldest one that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One entry of a chain, as far as chains are compared."""

    round: int
    digest: str
    term: int
    committed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """Our logs differ: this is the end of mine, newest first."""

    round: int
    """Of my last entry."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """I am going. Do not wait for me."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuse:
    """Somebody has averaged falsely, or I lie: see for yourself."""

    round: int
    accusation: Accusation


Message: TypeAlias = (
    Ready
    | Roster
    | Amend
    | Held
    | Prepare
    | Promise
    | Accept
    | Accepted
    | Decided
    | Heartbeat
    | Ask
    | Gone
    | Trail
    | Leave
    | Accuse
)
