"""A run as plain text: who did and said what, and when. Heartbeats are left out."""

from protocol.digest import digest
from protocol.events import (
    ApplyEntry,
    AveragePart,
    DiskFailed,
    FetchParts,
    GetSnapshot,
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
    Message,
    Prepare,
    Promise,
    Ready,
    Roster,
    Trail,
)
from tests.sim.saw import Fate, InForce, Lost, Refused, Sight

PARTS = "parts"


class Transcript:
    """Collects lines; one line for a message to several peers, one for a member's parts."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, list[str], str]] = []
        self._open: tuple[float, str, object] | None = None

    @property
    def text(self) -> str:
        lines = (
            f"{who}{' > ' + ' '.join(to) if to else ''}: {what}" for who, to, what in self._lines
        )
        return "".join(f"{line}\n" for line in lines)

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        at = f"{now_s:8.3f}  "
        match sight:
            case Send(to, message) if not isinstance(message, Heartbeat):
                self._say(now_s, peer_id, to, message, describe(message))
            case SendPart():
                parts = (sight.leg, sight.roster)
                self._say(now_s, peer_id, sight.to, parts, f"parts, {sight.leg.value}")
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
                self._add(at + peer_id, f"averages part {sight.part_index}")
            case StartRound(roster):
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
                self._add(at + peer_id, f"fetches {len(wanted)} parts from {' '.join(sources)}")
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
        self._lines.append((who, [], what))

    def _say(self, now_s: float, sender: str, to: str, key: object, text: str) -> None:
        """One line for what goes to several peers in one moment."""
        if self._open == (now_s, sender, key):
            if to not in self._lines[-1][1]:
                self._lines[-1][1].append(to)
            return
        self._lines.append((f"{now_s:8.3f}  {sender}", [to], text))
        self._open = (now_s, sender, key)


def describe(message: Message) -> str:
    match message:
        case Ready():
            return f"Ready for round {message.round} with {message.tokens} tokens"
        case Roster():
            members = " ".join(f"{m.peer_id}:{m.tokens}" for m in message.members)
            owners = " ".join(message.peer_ids[owner] for owner in message.owners)
            return (
                f"Roster of round {message.round}, ballot {message.ballot}: members {members};"
                f" owners {owners}; {message.transfer_s:.2f} s, deadline {message.deadline_s:.2f} s"
            )
        case Held():
            means = " ".join(f"{m.part_index}:{m.digest[:6]}" for m in message.means)
            return f"Held, amendment {message.number}, means {means}"
        case Amend():
            lost = " ".join(message.lost) or "nobody"
            owners = " ".join(map(str, message.owners))
            return f"Amend {message.number}: without {lost}, owners {owners}"
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
            return f"Gone, entries begin at round {message.round}"
        case Trail():
            newest = message.steps[0]
            return f"Trail to round {message.round}, {newest.digest[:6]}, term {newest.term}"
        case Heartbeat():
            return f"Heartbeat at round {message.round}"


def describe_entry(entry: Entry) -> str:
    what = f"empty ({entry.reason})" if entry.is_empty else "full"
    missing = "".join(f", without {peer} ({why})" for peer, why in entry.missing)
    voters = " ".join(f"{v}*" if v == entry.tie_breaker else v for v in entry.voters)
    return f"round {entry.round} {what}{missing}, voters {voters}, {entry.digest[:6]}"
