"""What peers say to each other on the control lane, as values.

Each message belongs to one round of one run; the wire codec (protocol/wire/codec.py) is the only
place that knows how they are written. Bulk data (parts) travels apart from these, as chunks.
"""

from dataclasses import dataclass
from typing import TypeAlias

from protocol.digest import canonical, digest
from protocol.log import Entry


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
    tokens: int
    """0: receives the means and contributes nothing."""
    pace_steps_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """From a coordinator to its group: this is the round, go."""

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
    deadline_s: float
    """After this long without a decision any voter may propose the round empty."""

    @property
    def peer_ids(self) -> tuple[str, ...]:
        return tuple(member.peer_id for member in self.members)

    @property
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
class Held:
    """To the coordinator: I hold all averaged parts of this roster, and this is their digest."""

    round: int
    roster: str
    parts_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Paxos 1a: promise me to ignore lower ballots, and tell me what you accepted."""

    round: int
    ballot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Paxos 1b."""

    round: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """To everybody: this entry is the log's next one."""

    round: int
    entry: Entry
    accepted_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Every second to everybody: I am alive, this is where I stand."""

    round: int
    """Of my last entry."""
    head: str
    """Its digest."""
    step: int
    """My inner steps: shows that the trainer lives, not only the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Your log is longer than mine: send me the entries after this one."""

    round: int
    """Of my last entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """I am going. Do not wait for me."""

    round: int


Message: TypeAlias = (
    Ready
    | Roster
    | Held
    | Prepare
    | Promise
    | Accept
    | Accepted
    | Decided
    | Heartbeat
    | Ask
    | Leave
)
