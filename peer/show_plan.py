"""A plan as a table for people, as JSON, and as a picture over bandwidth."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from peer.planning import Column, Plan, compared_with
from peer.report import CAP, QUIET, STYLE, UP
from protocol.advice import least_rate_in_words, rate_in_words
from protocol.errors import InputError
from protocol.plan import Setting, Swarm, outlook, with_cap
from protocol.simulator import utilization

RECOMMENDED = "#1b7837"
CURVE_POINTS = 160


def show_plan(plan: Plan, as_json: bool, console: Console) -> None:
    """Print a plan."""
    if as_json:
        console.print(json.dumps(plan.to_json()), soft_wrap=True, highlight=False, markup=False)
        return

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(f"{_the_swarm(plan)}\n{_the_link(plan)}\n")
    console.print(_table(plan), highlight=False)
    say("")
    say(_carried(plan) if plan.next_step is None else f"{_capital(plan.next_step)}.")
    if plan.recommended is None:
        say(f"No H reaches {plan.target:.0%} here.")
    if plan.data_parallel_bytes_per_s and plan.diloco_bytes_per_s:
        say(
            f"For {plan.target:.0%}, plain DiLoCo (bf16, H = {plan.given.setting.sync_every}, one"
            f" fragment, no delay) takes {rate_in_words(plan.diloco_bytes_per_s)} and data-parallel"
            f" {rate_in_words(plan.data_parallel_bytes_per_s)}, of payload alone (the simulator of"
            " arXiv 2501.18512)."
        )


def _the_swarm(plan: Plan) -> str:
    swarm, setting = plan.swarm, plan.given.setting
    return (
        f"{swarm.peers} peer{'s' * (swarm.peers > 1)}, {setting.parameters:,} parameters,"
        f" {_seconds(swarm.step_s)} a step, {'lockstep' if setting.lockstep else 'elastic'}"
    )


def _the_link(plan: Plan) -> str:
    swarm = plan.swarm
    return (
        f"links of {rate_in_words(swarm.up_bytes_per_s)} up,"
        f" {rate_in_words(swarm.down_bytes_per_s)} down, {_seconds(swarm.rtt_s)} round trip"
    )


def _table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    columns = [plan.given] + ([plan.recommended] if plan.recommended else [])
    for name in (plan.given_as, "recommended")[: len(columns)]:
        table.add_column(name, justify="right")
    for words, cell in _ROWS:
        table.add_row(words, *(cell(column) for column in columns))
    needed = f"least cap for {plan.target:.0%} utilization"
    table.add_row(needed, *(_needed(column.needed_bytes_per_s) for column in columns))
    return table


_ROWS: tuple[tuple[str, Callable[[Column], str]], ...] = (
    ("H    sync_every", lambda c: _sync_every(c)),
    ("P    num_fragments", lambda c: str(c.setting.num_fragments)),
    ("tau  sync_delay_steps (lockstep)", lambda c: str(c.setting.sync_delay_steps)),
    ("     codec", lambda c: c.setting.codec),
    ("     round_deadline_s", lambda c: f"{c.setting.round_deadline_s:g}"),
    ("utilization", lambda c: _if_finished(c, f"{c.outlook.utilization:.1%}")),
    ("H in effect", lambda c: _if_finished(c, f"{c.outlook.sync_every_in_effect:,.0f}")),
    ("limited by", lambda c: c.outlook.limited_by),
    ("time per round", lambda c: _seconds(c.outlook.round_s)),
    ("of it, longest exchange", lambda c: _seconds(c.outlook.transfer_s)),
    ("sent per peer and round", lambda c: _size(c.outlook.sent_bytes)),
    ("flat rate per peer, each way", lambda c: rate_in_words(c.outlook.flat_bytes_per_s)),
    ("peak per peer, each way", lambda c: rate_in_words(c.outlook.peak_bytes_per_s)),
    ("fewer bytes than bf16 data-parallel", lambda c: f"{c.outlook.times_fewer_bytes:,.0f}x"),
)


def _sync_every(column: Column) -> str:
    """Everything below it is said of the shortest, where H grows."""
    shortest, longest = column.setting.sync_every, column.setting.longest_sync_every
    return f"{shortest}, growing to {longest}" if longest > shortest else str(shortest)


def _if_finished(column: Column, text: str) -> str:
    """What is said of rounds that are not cut off."""
    return text if column.outlook.meets_deadline else "-"


def _carried(plan: Plan) -> str:
    needed = plan.given.needed_bytes_per_s
    if plan.swarm.peers == 1:
        return "One peer alone needs no link; say --peers to plan for more."
    assert needed is not None
    return f"The link carries the run: {least_rate_in_words(needed)} would be enough."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _needed(bytes_per_s: float | None) -> str:
    return "none is enough" if bytes_per_s is None else least_rate_in_words(bytes_per_s)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _size(count_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= size:
            return f"{count_bytes / size:.3g} {unit}"
    return f"{count_bytes:.0f} B"


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw utilization over bandwidth into a PNG: the given setting, the recommended one, and by
    the paper's simulator DiLoCo and data-parallel.

    Raises:
        InputError: the file cannot be written, or a peer alone has nothing to draw.
    """
    if plan.swarm.peers == 1:
        raise InputError("there is no link to draw for one peer: say --peers")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    link = min(plan.swarm.up_bytes_per_s, plan.swarm.down_bytes_per_s)
    rates = _rates(plan, link)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for name, color, dashes, ys in _curves(plan, rates):
            axes.plot(rates * 8 / 1e6, ys, color=color, linestyle=dashes, linewidth=1.8, label=name)
        axes.axvline(link * 8 / 1e6, color=CAP, linewidth=1)
        axes.annotate(
            f" this link, {rate_in_words(link)}",
            (link * 8 / 1e6, 1.02),
            xycoords=("data", "axes fraction"),
            color=CAP,
            ha="center",
        )
        axes.axhline(plan.target, color=QUIET, linestyle=(0, (2, 3)), linewidth=1)
        axes.annotate(
            f"{plan.target:.0%}",
            (1.005, plan.target),
            xycoords=("axes fraction", "data"),
            color=QUIET,
            va="center",
        )
        axes.set(xscale="log", ylim=(0, 1.03), xlim=(rates[0] * 8 / 1e6, rates[-1] * 8 / 1e6))
        axes.set_xlabel(
            "mbit/s of one peer, each way (the solid lines begin where round_deadline_s lets a"
            " round finish)"
        )
        axes.set_ylabel("compute utilization at that H")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        headline = f"{_the_swarm(plan)}\n{_the_link(plan)}"
        figure.suptitle(headline, x=0.012, ha="left", fontsize=11, fontweight="bold")
        try:
            figure.savefig(path, dpi=130, format="png")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


