"""From a measured cell to a row of the table and of the JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.wan.cell import Cell, Check
from benchmarks.wan.loss import Curve
from benchmarks.wan.system import PEERS
from peer.planning import shape_of
from protocol.manifest import Manifest
from protocol.plan import Swarm, outlook

COUNTED_STEPS = 1000
"""bytes_per_peer is what a peer sends while it trains so many inner steps."""
PEAK_WINDOW_S = 0.1


@dataclass(slots=True, kw_only=True)
class Row:
    """One system on one rate; None where a row does not measure it."""

    system: str
    setting: str
    version: str
    rate_mbit: float | None
    emulated: bool
    """Whether an inner step only takes its time; else it trains, a smaller model."""
    seed: int = 1
    utilization: float | None = None
    """Inner steps per second, relative to the same processes without rounds."""
    planned_utilization: float | None = None
    sync_every_in_effect: float | None = None
    """H as it came out: elastic peers train on where a round takes longer than planned."""
    tokens_per_s: float | None = None
    """Of all peers together."""
    bytes_per_peer: float | None = None
    """Sent by a peer in COUNTED_STEPS inner steps, at what was measured in the steady part."""
    planned_bytes_per_peer: float | None = None
    bytes_per_token: float | None = None
    """Sent by a peer for each token that it trained."""
    peak_mbit: float | None = None
    """The largest 100 ms of any peer, either way."""
    mean_mbit: float | None = None
    """Sent by a peer in the steady part."""
    peak_over_mean: float | None = None
    """Of the peer and the direction where it is largest."""
    steady_s: float | None = None
    """How long the steady part was."""
    time_to_loss_s: float | None = None
    tokens_to_loss: float | None = None
    """Of one peer."""
    loss_at_limit: float | None = None
    averagings_checked: int | None = None
    averaging_error: float | None = None
    """Of the averaged values from the exact mean, relative to it."""
    averaging_spread: float | None = None
    """Between the peers' averaged values; 0: equal to the bit."""
    is_average_right: bool | None = None
    """Within the codec's tolerance, and equal on all peers."""
    reached: str = ""
    """What there was when the time was over, or why there is nothing."""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def row_of(
    cell: Cell, version: str, *, alone_steps_per_s: float | None = None, rtt_s: float = 0.0
) -> Row:
    """What a cell says about utilization, traffic and averaged values.

    Args:
        alone_steps_per_s: of the same processes without rounds; None: utilization is not measured.
        rtt_s: between two hosts, for the planner.
    """
    system, task = cell.system, cell.task
    manifest = Manifest.from_toml(task.manifest)
    row = Row(
        system=system.name,
        setting=task.setting.name,
        version=version,
        rate_mbit=task.rate_mbit,
        emulated=task.emulated,
        seed=manifest.seed,
        note=system.note,
    )
    if cell.failure:
        row.reached = f"failed: {cell.failure.splitlines()[0]}"
        return row
    row.reached = reached(cell)
    fill_in_check(row, cell.check, task.setting.tolerance)
    if system.is_planned and alone_steps_per_s and task.rate_mbit is not None:
        fill_in_plan(row, manifest, 1 / alone_steps_per_s, rtt_s)
    if cell.steady is not None:
        fill_in_traffic(row, cell, manifest)
        pace = cell.steps_per_s()
        if alone_steps_per_s and pace is not None:
            row.utilization = pace / alone_steps_per_s
    return row


def reached(cell: Cell) -> str:
    """How far it came, in words."""
    steps = min((lines[-1][1] if lines else 0) for lines in cell.steps)
    text = f"{steps:.0f} steps, {len(cell.syncs)} averagings in {cell.lasted_s:.0f} s"
    if cell.least_peers is not None and cell.least_peers < PEERS:
        text += f", one of only {cell.least_peers} peers"
    if cell.failures:
        text += f", {cell.failures} came to nothing"
    return text


def fill_in_check(row: Row, check: Check | None, tolerance: float) -> None:
    if check is not None:
        row.averagings_checked = check.averagings
        row.averaging_error = check.error
        row.averaging_spread = check.spread
        row.is_average_right = check.error <= tolerance and check.spread == 0.0


def fill_in_traffic(row: Row, cell: Cell, manifest: Manifest) -> None:
    assert cell.steady is not None and cell.traffic is not None
    begin_s, end_s = cell.steady
    steps = cell.steps_by(end_s) - cell.steps_by(begin_s)
    traffic = cell.traffic.between(begin_s, end_s)
    row.steady_s = end_s - begin_s
    row.sync_every_in_effect = cell.sync_every_in_effect()
    row.tokens_per_s = PEERS * steps * manifest.tokens_per_step / row.steady_s
    if steps <= 0 or len(traffic.times_s) < 2:
        return
    mean, peak = traffic.mean_mbit(), traffic.peak_mbit(PEAK_WINDOW_S)
    row.mean_mbit = float(mean[:, 0].mean())
    row.peak_mbit = float(peak.max())
    row.peak_over_mean = float((peak / mean).max())
    # Between the first and the last sample, a little less than the steady part.
    sent_bytes = row.mean_mbit * 1e6 / 8 * row.steady_s
    row.bytes_per_peer = sent_bytes / steps * COUNTED_STEPS
    row.bytes_per_token = sent_bytes / steps / manifest.tokens_per_step


def fill_in_plan(row: Row, manifest: Manifest, step_s: float, rtt_s: float) -> None:
    """What `diloco-peer plan` says beforehand of the same."""
    assert row.rate_mbit is not None
    cap = row.rate_mbit * 1e6 / 8
    swarm = Swarm(peers=PEERS, step_s=step_s, up_bytes_per_s=cap, down_bytes_per_s=cap, rtt_s=rtt_s)
    setting = shape_of(manifest).setting
    expected = outlook(setting, swarm)
    row.planned_utilization = expected.utilization
    rounds = setting.num_fragments * COUNTED_STEPS / expected.sync_every_in_effect
    row.planned_bytes_per_peer = expected.sent_bytes * rounds


def fill_in_loss(row: Row, curve: Curve, target: float | None, manifest: Manifest) -> None:
    """When the shared parameters had the target's loss."""
    row.loss_at_limit = curve.losses[-1] if curve.losses else None
    hit = None if target is None else curve.when(target)
    if hit is not None:
        row.time_to_loss_s, steps = hit
        row.tokens_to_loss = steps * manifest.tokens_per_step


def best_of(rows: list[Row]) -> Row:
    """The setting that is shown: the highest utilization, then the fewest bytes."""
    return max(
        rows, key=lambda row: (row.utilization or 0.0, -(row.bytes_per_token or float("inf")))
    )
