"""The order of the cells of `python -m benchmarks.wan`, and what came of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.wan.cell import Cell, measure, steady_for, trained
from benchmarks.wan.ddp import DDP
from benchmarks.wan.keys import peer_ids_of
from benchmarks.wan.lab import Lab
from benchmarks.wan.loss import Curve, Judge
from benchmarks.wan.manifests import LOSS, LOSS_STEPS, TRAFFIC, without_rounds
from benchmarks.wan.ours import Ours
from benchmarks.wan.rows import Row, best_of, fill_in_loss, row_of
from benchmarks.wan.system import Setting, System, Task
from protocol.manifest import Manifest

RTT_MS = 40.0
FIRST_SEED = 1
TARGET_S = 240.0
"""How long data-parallel may take for half of the tokens without limits: the rest rests on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a cell lasts."""

    alone_s: float
    """Without rounds."""
    traffic_s: float
    """Emulated; it ends before that when its steady part has lasted `steady_s`."""
    steady_s: float
    loss_s: float
    """Real; it ends before that when everybody has done all steps."""


class Run:
    """All cells of one call, and what came of them."""

    def __init__(
        self, systems: Sequence[type[System]], versions: dict[str, str], limits: Limits
    ) -> None:
        self.systems = systems
        self.limits = limits
        self.versions = versions
        self.rows: list[Row] = []
        self.others: list[Row] = []
        self.target: float | None = None
        self.traffic_cells: dict[tuple[str, float], Cell] = {}
        self.curves: dict[tuple[str, float], Curve] = {}
        self._alone_steps_per_s: dict[str, float] = {}
        self._shown = {system.name: system.settings[0] for system in systems}
        self._chosen: set[str] = set()
        self._judge = Judge(Manifest.from_toml(LOSS.format(seed=FIRST_SEED)))

    def choose(self, system: type[System], setting: Setting) -> None:
        """Measure this setting only."""
        self._shown[system.name] = setting
        self._chosen.add(system.name)

    def alone(self, lab: Lab) -> None:
        """How fast each system's processes train without rounds and without limits."""
        for system in self.systems:
            task = Task(
                manifest=without_rounds(TRAFFIC),
                emulated=True,
                setting=system.settings[0],
                rate_mbit=None,
                rounds_off=True,
            )
            cell = self._measure(system, task, lab, self.limits.alone_s)
            if (pace := None if cell.failure else cell.steps_per_s()) is not None:
                self._alone_steps_per_s[system.name] = pace
                print(f"  {pace:.2f} steps/s without rounds", flush=True)

    def fix_target(self) -> None:
        """What DDP has at half of the tokens. Over loopback: even a lab's links without limits
        carry frame after frame, which is slow."""
        task = real_task(DDP.settings[0], None, FIRST_SEED)
        is_enough = trained(LOSS_STEPS // 2 + 50)
        cell = self._measure(DDP, task, None, TARGET_S, is_enough)
        curve = self._judge.curve(cell.began_s, cell.snapshots)
        self.target = curve.at_step(LOSS_STEPS / 2)
        print(f"  the loss to be reached: {self.target}", flush=True)

    def traffic(self, lab: Lab, rate_mbit: float) -> None:
        """Utilization and traffic of every system; of both settings, as long as none is chosen."""
        limits = self.limits
        for system in self.systems:
            rows: dict[str, tuple[Row, Cell]] = {}
            for setting in self._settings_of(system):
                task = Task(manifest=TRAFFIC, emulated=True, setting=setting, rate_mbit=rate_mbit)
                is_enough = steady_for(limits.steady_s)
                cell = self._measure(system, task, lab, limits.traffic_s, is_enough)
                row = row_of(
                    cell,
                    self.versions[system.name],
                    alone_steps_per_s=self._alone_steps_per_s.get(system.name),
                    rtt_s=RTT_MS / 1000,
                )
                rows[setting.name] = (row, cell)
                print(f"  {row.reached}", flush=True)
            best = best_of([row for row, _ in rows.values()])
            self.choose(system, rows[best.setting][1].task.setting)
            self.traffic_cells[system.name, rate_mbit] = rows[best.setting][1]
            self.rows.append(best)
            self.others += [row for row, _ in rows.values() if row is not best]

    def losses(self, lab: Lab, rate_mbit: float, seed: int = FIRST_SEED) -> None:
        """Time to the target of every system, or, with another seed, of those that reach it."""
        for system in self.systems if seed == FIRST_SEED else self._fastest(rate_mbit):
            task = real_task(self._shown[system.name], rate_mbit, seed)
            cell = self._measure(system, task, lab, self.limits.loss_s, trained(LOSS_STEPS))
            row = row_of(cell, self.versions[system.name])
            curve = self._judge.curve(cell.began_s, cell.snapshots)
            fill_in_loss(row, curve, self.target, Manifest.from_toml(task.manifest))
            self.rows.append(row)
            if seed == FIRST_SEED:
                self.curves[system.name, rate_mbit] = curve
            print(
                f"  {row.reached}; loss {row.loss_at_limit}, to {self.target} in"
                f" {row.time_to_loss_s} s",
                flush=True,
            )

    def _settings_of(self, system: type[System]) -> Sequence[Setting]:
        return [self._shown[system.name]] if system.name in self._chosen else system.settings

    def _fastest(self, rate_mbit: float) -> list[type[System]]:
        """Ours, and the rival that was first at the target."""
        times = {
            row.system: row.time_to_loss_s
            for row in self.rows
            if not row.emulated and row.rate_mbit == rate_mbit and row.time_to_loss_s is not None
        }
        rivals = sorted(times.keys() - {Ours.name}, key=lambda name: times[name])[:1]
        return [system for system in self.systems if system.name in (Ours.name, *rivals)]

    def _measure(
        self,
        system: type[System],
        task: Task,
        lab: Lab | None,
        limit_s: float,
        is_enough: Callable[[System, float], bool] = lambda swarm, began_s: False,
    ) -> Cell:
        what = "without rounds" if task.rounds_off else "emulated" if task.emulated else "real"
        where = "no limits" if task.rate_mbit is None else f"{task.rate_mbit:g} mbit"
        began_s = time.monotonic()
        cell = measure(system, task, lab, limit_s, is_enough)
        took_s = time.monotonic() - began_s
        print(
            f"{where}, {what}, {system.name}, {task.setting.name}: took {took_s:.0f} s,"
            f" {cell.starting_s:.0f} of them to start",
            flush=True,
        )
        if cell.failure:
            print(cell.failure, flush=True)
        return cell


def real_task(setting: Setting, rate_mbit: float | None, seed: int) -> Task:
    return Task(
        manifest=LOSS.format(seed=seed),
        emulated=False,
        setting=setting,
        rate_mbit=rate_mbit,
        batches_of=peer_ids_of(seed),
    )
