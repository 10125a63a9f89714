"""The paper's Table 4 from our simulator: the bandwidth that a compute utilization takes.

    python -m benchmarks.table4                # a few seconds on one core
    python -m benchmarks.table4 --share 1.0    # every parameter reduced

Streaming DiLoCo, arXiv 2501.18512, Table 4: gbit/s that 50 to 99 % utilization take, for three
model sizes and five methods; H = 100, fragments of three layers, two peers. Each cell is the first
bandwidth of a grid that reaches the utilization. Bandwidths are compared as points of that grid,
since the paper's numbers lie next to points of it: 86.8 where the grid has 86.9, 0.9 for 0.954.

What the paper does not say, and was fitted to its table: the grid (50 points from 0.1 to
1,000 gbit/s), and the share of the named parameters that is reduced. The last line of output is a
JSON object.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from protocol.simulator import Workload, data_parallel, diloco, first_that_reaches, streaming

GBIT_BYTES = 1e9 / 8
GRID_GBIT = tuple(float(rate) for rate in np.logspace(-1, 3, 50))
TARGETS = (0.50, 0.80, 0.90, 0.95, 0.99)
SYNC_EVERY = 100
REDUCED_SHARE = 0.838
"""Of the parameters that a model is called after; the best fit to the table."""

MODELS = {  # parameters, layers, seconds a step
    "1B": (1e9, 24, 0.1),
    "10B": (10e9, 48, 0.8),
    "100B": (100e9, 108, 4.9),
}
METHODS = ("data-parallel", "DiLoCo", "Streaming", "+ overlap", "+ FP4")
PUBLISHED_GBIT = {
    "1B": (
        (86.8, 152.6, 184.2, 222.3, 569.0),
        (1.4, 6.2, 13.3, 23.3, 86.8),
        (1.4, 5.2, 9.1, 16.0, 28.1),
        (1.4, 4.3, 6.2, 9.1, 11.0),
        (0.4, 0.9, 1.7, 2.0, 3.0),
    ),
    "10B": (
        (104.8, 222.3, 222.3, 268.3, 471.5),
        (1.7, 7.5, 16.0, 33.9, 104.8),
        (1.7, 5.2, 9.1, 13.3, 19.3),
        (1.7, 3.6, 5.2, 6.2, 7.5),
        (0.4, 0.9, 1.4, 1.4, 1.7),
    ),
    "100B": (
        (184.2, 323.8, 390.7, 390.7, 471.5),
        (3.0, 11.0, 23.3, 49.4, 184.2),
        (2.4, 6.2, 9.1, 11.0, 19.3),
        (1.7, 3.6, 4.3, 5.2, 5.2),
        (0.5, 0.9, 1.1, 1.1, 1.4),
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table, and ours."""

    model: str
    method: str
    target: float
    published_gbit: float
    ours_gbit: float | None
    """None: no bandwidth of the grid is enough."""

    @property
    def apart(self) -> int:
        """How many points of the grid the two are apart."""
        if self.ours_gbit is None:
            return len(GRID_GBIT)
        return abs(_place(self.ours_gbit) - _place(self.published_gbit))


def _place(gbit: float) -> int:
    return min(range(len(GRID_GBIT)), key=lambda place: abs(GRID_GBIT[place] - gbit))


def workload(model: str, method: str, reduced_share: float = REDUCED_SHARE) -> Workload:
    """A row of the table. Two peers send one payload each way, so the volume is the payload."""
    parameters, layers, step_s = MODELS[model]
    bits = 4 if method == "+ FP4" else 16
    trained: dict[str, Any] = {
        "layers": layers,
        "step_s": step_s,
        "model_bytes": reduced_share * parameters * bits / 8,
    }
    if method == "data-parallel":
        return data_parallel(**trained)
    if method == "DiLoCo":
        return diloco(**trained, sync_every=SYNC_EVERY)
    delay_steps = 0 if method == "Streaming" else 1
    return streaming(**trained, sync_every=SYNC_EVERY, delay_steps=delay_steps)


def cells(reduced_share: float = REDUCED_SHARE) -> Iterator[Cell]:
    """All 75, row by row."""
    grid = [gbit * GBIT_BYTES for gbit in GRID_GBIT]
    for model, rows in PUBLISHED_GBIT.items():
        for method, row in zip(METHODS, rows, strict=True):
            work = workload(model, method, reduced_share)
            for target, published in zip(TARGETS, row, strict=True):
                found = first_that_reaches(work, target, grid)
                ours = None if found is None else found / GBIT_BYTES
                yield Cell(model, method, target, published, ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--share",
        type=float,
        default=REDUCED_SHARE,
        help="share of the parameters that is reduced (default %(default)s)",
    )
    found = list(cells(parser.parse_args().share))
    table = Table(title="gbit/s: ours, and the paper's where they differ", title_justify="left")
    table.add_column("model")
    table.add_column("method")
    for target in TARGETS:
        table.add_column(f"{target:.0%}", justify="right")
    for (model, method), row in groupby(found, key=lambda cell: (cell.model, cell.method)):
        is_last = method == METHODS[-1]
        table.add_row(model, method, *map(_in_words, row), end_section=is_last)
    Console(highlight=False).print(table)
    summary = {
        "cells": len(found),
        "exact": sum(cell.apart == 0 for cell in found),
        "within_one": sum(cell.apart <= 1 for cell in found),
    }
    print(json.dumps(summary))


def _in_words(cell: Cell) -> str:
    ours = "none" if cell.ours_gbit is None else f"{cell.ours_gbit:.1f}"
    return ours if cell.apart == 0 else f"{ours} ({cell.published_gbit})"


if __name__ == "__main__":
    main()
