"""The live view: what one peer is doing, on one screen of 80 x 24, or in one line of a log."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESHES_PER_S = 4
PLAIN_EVERY_S = 5.0
MAX_MEMBERS = 8
MAX_NOTES = 3
CALM = ("training", "following", "done")
"""States that need nobody's attention; all others are coloured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """One member of the last group, this peer included."""

    name: str
    peer_id: str
    state: str
    """What it did in the last round, or why it was not there."""
    is_missing: bool
    steps_per_s: float | None
    rtt_ms: float | None
    """None: this peer itself, or not measured yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficView:
    """One direction, in mbit/s."""

    now_mbit: float
    peak_mbit: float
    """Largest 100 ms window so far."""
    cap_mbit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """Everything that is shown; None where there is nothing yet."""

    run_name: str
    run_id: str
    name: str
    peer_id: str
    state: str
    """`training`, `gathering`, `catching up`, `forked` and so on."""
    state_in_words: str
    """The same with numbers: `waiting for 2 more peers`, `catching up: 12 entries behind`."""
    state_s: float
    """For how long it has been in that state."""
    step: int
    """Inner steps that this peer has trained."""
    position: int
    """Where the swarm is in the schedule of total_steps steps."""
    total_steps: int
    round: int | None
    fragment_id: int | None
    num_fragments: int
    loss: float | None
    learning_rate: float | None
    tokens_per_s: float | None
    utilization: float | None
    heldout_loss: float | None
    rounds_committed: int
    rounds_empty: int
    rounds_in_words: str
    """`link-bound: H is effectively 140`; empty while rounds are as long as planned."""
    up: TrafficView
    down: TrafficView
    members: tuple[MemberView, ...] = ()
    notes: tuple[str, ...] = ()
    """Oldest first; the last few are shown."""


def render(view: PeerView) -> RenderableType:
    """The view as panels; 80 columns are enough, and 24 lines for up to MAX_MEMBERS members."""
    parts: list[RenderableType] = [_state(view), _progress(view), _facts(view)]
    if view.members:
        parts += ["", _members(view.members)]
    if view.notes:
        parts += ["", *(_text(note, "dim") for note in view.notes[-MAX_NOTES:])]
    return Panel(
        Group(*parts),
        title=_text(view.run_name, "bold").append(f" {view.run_id[:8]}", style="not bold dim"),
        title_align="left",
        subtitle=_text(f"{view.name} {view.peer_id[:8]}", "dim"),
        subtitle_align="right",
        border_style="cyan" if view.state in CALM else "yellow",
    )


def plain_line(view: PeerView) -> str:
    """One line without colours, for logs and pipes."""
    if view.step == 0 and view.round is None:
        return _printable(view.state_in_words)
    parts = []
    if view.step:
        parts += [f"schedule {view.position}/{view.total_steps}", f"step {view.step}"]
    if view.round is not None:
        parts.append(f"round {view.round}")
    if view.loss is not None:
        parts.append(f"loss {view.loss:.3f}")
    if view.heldout_loss is not None:
        parts.append(f"held-out {view.heldout_loss:.3f}")
    if view.tokens_per_s is not None:
        parts.append(f"{view.tokens_per_s:,.0f} tokens/s")
    if view.utilization is not None:
        parts.append(f"utilization {view.utilization:.1%}")
    if view.rounds_in_words:
        parts.append(_printable(view.rounds_in_words))
    if view.members:
        present = sum(not member.is_missing for member in view.members)
        parts.append(f"{present} of {len(view.members)} peers")
    parts.append(f"up {view.up.now_mbit:.1f} down {view.down.now_mbit:.1f} mbit/s")
    words = _printable(view.state_in_words)
    return words + ("; " if ":" in words else ": ") + ", ".join(parts)


def _state(view: PeerView) -> Text:
    text = _text(view.state_in_words, "bold green" if view.state in CALM else "bold yellow")
    text.append(f" for {duration(view.state_s)}", style="dim")
    if view.rounds_in_words:
        text.append(f"  {_printable(view.rounds_in_words)}", style="yellow")
    return text


def _progress(view: PeerView) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    bar = ProgressBar(total=max(1, view.total_steps), completed=view.position)
    row.add_row(bar, f"schedule {view.position:,} / {view.total_steps:,}")
    return row


def _facts(view: PeerView) -> Table:
    """Two columns of names and values: what is computed, and what goes over the wire."""
    facts = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 4, None, 5):
        facts.add_column(style=None if ratio else "dim", no_wrap=True, ratio=ratio)
    round_ = _or_dash(view.round, "d")
    if view.fragment_id is not None:
        round_ += f", fragment {view.fragment_id} of {view.num_fragments}"
    rounds = f"{view.rounds_committed} committed, {view.rounds_empty} empty"
    facts.add_row("loss", _or_dash(view.loss, ".4f"), "round", round_)
    facts.add_row("held-out", _or_dash(view.heldout_loss, ".4f"), "rounds", rounds)
    facts.add_row("tokens/s", _or_dash(view.tokens_per_s, ",.0f"), "up", _traffic(view.up))
    facts.add_row("utilization", _or_dash(view.utilization, ".1%"), "down", _traffic(view.down))
    facts.add_row("learning rate", _or_dash(view.learning_rate, ".2e"), "steps", f"{view.step:,}")
    return facts


def _traffic(traffic: TrafficView) -> Text:
    text = Text(f"{traffic.now_mbit:.2f} mbit/s", style="bold")
    text.append(f"  peak {traffic.peak_mbit:.2f}", style="not bold")
    cap = "no cap" if traffic.cap_mbit is None else f"cap {traffic.cap_mbit:g}"
    return text.append(f"  {cap}", style="not bold dim")


def _members(members: tuple[MemberView, ...]) -> Table:
    """When there is no room for all, those that are missing come first."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("peer", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("in the last round", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("steps/s", justify="right", no_wrap=True)
    table.add_column("rtt ms", justify="right", no_wrap=True)
    shown = members
    if len(members) > MAX_MEMBERS:
        shown = tuple(sorted(members, key=lambda m: not m.is_missing)[: MAX_MEMBERS - 1])
    for member in shown:
        state = _text(member.state, "green")
        if member.is_missing:
            state = _text(f"missing: {member.state}", "yellow")
        pace, rtt = _or_dash(member.steps_per_s, ".2f"), _or_dash(member.rtt_ms, ".0f")
        table.add_row(_text(member.name), member.peer_id[:8], state, pace, rtt)
    if hidden := len(members) - len(shown):
        missing = sum(m.is_missing for m in members) - sum(m.is_missing for m in shown)
        table.add_row(f"and {hidden} more", "", Text(f"{missing} of them missing", style="dim"))
    return table


