"""The table, the JSON line and the pictures of `python -m benchmarks.wan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.wan.cell import Cell
from benchmarks.wan.loss import Curve
from benchmarks.wan.rows import COUNTED_STEPS, Row
from benchmarks.wan.work import STEP_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_S = 40.0
"""Of the steady part, in the picture of the traffic."""
SHOWN_ABOVE_TARGET = 1.2
COLORS = ("#1f6f8b", "#c8553d", "#6a994e", "#8d6a9f")


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Four peers, links with 40 ms of round trip",
        caption=f"Rows marked * have an emulated accelerator: an inner step takes {STEP_S} s and"
        " next to no processor time; the others train for real, a smaller model, and move its"
        f" parameters {STEP_S} s after a step began; for every system alike. Then:"
        " utilization, and as planned; tokens per second of all; MB that a peer sends in"
        f" {COUNTED_STEPS} inner steps, and as planned; bytes per token; mbit/s of a peer, the"
        " largest 100 ms and the mean, and their ratio; seconds until the held-out loss of"
        " data-parallel at half of the tokens, and the loss when the time was over; the averaged"
        " values: how far off the exact mean, and whether equal on all peers.",
        box=None,
    )
    table.add_column("mbit")
    table.add_column("system, setting")
    for name in (
        *("util", "plan", "tok/s", "MB/peer", "plan", "B/tok", "peak", "mean", "ratio"),
        *("to loss", "loss", "avg off", "equal"),
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.rate_mbit:g}{'*' if row.emulated else ''}" if row.rate_mbit else "-",
            f"{row.system}, {row.setting}" + (f", seed {row.seed}" if not row.emulated else ""),
            *_cells(row),
        )
    return table


def _cells(row: Row) -> list[str]:
    def shown(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value * scale, form)

    spread = row.averaging_spread
    return [
        shown(row.utilization, ".1%"),
        shown(row.planned_utilization, ".1%"),
        shown(row.tokens_per_s, ".0f"),
        shown(row.bytes_per_peer, ".1f", 1e-6),
        shown(row.planned_bytes_per_peer, ".1f", 1e-6),
        shown(row.bytes_per_token, ".1f"),
        shown(row.peak_mbit, ".1f"),
        shown(row.mean_mbit, ".1f"),
        shown(row.peak_over_mean, ".2f"),
        shown(row.time_to_loss_s, ".1f"),
        shown(row.loss_at_limit, ".3f"),
        shown(row.averaging_error, ".2%"),
        "-" if spread is None else "yes" if spread == 0 else "no",
    ]


def remarks(rows: Sequence[Row]) -> list[str]:
    """What does not fit into the table: how far each came, and what a system cannot do."""
    lines = []
    for row in rows:
        kind = "emulated" if row.emulated else "real"
        lines.append(f"{row.rate_mbit:g} mbit, {kind}, {row.system} ({row.setting}): {row.reached}")
    notes = {row.system: row.note for row in rows if row.note}
    return lines + [f"{system}: {note}" for system, note in notes.items()]


def draw_traffic(cells: Mapping[tuple[str, float], Cell], path: Path) -> None:
    """Small multiples: a system in each row, a rate in each column; all four peers."""
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(system for system, _ in cells))
    rates = sorted({rate for _, rate in cells})
    figure = Figure(figsize=(4 * len(rates), 1.6 * len(systems) + 0.6), layout="constrained")
    grid = figure.subplots(len(systems), len(rates), sharey="col", sharex=True, squeeze=False)
    for system, axes_row in zip(systems, grid, strict=True):
        axes_row[0].set_ylabel(f"{system}\nmbit/s")
        for rate, axes in zip(rates, axes_row, strict=True):
            axes.axhline(rate, color="0.6", linestyle=(0, (5, 3)), linewidth=0.8)
            if (cell := cells.get((system, rate))) is not None:
                _draw_cell(axes, cell)
    for rate, axes in zip(rates, grid[0], strict=True):
        axes.set_title(f"{rate:g} mbit links")
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    figure.suptitle("Sent by each of four peers (100 ms)")
    figure.savefig(path, dpi=90)


def _draw_cell(axes: "Axes", cell: Cell) -> None:
    if cell.traffic is None:
        return
    begin_s = cell.steady[0] if cell.steady else cell.began_s
    traffic = cell.traffic.between(begin_s, begin_s + DRAWN_S)
    if len(traffic.times_s) < 2:
        return
    sent = traffic.rates_mbit()[:, :, 0]
    for rates, color in zip(sent.T, COLORS, strict=True):
        axes.step(traffic.times_s[1:] - begin_s, rates, color=color, linewidth=0.5, where="pre")
    axes.axhline(float(np.mean(traffic.mean_mbit()[:, 0])), color="0.2", linewidth=0.8)


def draw_losses(curves: Mapping[tuple[str, float], Curve], target: float, path: Path) -> None:
    """A panel for each rate: held-out loss of what the peers share, over time."""
    from matplotlib.figure import Figure

    rates = sorted({rate for _, rate in curves})
    systems = list(dict.fromkeys(system for system, _ in curves))
    figure = Figure(figsize=(4 * len(rates), 3.2), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for rate, axes in zip(rates, panels, strict=True):
        axes.set(title=f"{rate:g} mbit links", xlabel="seconds")
        axes.axhline(target, color="0.6", linestyle=(0, (5, 3)), linewidth=0.8)
        for system, color in zip(systems, COLORS, strict=False):
            if (curve := curves.get((system, rate))) is not None and curve.times_s:
                axes.plot(curve.times_s, curve.losses, color=color, linewidth=1.4, label=system)
    # All fall from 5.6 in the first seconds; what tells them apart is what comes after.
    panels[0].set_ylim(top=target + SHOWN_ABOVE_TARGET)
    panels[0].set_ylabel("held-out loss, nats per byte")
    panels[-1].legend(frameon=False)
    figure.savefig(path, dpi=90)


def json_of(rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    return {"rows": [row.to_json() for row in rows], "counted_steps": COUNTED_STEPS, **more}
