"""The report of a run: what the peers' metrics files add up to, in numbers, in words, as a picture.

Rates are in mbit/s, 10^6 bits per second.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peer.history import (
    MBIT_BYTES,
    Heldout,
    PeerHistory,
    merged_heldout,
    merged_rounds,
    read_histories,
)
from peer.metrics import METRICS_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MAX_TRAFFIC_PANELS = 4
MAX_DRAWN_WINDOWS = 1500
"""More 100 ms windows than this are drawn as the mean and the largest of several."""

UP, DOWN, CAP = "#2166ac", "#e08214", "#b2182b"
LOSS, QUIET = "#1b7837", "#666666"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSummary:
    """One peer. Rates are those of the direction, up or down, in which they are larger."""

    name: str
    peer_id: str
    steps: int
    tokens: int
    sent_bytes: int
    received_bytes: int
    up_cap_mbit: float | None
    down_cap_mbit: float | None
    peak_mbit: float
    """Largest 100 ms window from the first to the last, joining included."""
    max_1s_mbit: float
    mean_mbit: float
    """Over the time of training."""
    train_s: float
    utilization: float | None
    """1 - time that training waited / time of training; None when it never trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All peers whose metrics were given. Counts are sums; peaks are those of the worst peer."""

    run_name: str
    run_id: str
    peers: tuple[PeerSummary, ...]
    steps: int
    tokens: int
    train_s: float
    """From the first peer that began to train to the last that ended."""
    heldout_loss_first: float | None
    heldout_loss_last: float | None
    committed_tokens: int
    """Those of the swarm at the last evaluation."""
    rounds_committed: int
    rounds_empty: int
    sent_bytes: int
    received_bytes: int
    peak_mbit: float
    max_1s_mbit: float
    mean_mbit: float
    """Mean over the peers."""
    utilization: float | None
    """Mean over the peers, weighted by how long they trained."""


def summarize(metrics: Sequence[Path]) -> Summary:
    """Add up the metrics files of one run, one per peer.

    Raises:
        InputError: a file cannot be read, a line of it is malformed, or the runs differ.
    """
    peers = read_histories(metrics)
    summaries = tuple(_summarize_peer(peer) for peer in peers)
    rounds = merged_rounds(peers)
    heldout = merged_heldout(peers)
    spans = [span for peer in peers for span in peer.spans]
    trained = [peer for peer in summaries if peer.utilization is not None]
    busy_s = sum(peer.train_s * (peer.utilization or 0.0) for peer in trained)
    return Summary(
        run_name=str(peers[0].start.manifest.get("name", "")),
        run_id=peers[0].start.run_id,
        peers=summaries,
        steps=sum(peer.steps for peer in summaries),
        tokens=sum(peer.tokens for peer in summaries),
        train_s=max(end for _, end in spans) - min(begin for begin, _ in spans) if spans else 0.0,
        heldout_loss_first=heldout[0].loss if heldout else None,
        heldout_loss_last=heldout[-1].loss if heldout else None,
        committed_tokens=heldout[-1].tokens if heldout else 0,
        rounds_committed=sum(not empty for empty in rounds.values()),
        rounds_empty=sum(rounds.values()),
        sent_bytes=sum(peer.sent_bytes for peer in summaries),
        received_bytes=sum(peer.received_bytes for peer in summaries),
        peak_mbit=max(peer.peak_mbit for peer in summaries),
        max_1s_mbit=max(peer.max_1s_mbit for peer in summaries),
        mean_mbit=sum(peer.mean_mbit for peer in summaries) / len(summaries),
        utilization=busy_s / sum(peer.train_s for peer in trained) if trained else None,
    )


def report_on(directories: Sequence[Path], baselines: Mapping[str, float] | None = None) -> str:
    """Write report.json and report.png for peers' directories, into the first; the words for it.

    Raises:
        InputError: as `summarize` does.
    """
    metrics = [directory / METRICS_FILE for directory in directories]
    summary = summarize(metrics)
    (directories[0] / "report.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    picture = directories[0] / "report.png"
    draw(metrics, picture, baselines)
    return f"{words(summary)}\nPicture: {picture}"


def words(summary: Summary) -> str:
    """The summary as a few plain lines."""
    count = len(summary.peers)
    lines = [
        f"{count} peer{'s' * (count != 1)} trained {summary.run_name} (run {summary.run_id[:8]})"
        f" for {_duration(summary.train_s)}: {summary.steps:,} inner steps,"
        f" {summary.tokens:,} tokens."
    ]
    if summary.heldout_loss_first is None or summary.heldout_loss_last is None:
        lines.append("global_params were not evaluated.")
    else:
        lines.append(
            f"Held-out loss of global_params: {summary.heldout_loss_first:.3f} at first,"
            f" {summary.heldout_loss_last:.3f} at last,"
            f" after {summary.committed_tokens:,} committed tokens."
        )
    lines.append(f"Rounds: {summary.rounds_committed} committed, {summary.rounds_empty} empty.")
    if summary.utilization is not None:
        lines.append(
            f"Compute utilization {summary.utilization:.1%};"
            " for the rest of the time training waited for the swarm."
        )
    lines.append("Traffic, retransmissions and p2pd included:")
    width = max(len(peer.name) for peer in summary.peers)
    lines.extend(f"  {peer.name:<{width}}  {_traffic_words(peer)}" for peer in summary.peers)
    return "\n".join(lines)


def _traffic_words(peer: PeerSummary) -> str:
    caps = [
        f"{cap:g} {word}"
        for cap, word in ((peer.up_cap_mbit, "up"), (peer.down_cap_mbit, "down"))
        if cap is not None
    ]
    return (
        f"sent {peer.sent_bytes / 1e6:.1f} MB, received {peer.received_bytes / 1e6:.1f} MB;"
        f" mean {peer.mean_mbit:.2f} mbit/s, at most {peer.max_1s_mbit:.2f} in a second and"
        f" {peer.peak_mbit:.2f} in 100 ms ({'cap ' + ', '.join(caps) if caps else 'no cap'})"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _summarize_peer(peer: PeerHistory) -> PeerSummary:
    begins, up, down = peer.windows()
    training = np.zeros(len(begins), dtype=bool)
    for begin_s, end_s in peer.spans:
        training |= (begins >= begin_s) & (begins < end_s)
    per_second = round(1 / peer.traffic[0].interval_s) if peer.traffic else 1
    train_s = sum(end_s - begin_s for begin_s, end_s in peer.spans)
    start = peer.start
    return PeerSummary(
        name=start.name,
        peer_id=start.peer_id,
        steps=peer.steps,
        tokens=peer.tokens,
        sent_bytes=peer.sent_bytes,
        received_bytes=peer.received_bytes,
        up_cap_mbit=None if start.up_bytes_per_s is None else start.up_bytes_per_s / MBIT_BYTES,
        down_cap_mbit=None
        if start.down_bytes_per_s is None
        else start.down_bytes_per_s / MBIT_BYTES,
        peak_mbit=max(_largest_mean(up, 1), _largest_mean(down, 1)),
        max_1s_mbit=max(_largest_mean(up, per_second), _largest_mean(down, per_second)),
        mean_mbit=float(max(up[training].mean(), down[training].mean())) if training.any() else 0.0,
        train_s=train_s,
        utilization=1 - peer.waited_s / train_s if train_s > 0 else None,
    )


def _largest_mean(
    rates: NDArray[np.float64],  # (windows,)
    count: int,
) -> float:
    """Largest mean of `count` windows in a row; of all of them when there are fewer."""
    if len(rates) <= count:
        return float(rates.mean()) if len(rates) else 0.0
    sums = np.concatenate([[0.0], np.cumsum(rates)])
    return float((sums[count:] - sums[:-count]).max()) / count


def draw(metrics: Sequence[Path], path: Path, baselines: Mapping[str, float] | None = None) -> None:
    """Draw held-out loss over tokens and over time, and each peer's traffic, into a PNG.

    Args:
        metrics: files of one run, one per peer.
        baselines: loss of other ways to train, by name, drawn as dashed lines.

    Raises:
        InputError: as `summarize` does.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    peers = read_histories(metrics)
    shown = peers[:MAX_TRAFFIC_PANELS]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6 + 1.45 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)
        heights = (3.8, 0.7 + 1.45 * len(shown))
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        _draw_loss(top, peers, baselines or {})
        _draw_traffic(bottom, shown, len(peers))
        figure.savefig(path, dpi=130)


STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.parse_math": False,  # a peer may be called "$x"
}


def _origin_s(peers: Sequence[PeerHistory]) -> float:
    """When the first peer began to train; minutes are counted from here."""
    return min((b for peer in peers for b, _ in peer.spans), default=peers[0].start.t)


def _draw_loss(
    area: "SubFigure", peers: Sequence[PeerHistory], baselines: Mapping[str, float]
) -> None:
    area.suptitle(
        _headline(peers),
        x=0.012,
        ha="left",
        fontsize=14,
        fontweight="bold",
    )
    heldout = merged_heldout(peers)
    losses = [record.loss for record in heldout]
    scale, unit = _token_unit(heldout)
    by_tokens, by_time = area.subplots(1, 2, sharey=True)
    by_tokens.set(xlabel=f"committed tokens ({unit})", ylabel="held-out loss (nats per token)")
    by_tokens.set_title("Held-out loss of global_params over tokens")
    _draw_curve(by_tokens, [record.tokens / scale for record in heldout], losses, baselines)
    by_time.set(xlabel="minutes of training")
    by_time.set_title("The same over time")
    origin_s = _origin_s(peers)
    _draw_curve(by_time, [(record.t - origin_s) / 60 for record in heldout], losses, baselines)


def _headline(peers: Sequence[PeerHistory]) -> str:
    name, count = peers[0].start.manifest.get("name", ""), len(peers)
    steps = sum(peer.steps for peer in peers)
    train_s = sum(end_s - begin_s for peer in peers for begin_s, end_s in peer.spans)
    busy = (
        f", compute utilization {1 - sum(peer.waited_s for peer in peers) / train_s:.1%}"
        if train_s
        else ""
    )
    return f"{name}: {count} peer{'s' * (count != 1)}, {steps:,} inner steps{busy}"