def _text(words: str, style: str = "") -> Text:
    """One line of text. Much of it comes from other peers, and none of that is markup."""
    return Text(_printable(words), style=style, no_wrap=True, overflow="ellipsis")


def _printable(words: str) -> str:
    """Without what could move the cursor of the terminal or colour the rest of it."""
    return "".join(character if character.isprintable() else "?" for character in words)


def _or_dash(value: float | None, format_: str) -> str:
    return "-" if value is None else format(value, format_)


def duration(seconds: float) -> str:
    """In words of at most 9 columns."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class LiveView:
    """Shows a peer until the block is left: live on a terminal, as plain lines elsewhere.

    Args:
        view: what to show; called four times a second from a thread of its own, so it only reads.
        plain: lines on a terminal, too. One is printed every PLAIN_EVERY_S, when the state changes,
            and for every note; none twice in a row.
        console: where to; `console` is also what others print with while the view is live.
    """

    def __init__(
        self,
        view: Callable[[], PeerView],
        *,
        plain: bool = False,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(highlight=False)
        self._shown: Live | _PlainLines
        if plain or not self.console.is_terminal:
            self._shown = _PlainLines(view, self.console)
        else:
            self._shown = Live(
                get_renderable=lambda: render(view()),
                console=self.console,
                refresh_per_second=REFRESHES_PER_S,
            )

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shown.stop()


class _PlainLines:
    def __init__(self, view: Callable[[], PeerView], console: Console) -> None:
        self._view = view
        self._console = console
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plain-view", daemon=True)
        self._notes: tuple[str, ...] = ()
        self._state = ""
        self._line = ""
        self._due_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._due_s = 0.0
        self._show()

    def _run(self) -> None:
        while not self._ended.wait(1 / REFRESHES_PER_S):
            self._show()

    def _show(self) -> None:
        view, now_s = self._view(), time.monotonic()
        for note in new_notes(self._notes, view.notes):
            self._print(_printable(note))
        line = plain_line(view)
        if line != self._line and (view.state != self._state or now_s >= self._due_s):
            self._print(line)
            self._line, self._due_s = line, now_s + PLAIN_EVERY_S
        self._notes, self._state = view.notes, view.state

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def new_notes(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """What was added to a list of which only the last few are kept."""
    for kept in range(min(len(before), len(now)), 0, -1):
        if before[-kept:] == now[:kept]:
            return now[kept:]
    return now
