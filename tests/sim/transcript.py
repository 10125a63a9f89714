"""A run as plain text: who did and said what, and when. Heartbeats are left out."""

from dataclasses import dataclass, field

from protocol.digest import digest
from protocol.events import (
    ApplyEntry,
    AveragePart,
    DiskFailed,
    FetchParts,
    GetSnapshot,
    Leg,
    Note,
    PartFetched,
    Record,
    RestoreFailed,
    Rewind,
    Send,
    SendPart,
    ShareTrained,
    SnapshotTaken,
    StartRound,
)
from protocol.log import GENESIS_ROUND, Entry
from protocol.messages import (
    Accept,
    Accepted,
    Amend,
    Ask,
    Decided,
    Gone,
    Heartbeat,
    Held,
    Leave,
    Mean,
    Message,
    Prepare,
    Promise,
    Ready,
    Roster,
    Trail,
)
from tests.sim.saw import Fate, InForce, Lost, Refused, Sight


@dataclass(slots=True)
class Line:
    who: str
    what: str
    to: list[str] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        to = f" > {' '.join(self.to)}" if self.to else ""
        parts = " ".join(map(str, sorted(self.parts)))
        of_parts = f" part{'s' if len(self.parts) > 1 else ''} {parts}" if self.parts else ""
        return f"{self.who}{to}: {self.what}{of_parts}\n"


