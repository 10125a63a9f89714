"""Reports of small made-up metrics files, whose sums are known."""

import json
from pathlib import Path

import pytest

from peer.history import MBIT_BYTES
from peer.report import draw, summarize, words
from protocol.errors import InputError

RUN_ID = "ab" * 32
T0 = 1_700_000_000.0
HEADER = {"up_bytes_per_s": 1_250_000.0, "down_bytes_per_s": None, "manifest": {"name": "tiny"}}


def start(t: float = T0, name: str = "anna", **more: object) -> dict[str, object]:
    return {"t": t, "kind": "start", "run_id": RUN_ID, "peer_id": "p" * 64, "name": name} | (
        HEADER | more
    )


def traffic(t: float, up: list[int], down: list[int], total: tuple[int, int]) -> dict[str, object]:
    rates = {"interval_s": 0.1, "up": up, "down": down}
    return {"t": t, "kind": "traffic", "up_total": total[0], "down_total": total[1], **rates}


def heldout(
    t: float, round_: int, tokens: int, loss: float | None, batches: int = 8
) -> dict[str, object]:
    said = {"round": round_, "tokens": tokens, "loss": loss, "batches": batches, "final": False}
    return {"t": t, "kind": "heldout", **said}


def train_end(t: float, **said: float) -> dict[str, object]:
    return {"t": t, "kind": "train_end", "sync_s": 0.0, **said}


def write(path: Path, *records: dict[str, object], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + torn)
    return path


def one_peer() -> list[dict[str, object]]:
    """Two seconds of training at 1 and 3 mbit/s up with one burst of 8, 2 mbit/s down."""
    step = int(MBIT_BYTES / 10)  # one window at 1 mbit/s
    return [
        start(),
        {"t": T0 + 1, "kind": "note", "text": "joined"},
        {"t": T0 + 10, "kind": "train_begin"},
        traffic(T0 + 11, [step] * 10, [2 * step] * 10, (10 * step, 20 * step)),
        traffic(T0 + 12, [3 * step] * 9 + [8 * step], [2 * step] * 10, (45 * step, 40 * step)),
        {"t": T0 + 11, "kind": "round", "round": 0, "empty": False},
        {"t": T0 + 12, "kind": "round", "round": 1, "empty": True},
        heldout(T0 + 10, -1, 0, 5.5),
        heldout(T0 + 12, 1, 4096, 3.25),
        train_end(T0 + 12, steps=20, tokens=8192, wall_s=2.0, waited_s=0.1),
        {"t": T0 + 13, "kind": "end", "reason": "done"},
    ]


def test_the_sums_of_one_peer(tmp_path):
    summary = summarize([write(tmp_path / "a.jsonl", *one_peer())])
    assert (summary.run_name, summary.run_id) == ("tiny", RUN_ID)
    assert (summary.steps, summary.tokens, summary.committed_tokens) == (20, 8192, 4096)
    assert (summary.heldout_loss_first, summary.heldout_loss_last) == (5.5, 3.25)
    assert (summary.rounds_committed, summary.rounds_empty) == (1, 1)
    assert (summary.sent_bytes, summary.received_bytes) == (562_500, 500_000)
    assert summary.peak_mbit == pytest.approx(8.0)
    assert summary.max_1s_mbit == pytest.approx(3.5)
    assert summary.mean_mbit == pytest.approx(2.25)  # up: 4.5 mbit in 2 s; down is 2.0
    assert summary.utilization == pytest.approx(0.95)
    assert summary.peers[0].up_cap_mbit == pytest.approx(10.0)
    assert summary.peers[0].down_cap_mbit is None


def test_traffic_outside_training_counts_for_the_peak_and_not_for_the_mean(tmp_path):
    joining = traffic(T0 + 5, [125_000] * 10, [0] * 10, (1_250_000, 0))
    records = one_peer()
    summary = summarize([write(tmp_path / "a.jsonl", records[0], joining, *records[1:])])
    assert summary.mean_mbit == pytest.approx(2.25)
    assert summary.peak_mbit == pytest.approx(10.0)


def test_several_peers_are_merged_by_round(tmp_path):
    other = [
        start(name="bert", peer_id="q" * 64),
        {"t": T0 + 20, "kind": "train_begin"},
        {"t": T0 + 21, "kind": "round", "round": 1, "empty": True},
        {"t": T0 + 22, "kind": "round", "round": 2, "empty": False},
        heldout(T0 + 22, 1, 4096, 9.0),  # a second opinion on a round that is evaluated already
        heldout(T0 + 25, 2, 9000, 2.5, batches=2),
        heldout(T0 + 26, 2, 9000, 2.0, batches=64),
        train_end(T0 + 28, steps=5, tokens=1000, wall_s=8.0, waited_s=4.0),
    ]
    files = [write(tmp_path / "a", *one_peer()), write(tmp_path / "b", *other)]
    summary = summarize(files)
    assert [peer.name for peer in summary.peers] == ["anna", "bert"]
    assert (summary.steps, summary.tokens) == (25, 9192)
    assert (summary.rounds_committed, summary.rounds_empty) == (2, 1)
    assert (summary.heldout_loss_last, summary.committed_tokens) == (2.0, 9000)
    assert summary.train_s == pytest.approx(18.0)
    assert summary.utilization == pytest.approx(1 - 4.1 / 10)
    assert summary == summarize(files), "reading changes nothing"