def _token_unit(heldout: Sequence[Heldout]) -> tuple[float, str]:
    largest = max((record.tokens for record in heldout), default=0)
    for scale, unit in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= scale:
            return scale, unit
    return 1.0, "count"


def _draw_curve(
    axes: "Axes", xs: Sequence[float], losses: Sequence[float], baselines: Mapping[str, float]
) -> None:
    if not xs:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color=QUIET)
        return
    axes.plot(
        xs, losses, color=LOSS, linewidth=1.8, marker="o" if len(xs) < 60 else "", markersize=3
    )
    axes.annotate(
        f"{losses[-1]:.3f}",
        (xs[-1], losses[-1]),
        textcoords="offset points",
        xytext=(0, 8),
        ha="right",
        color=LOSS,
        fontweight="bold",
    )
    for index, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, color=QUIET, linestyle=(0, (5, 3)), linewidth=1)
        axes.annotate(
            f"{name} {loss:.3f}",
            # Side by side at the left, where a curve that falls leaves room, since two that are
            # close would cover each other.
            (0.01 + 0.3 * index, loss),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(0, 3),
            color=QUIET,
            fontsize=9,
        )


def _draw_traffic(area: "SubFigure", peers: Sequence[PeerHistory], count: int) -> None:
    """Small multiples that share both axes; up is above zero and down below it."""
    rows = area.subplots(len(peers), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    title = "Traffic in windows of 100 ms"
    if len(peers) < count:
        title += f" of {len(peers)} of the {count} peers"
    if max(_group(peer) for peer in peers) > 1:
        title += " (light: the largest, dark: the mean of neighbouring windows)"
    rows[0].set_title(title)
    origin_s = _origin_s(peers)
    for axes, peer in zip(rows, peers, strict=True):
        begins, up, down = peer.windows()
        minutes = (begins - origin_s) / 60
        caps = peer.start.up_bytes_per_s, peer.start.down_bytes_per_s
        for rates, color, word, sign, cap in (
            (up, UP, "up", 1, caps[0]),
            (down, DOWN, "down", -1, caps[1]),
        ):
            _draw_rates(axes, minutes, sign * rates, _group(peer), color)
            _draw_cap(axes, word, sign, None if cap is None else cap / MBIT_BYTES, color)
        axes.axhline(0, color=QUIET, linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.set_ylabel(f"{peer.start.name}\nmbit/s")
    area.align_ylabels(rows)
    rows[-1].set_xlabel("minutes of training")


def _group(peer: PeerHistory) -> int:
    """Windows that are drawn as one."""
    return max(1, -(-sum(len(record.up) for record in peer.traffic) // MAX_DRAWN_WINDOWS))


def _draw_rates(
    axes: "Axes",
    minutes: NDArray[np.float64],  # (windows,)
    rates: NDArray[np.float64],  # (windows,) mbit/s, all of one sign
    group: int,
    color: str,
) -> None:
    kept = len(rates) // group * group
    grouped = rates[:kept].reshape(-1, group)
    extremes = np.take_along_axis(grouped, np.abs(grouped).argmax(1, keepdims=True), 1)[:, 0]
    at = minutes[:kept:group]
    alpha = 0.35 if group > 1 else 0.8
    axes.fill_between(at, extremes, step="post", color=color, alpha=alpha, linewidth=0)
    if group > 1:
        axes.step(at, grouped.mean(1), where="post", color=color, linewidth=1)


def _draw_cap(axes: "Axes", word: str, sign: int, cap_mbit: float | None, color: str) -> None:
    """The direction's name at the right edge, and its cap as a line."""
    if cap_mbit is not None:
        axes.axhline(sign * cap_mbit, color=CAP, linestyle=(0, (5, 3)), linewidth=1)
    axes.annotate(
        f"{word}\nno cap" if cap_mbit is None else f"{word}\ncap {cap_mbit:g}",
        (1.005, 0.5 + 0.25 * sign),
        xycoords="axes fraction",
        va="center",
        color=color,
        annotation_clip=False,
    )