def _rates(plan: Plan, link: float) -> NDArray[np.float64]:
    """Bandwidths from where nothing goes to where data-parallel does."""
    marks = [link, plan.given.needed_bytes_per_s, plan.data_parallel_bytes_per_s]
    if plan.recommended is not None:
        marks.append(plan.recommended.needed_bytes_per_s)
    known = [mark for mark in marks if mark is not None]
    return np.geomspace(min(known) / 20, max(known) * 3, CURVE_POINTS)


def _curves(plan: Plan, rates: NDArray[np.float64]) -> list[tuple[str, str, str, list[float]]]:
    """(name, color, line style, utilization at each rate)."""
    given = plan.given.setting
    plain, in_step = compared_with(given, plan.layers, plan.swarm)
    planned = [(plan.given_as, given, UP)]
    if plan.recommended is not None:
        planned.append(("recommended", plan.recommended.setting, RECOMMENDED))
    simulated = [(f"DiLoCo, bf16, H = {given.sync_every}", plain, "--")]
    simulated.append(("data-parallel, bf16", in_step, ":"))
    return [
        (_named(name, setting), color, "-", _utilizations(setting, plan.swarm, rates))
        for name, setting, color in planned
    ] + [
        (name, QUIET, dashes, [utilization(work, float(rate)) for rate in rates])
        for name, work, dashes in simulated
    ]


def _utilizations(setting: Setting, swarm: Swarm, rates: NDArray[np.float64]) -> list[float]:
    seen = [outlook(setting, with_cap(swarm, float(rate))) for rate in rates]
    return [each.utilization if each.meets_deadline else float("nan") for each in seen]


def _named(name: str, setting: Setting) -> str:
    return f"{name}: H = {setting.sync_every}, P = {setting.num_fragments}, {setting.codec}"