def test_a_peer_that_was_killed_and_started_again(tmp_path):
    again = [
        start(T0 + 100, up_bytes_per_s=None),
        {"t": T0 + 110, "kind": "train_begin", "steps": 15, "tokens": 6_144},  # its checkpoint's
        {"t": T0 + 114, "kind": "steps", "step": 65, "tokens": 26_624, "waited_s": 1.0},
        traffic(T0 + 114, [1000], [500], (1000, 500)),
    ]
    killed = [record for record in one_peer() if record["kind"] not in ("train_end", "end")]
    killed.append({"t": T0 + 12, "kind": "steps", "step": 19, "tokens": 8000, "waited_s": 0.5})
    path = write(tmp_path / "a", *killed, *again, torn='{"t": 17000')
    peer = summarize([path]).peers[0]
    assert (peer.steps, peer.tokens) == (69, 28_480)
    assert (peer.sent_bytes, peer.received_bytes) == (563_500, 500_500)
    assert peer.train_s == pytest.approx(6.0)
    assert peer.utilization == pytest.approx(0.75)
    assert peer.up_cap_mbit is None


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    torn = json.dumps(heldout(T0 + 30, 7, 99, 1.0))
    assert summarize([write(tmp_path / "a", *one_peer(), torn=torn)]).committed_tokens == 99


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"t": 1, "kind": "rou', "malformed"),
        ("[]", "not an object"),
        ('{"t": 1}', "not an object with a kind"),
        ('{"kind": "note"}', "t: Field required"),
        ('{"t": 1, "kind": "round", "round": "many", "empty": false}', "round: "),
        ('{"t": 1, "kind": "traffic", "interval_s": 0, "up": [], "down": []}', "interval_s: "),
        ("\xff", "malformed"),
        ("[" * 100_000, "malformed"),
        ("", "malformed"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(start()).encode() + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2") as caught:
        summarize([path])
    assert why in str(caught.value)


def test_a_loss_that_was_not_finite_is_no_malformed_line(tmp_path):
    diverged = heldout(T0 + 30, 7, 9999, None)
    path = write(tmp_path / "a", *one_peer(), diverged)
    assert "nan at last" in words(summarize([path]))
    draw([path], tmp_path / "report.png")


def test_files_that_are_no_metrics_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least one"):
        summarize([])
    with pytest.raises(InputError, match="cannot read"):
        summarize([tmp_path / "none"])
    with pytest.raises(InputError, match="is empty"):
        summarize([write(tmp_path / "empty")])
    with pytest.raises(InputError, match="does not begin with"):
        summarize([write(tmp_path / "late", *one_peer()[2:])])
    stranger = write(tmp_path / "b", start(run_id="cd" * 32))
    with pytest.raises(InputError, match="is of run cdcdcdcd"):
        summarize([write(tmp_path / "a", start()), stranger])


def test_the_words_name_the_important_numbers(tmp_path):
    text = words(summarize([write(tmp_path / "a", *one_peer())]))
    for fact in (
        "1 peer trained tiny (run abababab) for 2 seconds: 20 inner steps, 8,192 tokens.",
        "5.500 at first, 3.250 at last",
        "1 committed, 1 empty",
        "Compute utilization 95.0%",
        "mean 2.25 mbit/s, at most 3.50 in a second and 8.00 in 100 ms (cap 10 up)",
    ):
        assert fact in text


def test_a_peer_that_only_started_has_a_report_too(tmp_path):
    path = write(tmp_path / "a", start())
    text = words(summarize([path]))
    assert "not evaluated" in text and "utilization" not in text
    draw([path], tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_the_picture_is_drawn_for_many_peers_and_many_windows(tmp_path):
    records = one_peer()
    seconds = [
        traffic(T0 + 12 + second, [10_000] * 10, [20_000] * 10, (1, 1)) for second in range(400)
    ]
    files = [write(tmp_path / f"{name}", *records, *seconds) for name in "abcdef"]
    draw(files, tmp_path / "report.png", {"one peer alone": 4.0, "data-parallel": 3.0})
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("train_begin", {"t": float("nan")}),
        ("train_begin", {"t": 1e300}),
        ("train_end", {"wall_s": float("inf")}),
        ("train_end", {"tokens": 10**400}),
        ("traffic", {"interval_s": 1e-300}),
        ("traffic", {"interval_s": 3.0}),
        ("traffic", {"up": [2**63], "down": [0]}),
        ("start", {"up_bytes_per_s": 0.0}),
    ],
)
def test_a_number_that_no_peer_can_have_written_is_malformed(tmp_path, kind, changed):
    records = one_peer()
    place = next(i for i, record in enumerate(records) if record["kind"] == kind)
    records[place] |= changed
    with pytest.raises(InputError, match=f"line {place + 1} is malformed"):
        summarize([write(tmp_path / "a", *records)])


def test_a_loss_of_infinity_is_a_loss_that_was_not_finite(tmp_path):
    path = write(tmp_path / "a", *one_peer(), heldout(T0 + 30, 7, 9999, float("inf")))
    assert "nan at last" in words(summarize([path]))
