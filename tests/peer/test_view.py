"""The live view, rendered to text: are the facts there, and do they fit 80 x 24?"""

import dataclasses
import io
import time

import pytest
from rich.console import Console

from peer.view import LiveView, MemberView, PeerView, TrafficView, new_notes, plain_line, render

ME = MemberView(
    name="anna",
    peer_id="1a" * 32,
    state="contributed",
    is_missing=False,
    steps_per_s=3.21,
    rtt_ms=None,
)
OTHER = MemberView(
    name="bert",
    peer_id="2b" * 32,
    state="contributed",
    is_missing=False,
    steps_per_s=2.87,
    rtt_ms=41.2,
)
LATE = MemberView(
    name="cleo-from-the-far-side-of-the-world",
    peer_id="3c" * 32,
    is_missing=True,
    state="its 7 parts had not arrived when the deadline came, 30 s after the roster",
    steps_per_s=None,
    rtt_ms=312.0,
)

TRAINING = PeerView(
    run_name="stdlib-10M",
    run_id="ab" * 32,
    name="anna",
    peer_id="1a" * 32,
    state="training",
    state_in_words="training",
    state_s=754.0,
    step=1234,
    position=1200,
    total_steps=2000,
    round=57,
    fragment_id=1,
    num_fragments=4,
    loss=2.34567,
    learning_rate=0.0021,
    tokens_per_s=12_345.6,
    utilization=0.987,
    heldout_loss=2.5,
    rounds_committed=55,
    rounds_empty=2,
    rounds_in_words="",
    up=TrafficView(now_mbit=8.76, peak_mbit=9.98, cap_mbit=10.0),
    down=TrafficView(now_mbit=7.65, peak_mbit=8.87, cap_mbit=None),
    members=(ME, OTHER, LATE),
    notes=("cleo joined", "round 56 was empty: 1 of 3 voters answered", "evaluated round 48"),
)

NOTHING_YET = dataclasses.replace(
    TRAINING,
    state="gathering",
    state_in_words="waiting for 2 more peers",
    state_s=3.0,
    step=0,
    position=0,
    **dict.fromkeys(("round", "fragment_id", "loss", "learning_rate")),
    **dict.fromkeys(("tokens_per_s", "utilization", "heldout_loss")),
    rounds_committed=0,
    rounds_empty=0,
    members=(),
    notes=(),
)


def rendered(view: PeerView) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(render(view))
    return console.export_text()


def fits(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= 24 and max(map(len, lines)) <= 80


def test_the_important_facts_are_shown():
    text = rendered(TRAINING)
    assert fits(text)
    for fact in (
        *("stdlib-10M", "abababab", "training for 12:34", "schedule 1,200 / 2,000", "1,234"),
        *("57, fragment 1 of 4", "2.3457", "2.5000", "12,346", "98.7%", "2.10e-03"),
        *("55 committed, 2 empty", "8.76 mbit/s  peak 9.98  cap 10", "7.65", "no cap"),
        *("anna", "1a1a1a1a", "bert", "2b2b2b2b", "contributed", "3.21", "41"),
        *("missing: its 7 parts", "312"),
        *("cleo joined", "round 56 was empty", "evaluated round 48"),
    ):
        assert fact in text, fact


def test_a_peer_that_has_nothing_to_show_yet():
    text = rendered(NOTHING_YET)
    assert fits(text)
    assert "waiting for 2 more peers for 3 s" in text
    assert "None" not in text and " - " in text


def test_a_big_group_with_long_notes_still_fits_and_hides_nobody_who_is_missing():
    many = tuple(
        dataclasses.replace(ME, name=f"peer{number}", peer_id=f"{number:064x}")
        for number in range(30)
    )
    view = dataclasses.replace(
        TRAINING,
        run_name="r" * 64,
        name="n" * 64,
        state_in_words="waiting for a quorum of the voters, of which 3 of 31 answer",
        members=(*many, LATE),
        notes=("x" * 300,) * 9,
        total_steps=10**9,
        step=10**8,
        position=10**8,
    )
    text = rendered(view)
    assert fits(text)
    assert "missing: its 7 parts" in text
    assert "and 24 more" in text and "0 of them missing" in text


def test_names_from_outside_are_not_read_as_markup():
    sly = dataclasses.replace(OTHER, name="[red]b[/]", state="[link=http://x]y[/]")
    view = dataclasses.replace(TRAINING, members=(sly,), notes=("[bold]z",), run_name="[b]r")
    text = rendered(view)
    assert "\x1b" not in rendered(dataclasses.replace(view, notes=("\x1b[2J",), name="\x1b[2J"))
    for literal in ("[red]b[/]", "[link=http://x]y[/]", "[bold]z", "[b]r"):
        assert literal in text


def test_the_plain_line():
    assert plain_line(TRAINING) == (
        "training: schedule 1200/2000, step 1234, round 57, loss 2.346, held-out 2.500,"
        " 12,346 tokens/s, utilization 98.7%, 2 of 3 peers, up 8.8 down 7.7 mbit/s"
    )
    assert plain_line(NOTHING_YET) == "waiting for 2 more peers"


def test_what_makes_rounds_long_is_shown_next_to_the_state():
    view = dataclasses.replace(TRAINING, rounds_in_words="link-bound: H is effectively 140")
    text = rendered(view)
    assert fits(text)
    assert "training for 12:34  link-bound: H is effectively 140" in text
    assert ", utilization 98.7%, link-bound: H is effectively 140, " in plain_line(view)


@pytest.mark.parametrize(
    ("before", "now", "added"),
    [
        ("", "ab", "ab"),
        ("ab", "ab", ""),
        ("ab", "abc", "c"),
        ("abc", "bcd", "d"),
        ("abc", "xyz", "xyz"),
        ("aa", "aaa", "a"),
        ("ab", "", ""),
    ],
)
def test_each_note_is_told_once(before, now, added):
    assert new_notes(tuple(before), tuple(now)) == tuple(added)


def test_without_a_terminal_there_are_plain_lines():
    out = io.StringIO()
    views = [NOTHING_YET]
    with LiveView(lambda: views[-1], console=Console(file=out, width=80)):
        _until(lambda: "waiting" in out.getvalue())
        views.append(TRAINING)
        _until(lambda: "training" in out.getvalue())
    lines = out.getvalue().splitlines()
    assert lines == [plain_line(NOTHING_YET), *TRAINING.notes, plain_line(TRAINING)]


def test_on_a_terminal_the_view_is_live():
    out = io.StringIO()
    calls = []
    with LiveView(
        lambda: calls.append(1) or TRAINING,
        console=Console(file=out, width=80, force_terminal=True),
    ):
        _until(lambda: len(calls) >= 3)
    assert "stdlib-10M" in out.getvalue()
    assert plain_line(TRAINING) not in out.getvalue()


def _until(holds, timeout_s: float = 10.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
