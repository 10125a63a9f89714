"""Four systems side by side on the same slow links: ours, torchft, hivemind, and DDP.

    python -m benchmarks.wan             # all of it, under an hour; keep it in benchmarks/results/
    python -m benchmarks.wan --quick     # one rate, ours and the best rival, under eight minutes

Four peers on links of 10, 50 and 200 mbit with 40 ms of round trip; the same model, text, H, and
fragments where a system has them. First, with an emulated accelerator (benchmarks/wan/work.py) and
10 M parameters: compute utilization, tokens per second, bytes, and how flat the traffic is. Then,
training for real with 1.3 M: the time to a held-out loss that is fixed beforehand, what unthrottled
DDP has at half of the tokens. Bytes are those of the network cards. Of each rival the better of two
settings is shown; which one, is decided at 50 mbit. Prints a table and, as the last line, JSON:

    {"rows": [{"system", "version", "rate_mbit", "emulated", "utilization", "bytes_per_peer",
               "bytes_per_token", "peak_mbit", "mean_mbit", "peak_over_mean", "time_to_loss_s",
               ...}], "counted_steps", "target_loss", "others"}

(benchmarks/wan/rows.py says what each means; "others" are the settings that are not shown). Needs
root and iproute2, and for torchft `make torchft-venv`; says what is missing and goes on without.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.wan.cell import Cell, measure, steady_for, trained
from benchmarks.wan.ddp import DDP
from benchmarks.wan.hivemind import Hivemind
from benchmarks.wan.lab import Lab
from benchmarks.wan.loss import Curve, Judge
from benchmarks.wan.ours import Ours
from benchmarks.wan.report import draw_losses, draw_traffic, json_of, remarks, table_of
from benchmarks.wan.rows import Row, best_of, fill_in_loss, row_of
from benchmarks.wan.system import HOSTS, ROOT, Setting, System, Task
from benchmarks.wan.torchft import Torchft
from benchmarks.wan.work import LOSS, LOSS_STEPS, TRAFFIC, without_rounds
from protocol.errors import UnavailableError
from protocol.manifest import Manifest

SYSTEMS: tuple[type[System], ...] = (Ours, Torchft, Hivemind, DDP)
RATES_MBIT = (50.0, 10.0, 200.0)
"""The first decides which setting of a rival is shown."""
RTT_MS = 40.0
SEEDS = (1, 2, 3)
NOISE_RATE_MBIT = 200.0
"""The rate at which ours and the fastest rival train with all seeds."""
ALONE_S = 10.0
TRAFFIC_S = 80.0
LOSS_S = 120.0
"""Limits of a cell: without rounds, emulated, real."""
STEADY_S = 40.0
"""An emulated cell ends when its steady part is so long, if that is before the limit."""
FIRST_SEED = SEEDS[0]


class Run:
    """All cells of one call, and what came of them."""

    def __init__(self, systems: Sequence[type[System]], versions: dict[str, str]) -> None:
        self.systems = systems
        self.versions = versions
        self.rows: list[Row] = []
        self.others: list[Row] = []
        self.target: float | None = None
        self.traffic_cells: dict[tuple[str, float], Cell] = {}
        self.curves: dict[tuple[str, float], Curve] = {}
        self._alone_steps_per_s: dict[str, float] = {}
        self._shown = {system.name: system.settings[0] for system in systems}
        self._judge = Judge(Manifest.from_toml(loss_manifest(FIRST_SEED)))

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
            cell = self._measure(system, task, lab, ALONE_S)
            if (pace := None if cell.failure else cell.steps_per_s()) is not None:
                self._alone_steps_per_s[system.name] = pace
                print(f"  {pace:.2f} steps/s without rounds", flush=True)

    def fix_target(self, lab: Lab) -> None:
        """What DDP has at half of the tokens, on links without limits."""
        task = self._real(DDP, DDP.settings[0], None, FIRST_SEED)
        cell = self._measure(DDP, task, lab, LOSS_S, trained(LOSS_STEPS // 2 + 10))
        curve = self._judge.curve(cell.began_s, cell.snapshots)
        self.target = curve.at_step(LOSS_STEPS / 2)
        print(f"  the loss to be reached: {self.target}", flush=True)

    def traffic(self, lab: Lab, rate_mbit: float) -> None:
        """Utilization and traffic of every system; of both settings, as long as none is chosen."""
        for system in self.systems:
            is_first = all(row.system != system.name for row in self.rows)
            rows: dict[str, tuple[Row, Cell]] = {}
            for setting in system.settings if is_first else [self._shown[system.name]]:
                task = Task(manifest=TRAFFIC, emulated=True, setting=setting, rate_mbit=rate_mbit)
                cell = self._measure(system, task, lab, TRAFFIC_S, steady_for(STEADY_S))
                row = row_of(
                    cell,
                    self.versions[system.name],
                    alone_steps_per_s=self._alone_steps_per_s.get(system.name),
                    rtt_s=RTT_MS / 1000,
                )
                rows[setting.name] = (row, cell)
                print(f"  {row.reached}", flush=True)
            best = best_of([row for row, _ in rows.values()])
            self._shown[system.name] = rows[best.setting][1].task.setting
            self.traffic_cells[system.name, rate_mbit] = rows[best.setting][1]
            self.rows.append(best)
            self.others += [row for row, _ in rows.values() if row is not best]

    def losses(self, lab: Lab, rate_mbit: float, seed: int = FIRST_SEED) -> None:
        """Time to the target of every system, or, with another seed, of those that reach it."""
        for system in self.systems if seed == FIRST_SEED else self._fastest(rate_mbit):
            task = self._real(system, self._shown[system.name], rate_mbit, seed)
            cell = self._measure(system, task, lab, LOSS_S, trained(LOSS_STEPS))
            row = row_of(cell, self.versions[system.name])
            curve = self._judge.curve(cell.began_s, cell.snapshots)
            if self.target is not None:
                fill_in_loss(row, curve, self.target, Manifest.from_toml(task.manifest))
            self.rows.append(row)
            if seed == FIRST_SEED:
                self.curves[system.name, rate_mbit] = curve
            print(
                f"  {row.reached}; loss {row.loss_at_limit}, to {self.target} in"
                f" {row.time_to_loss_s} s",
                flush=True,
            )

    def _fastest(self, rate_mbit: float) -> list[type[System]]:
        """Ours, and the rival that was first at the target."""
        times = {
            row.system: row.time_to_loss_s
            for row in self.rows
            if not row.emulated and row.rate_mbit == rate_mbit and row.time_to_loss_s is not None
        }
        rivals = sorted(times.keys() - {Ours.name}, key=lambda name: times[name])[:1]
        return [system for system in self.systems if system.name in (Ours.name, *rivals)]

    def _real(
        self, system: type[System], setting: Setting, rate_mbit: float | None, seed: int
    ) -> Task:
        manifest = loss_manifest(seed)
        return Task(manifest=manifest, emulated=False, setting=setting, rate_mbit=rate_mbit)

    def _measure(
        self,
        system: type[System],
        task: Task,
        lab: Lab,
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


def loss_manifest(seed: int) -> str:
    return LOSS.format(seed=seed)


@contextmanager
def lab_of(rate_mbit: float | None) -> Iterator[Lab]:
    delay_ms = 0.0 if rate_mbit is None else RTT_MS
    with Lab(HOSTS, rate_mbit, delay_ms) as lab:
        print(lab.links, flush=True)
        yield lab


def versions_of(systems: Sequence[type[System]]) -> dict[str, str]:
    """What is installed; what is not is said, and left out."""
    versions = {}
    for system in systems:
        try:
            versions[system.name] = system.version()
            print(f"{system.name}: {versions[system.name]}")
        except UnavailableError as error:
            print(f"{system.name}: skipped, because {error}")
    return versions


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wan", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one rate, ours and the best rival")
    parser.add_argument("--no-loss", action="store_true", help="only utilization and traffic")
    parser.add_argument("--rates", help="other ones, in mbit: 10,50")
    parser.add_argument("--systems", help="only these: diloco-peer,torchft,hivemind,DDP")
    parser.add_argument("--plots", type=Path, help="folder for wan-traffic.png and wan-loss.png")
    parser.add_argument(
        "--torchft-venv",
        type=Path,
        default=ROOT / ".venv-torchft",
        help="where torchft is installed (default: .venv-torchft in the repository)",
    )
    arguments = parser.parse_args()
    Torchft.venv = arguments.torchft_venv
    systems = [Ours, Torchft] if arguments.quick else list(SYSTEMS)
    if arguments.systems:
        systems = [s for s in SYSTEMS if s.name in arguments.systems.split(",")]
    rates = RATES_MBIT[:1] if arguments.quick else RATES_MBIT
    if arguments.rates:
        rates = tuple(float(rate) for rate in arguments.rates.split(","))
    versions = versions_of(systems)
    run = Run([system for system in systems if system.name in versions], versions)
    try:
        with lab_of(None) as lab:
            run.alone(lab)
            if not arguments.no_loss:
                run.fix_target(lab)
        for rate_mbit in rates:
            with lab_of(rate_mbit) as lab:
                run.traffic(lab, rate_mbit)
                if not arguments.no_loss:
                    run.losses(lab, rate_mbit)
                if not arguments.no_loss and rate_mbit == NOISE_RATE_MBIT:
                    for seed in SEEDS[1:]:
                        run.losses(lab, rate_mbit, seed)
    except UnavailableError as error:
        print(f"skipped, because {error}")
        print(json.dumps(json_of(run.rows, target_loss=run.target, others=[])))
        return 0
    if arguments.plots:
        draw_traffic(run.traffic_cells, arguments.plots / "wan-traffic.png")
        if run.curves and run.target is not None:
            draw_losses(run.curves, run.target, arguments.plots / "wan-loss.png")
    Console(width=160).print(table_of(run.rows))
    print("\n".join(remarks(run.rows)))
    others = [row.to_json() for row in run.others]
    print(json.dumps(json_of(run.rows, target_loss=run.target, others=others)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