class Transcript:
    """Collects lines; one line for a message to several peers, one for a member's parts."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._open: tuple[float, str, object] | None = None
        self._rosters: dict[str, Roster] = {}
        """Those that somebody follows, by digest."""

    @property
    def text(self) -> str:
        return "".join(map(str, self._lines))

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        at = f"{now_s:8.3f}  "
        match sight:
            case Send(to, message) if to != peer_id and not isinstance(message, Heartbeat):
                self._say(now_s, peer_id, to, message, self._describe(message))
            case SendPart():
                what = "contributes to" if sight.leg is Leg.SCATTER else "gives the mean of"
                parts = (sight.leg, sight.roster)
                line = self._say(now_s, peer_id, sight.to, parts, what)
                line.parts += [] if sight.part_index in line.parts else [sight.part_index]
            case Refused(sender, event, why):
                self._add(at + peer_id, f"refuses {type(event).__name__} from {sender}: {why}")
            case Lost(Send(to, message)) if not isinstance(message, Heartbeat):
                self._add(at + peer_id, f"(the {type(message).__name__} to {to} is lost)")
            case Lost(SendPart(to=to, part_index=part_index)):
                self._add(at + peer_id, f"(part {part_index} to {to} is lost)")
            case Fate(text):
                self._add(at + "*", text)
            case Note(text):
                self._add(at + peer_id, text)
            case ShareTrained():
                self._add(at + peer_id, f"trained its share of round {sight.round}")
            case SnapshotTaken():
                self._add(at + peer_id, f"took its snapshot of round {sight.round}")
            case AveragePart():
                senders = "".join(sight.senders)
                self._add(at + peer_id, f"averages part {sight.part_index} of {senders}")
            case StartRound(roster):
                self._rosters[roster.digest] = roster
                self._add(at + peer_id, f"follows the roster of ballot {roster.ballot}")
            case ApplyEntry(decided, _):
                self._add(at + peer_id, f"applies {describe_entry(decided.entry)}")
            case InForce(_, head, states) if head.round != GENESIS_ROUND:
                state = digest(b"".join(v.tobytes() for pair in states for v in pair))
                text = f"is in state {state[:6]} after round {head.round}, {head.digest[:6]}"
                self._add(at + peer_id, text)
            case Record(ballots=ballots):
                accepted = f", accepted in {ballots.accepted_ballot}" if ballots.accepted else ""
                self._add(at + peer_id, f"writes: promised {ballots.promised}{accepted}")
            case FetchParts(wanted, sources):
                names = " ".join(part_digest[:6] for part_digest, _ in wanted)
                self._add(at + peer_id, f"fetches {names} from {' '.join(sources)}")
            case PartFetched(part_digest, _):
                self._add(at + peer_id, f"has fetched {part_digest[:6]}")
            case Rewind(round_, _):
                self._add(at + peer_id, f"rewinds to round {round_}")
            case GetSnapshot(why):
                self._add(at + peer_id, f"wants a snapshot: {why}")
            case DiskFailed(why) | RestoreFailed(why):
                self._add(at + peer_id, f"fails: {why}")

    def _add(self, who: str, what: str) -> None:
        self._open = None
        self._lines.append(Line(who, what))

    def _say(self, now_s: float, sender: str, to: str, key: object, text: str) -> Line:
        """One line for what goes to several peers in one moment."""
        if self._open != (now_s, sender, key):
            self._add(f"{now_s:8.3f}  {sender}", text)
            self._open = (now_s, sender, key)
        line = self._lines[-1]
        line.to += [] if to in line.to else [to]
        return line

    def _describe(self, message: Message) -> str:
        match message:
            case Held(number=number, means=means):
                roster = self._rosters[message.roster]
                after = f" after amendment {number}" if number >= 0 else ""
                return (
                    f"Held{after}: {', '.join(describe_mean(m, roster) for m in means) or 'none'}"
                )
            case Amend(number=number, lost=lost):
                roster = self._rosters[message.roster]
                owners = " ".join(roster.peer_ids[owner] for owner in message.owners)
                given_up = f"gives {' '.join(lost)} up" if lost else "gives nobody up"
                return f"Amend {number}: {given_up}, owners {owners}"
            case _:
                return describe(message)


def describe_mean(mean: Mean, roster: Roster) -> str:
    """The part, the first digits of its digest, and whose contributions are in it."""
    contributors = [member.peer_id for member in roster.members if member.tokens > 0]
    there = (peer for place, peer in enumerate(contributors) if place not in mean.without)
    return f"{mean.part_index} {mean.digest[:6]} of {''.join(there)}"


def describe(message: Message) -> str:
    match message:
        case Ready():
            return f"Ready for round {message.round} with {message.tokens} tokens"
        case Roster():
            members = " ".join(f"{m.peer_id}:{m.tokens}" for m in message.members)
            owners = " ".join(message.peer_ids[owner] for owner in message.owners)
            return (
                f"Roster of round {message.round}, ballot {message.ballot}: members {members};"
                f" owners {owners}; planned {message.transfer_s:.2f} s, closes after"
                f" {message.close_s:.2f} s, deadline {message.deadline_s:.2f} s"
            )
        case Prepare():
            return f"Prepare ballot {message.ballot}"
        case Promise(accepted=None):
            return f"Promise ballot {message.ballot}, nothing accepted"
        case Promise():
            return f"Promise ballot {message.ballot}, accepted in ballot {message.accepted_ballot}"
        case Accept():
            return f"Accept ballot {message.ballot}: {describe_entry(message.entry)}"
        case Accepted():
            return f"Accepted ballot {message.ballot}"
        case Decided():
            return f"Decided: {describe_entry(message.entry)}, by {' '.join(message.accepted_by)}"
        case Ask():
            return f"Ask for what comes after round {message.round}"
        case Leave():
            return "Leave"
        case Gone():
            return f"Gone: entries begin at round {message.round}"
        case Trail():
            newest = message.steps[0]
            return f"Trail: round {message.round}, {newest.digest[:6]}, term {newest.term}"
        case _:
            return type(message).__name__


def describe_entry(entry: Entry) -> str:
    """Whose contributions are in each part (- for an absent one), who is missing, who votes."""
    of = " ".join(
        "".join(peer for peer, tokens in zip(entry.members, part.tokens, strict=True) if tokens)
        if part
        else "-"
        for part in entry.parts
    )
    what = f"empty ({entry.reason})" if entry.is_empty else f"of {of}"
    missing = "".join(f", without {peer} ({why})" for peer, why in entry.missing)
    voters = " ".join(f"{v}*" if v == entry.tie_breaker else v for v in entry.voters)
    term = f" term {entry.term}" if entry.term else ""
    return f"round {entry.round}{term} {what}{missing}, voters {voters}, {entry.digest[:6]}"
