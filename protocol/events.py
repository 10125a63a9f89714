"""What happens to a member of the swarm, and what it then wants done.

Events go into `protocol.member.Member`, effects come out; peer/ carries them out in order. All of
them are plain values, so a whole swarm can run in one thread on a virtual clock.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from protocol.audit import Accusation
from protocol.ballots import Ballots
from protocol.claims import Claim, Input, Signature
from protocol.evidence import DoubleVote
from protocol.log import Entry, Head
from protocol.messages import Decided, Message, Roster, Step


class Leg(Enum):
    """The two halves of a round's exchange."""

    SCATTER = "scatter"
    """A member's contribution, on its way to the part's owner."""
    GATHER = "gather"
    """The encoded mean, on its way from the owner to everybody."""


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTrained:
    """The trainer did its share of steps for this round and holds every entry before it."""

    round: int
    state: str
    """Digest of global_params and momentum of the fragment that the entry before averaged."""
    tokens: int
    """Since the last contribution to the round's fragment, capped."""
    pace_steps_per_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    overhead_s: float
    """What this peer measured that readying and deciding add to a round."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    sender: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReceived:
    """A whole part arrived; its chunks were put together by the transport."""

    sender: str
    roster: str
    leg: Leg
    part_index: int
    data: bytes
    without: tuple[int, ...] = ()
    """Of a mean: places in the roster of contributors that are missing from it."""
    signature: Signature | None = None
    """Of a contribution, or of a mean's claim where the run has audits."""
    inputs: tuple[Input, ...] = ()
    """What a mean's owner says that it averaged, in peer_id order, where the run has audits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The pseudo-gradient of the round's fragment, encoded part by part."""

    round: int
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAveraged:
    """The encoded mean of a part that this peer owns."""

    roster: str
    part_index: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionRefused:
    """A contribution to a part that this peer owns cannot be decoded: average without it."""

    roster: str
    part_index: int
    sender: str


@dataclass(frozen=True, slots=True)
class PartFetched:
    """Bytes that were asked for by content address; the digest was checked."""

    digest: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """None of the sources gave these bytes; they are asked for again at the next heartbeat."""

    digest: str


@dataclass(frozen=True, slots=True)
class DiskFailed:
    """A vote, or the bytes it needs, cannot be written: this peer does not vote."""

    why: str


@dataclass(frozen=True, slots=True)
class DiskWorks:
    """What failed can be written again; whatever was recorded since then was not."""

    incarnation: str
    ballots: Ballots | None
    """What the journal holds: these votes were given, and no later ones."""


@dataclass(frozen=True, slots=True)
class PeerMet:
    """A peer of the run is known and can be dialled, for the first time or anew."""

    peer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The shell has put another state in force: a snapshot, or a rewind to an older entry."""

    head: Head
    trail: tuple[Step, ...]
    """Newest first, the head's own included."""
    incarnation: str


@dataclass(frozen=True, slots=True)
class RestoreFailed:
    """Neither a rewind nor a snapshot was possible; it is tried again when it is due again."""

    why: str


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """The transport could not reach a peer: refused, reset, or silent past every deadline."""

    peer_id: str
    why: str
    began_s: float
    """When the attempt began that has failed: what was heard since then contradicts it."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """The trainer's step counter, for the heartbeats."""

    step: int


@dataclass(frozen=True, slots=True)
class MeanDoubted:
    """A mean of this round contradicts what this peer itself gave to it (`audit.contradicts`)."""

    part_index: int
    digest: str


@dataclass(frozen=True, slots=True)
class FoundFalse:
    """This peer has done an owner's work again, and something else came out than it claims."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of a `Judge`."""

    accusation: str
    """Its digest."""
    is_true: bool | None
    """Whether the claim is. None: nobody shows what went into the mean."""


Event: TypeAlias = (
    ShareTrained
    | MessageReceived
    | PartReceived
    | SnapshotTaken
    | PartAveraged
    | ContributionRefused
    | PartFetched
    | FetchFailed
    | DiskFailed
    | DiskWorks
    | PeerMet
    | Restored
    | RestoreFailed
    | PeerUnreachable
    | StepDone
    | FoundFalse
    | MeanDoubted
    | Judged
)


# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message into the control lane."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPart:
    """Put a part into the bulk lane, at the rate that the roster plans for this link."""

    to: str
    roster: str
    leg: Leg
    part_index: int
    data: bytes
    rate_bytes_per_s: float
    without: tuple[int, ...] = ()
    signature: Signature | None = None
    """These two: as in PartReceived."""
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Write down what this peer promised or accepted; only when it is on disk, send the rest.

    An accepted entry's bytes are written first. If anything fails, nothing is sent, the event
    DiskFailed comes back, and nothing is recorded until DiskWorks does.
    """

    ballots: Ballots
    parts: tuple[bytes | None, ...] | None
    """Bytes of `ballots.accepted` when it has just been accepted."""
    then: tuple[Send, ...]


@dataclass(frozen=True, slots=True)
class FetchParts:
    """Get these bytes, each from whichever of the sources has them, the first one first."""

    wanted: tuple[tuple[str, int], ...]
    """(digest, size in bytes)."""
    sources: tuple[str, ...]
    holders: int = 1
    """So many of the first sources should have all of them: the load may be spread over these."""


@dataclass(frozen=True, slots=True)
class ServeEntries:
    """Send a peer the decided entries after a round, or Gone when they are no longer kept."""

    to: str
    round: int


@dataclass(frozen=True, slots=True)
class Rewind:
    """Go back to an entry of this peer's own log, since another chain goes on from there.

    Where that is not possible any more, a snapshot is taken instead. Restored comes back either
    way, or RestoreFailed.
    """

    round: int
    head: str
    """Digest of that entry: what is on disk for its round may be of yet another chain."""
    why: str
    after: frozenset[str]
    """Digests of the entries after which a snapshot helps: those of the other chain."""
    without_quorum: bool
    """As in GetSnapshot."""


@dataclass(frozen=True, slots=True)
class GetSnapshot:
    """Too far behind, or in a wrong state: take the group's state from several of its members."""

    why: str
    after: frozenset[str]
    """Digests of the entries after which it helps."""
    without_quorum: bool
    """Whether one that the voters do not vouch for will do: too few have been there for long."""


@dataclass(frozen=True, slots=True)
class StartRound:
    """A roster is in force: show it; drop what still travels for rosters before it."""

    roster: Roster
    fragment_id: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Encode the fragment's pseudo-gradient at the trainer's next step boundary."""

    round: int
    fragment_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePart:
    """Decode, average in this order, encode once. All of it was checked for size, not content."""

    roster: str
    part_index: int
    senders: tuple[str, ...]
    contributions: tuple[bytes, ...]
    tokens: tuple[int, ...]
    values: int


@dataclass(frozen=True, slots=True)
class ApplyEntry:
    """The entry is decided: keep it, step the shared state, then merge or rebase the replica.

    It is on disk before any later Record is.
    """

    decided: Decided
    parts: tuple[bytes | None, ...]
    claims: tuple[Claim, ...] = ()
    """What owners claimed of the means in it, as far as they told this peer."""

    @property
    def entry(self) -> Entry:
        return self.decided.entry


@dataclass(frozen=True, slots=True)
class KeepProof:
    """A voter has voted twice: say so, and keep the proof where a person finds it."""

    double_vote: DoubleVote


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareMean:
    """A mean claims to have in it what this peer gave: MeanDoubted, if it contradicts that."""

    round: int
    part_index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Audit:
    """A claim is doubted: do its owner's work again, and say so if it is false."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Judge:
    """Somebody is accused: get what its mean was made of, make it again, and say what came out."""

    accusation: Accusation


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who lied: the owner, if what it claimed is false, or else the accuser."""

    guilty: str
    accusation: Accusation


@dataclass(frozen=True, slots=True)
class KeepVerdict:
    """Somebody was proven to lie: say so, keep the proof, and the bytes that prove it."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the log and the live view."""

    text: str


Effect: TypeAlias = (
    Send
    | SendPart
    | Record
    | FetchParts
    | ServeEntries
    | Rewind
    | GetSnapshot
    | StartRound
    | TakeSnapshot
    | AveragePart
    | ApplyEntry
    | KeepProof
    | CompareMean
    | Audit
    | Judge
    | KeepVerdict
    | Note
)
