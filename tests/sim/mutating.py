"""Does the checker see anything? Each module of tests/sim/mutations breaks the code in one way.

A mutation is caught when one of its seeds gives a violation that begins with the name of the
invariant that it breaks. An exception is no such thing. The same seed without the mutation must
give no violation at all, so that it is the mutation that was caught.

A module of that folder has a docstring (what is broken, and why the invariant must show it) and

    INVARIANT   the name of an invariant of DESIGN, section 3
    apply()     a context manager: inside it the code is mutated
    CLIMATE     optional: the weather and disasters in which it shows soon
"""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from tests.sim.climate import Climate
from tests.sim.scenario import Scenario

FOLDER = Path(__file__).parent / "mutations"
INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I7")
SEEDS = range(60)
STORM = Climate(
    peers=(3,),
    storm_s=12.0,
    longest_s=6.0,
    lockstep=0.0,
    steps_s=(0.2, 0.3),
    total_steps=(400,),
    log_bytes=(1 << 20,),
)
"""Three peers and a short storm: a seed takes a fraction of a second."""


class Mutation(Protocol):
    """A module of the folder. `CLIMATE` may be missing: then it is STORM."""

    INVARIANT: str
    CLIMATE: Climate

    def apply(self) -> AbstractContextManager[object]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutation."""

    name: str
    invariant: str
    seed: int | None
    """The first that catches it; None if none of them does."""
    seeds: int
    """How many were tried."""
    violation: str
    """The one that catches it, or else the first that the same seed gives without the mutation."""

    @property
    def is_caught(self) -> bool:
        return self.seed is not None

    def __str__(self) -> str:
        if self.is_caught:
            return f"{self.name}: caught by seed {self.seed} ({self.seeds} tried): {self.violation}"
        return f"{self.name}: NOT CAUGHT by {self.invariant} in {self.seeds} seeds {self.violation}"


def names() -> list[str]:
    """Of all mutations."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str) -> Mutation:
    """Raises ModuleNotFoundError when there is no such mutation."""
    return cast(Mutation, import_module(f"tests.sim.mutations.{name}"))


def violations_of(mutation: Mutation, seed: int, *, mutated: bool) -> tuple[str, ...]:
    """What one seed comes to in the mutation's climate, with it or without it."""
    climate = getattr(mutation, "CLIMATE", STORM)
    if not mutated:
        return Scenario(seed, climate=climate).run().violations
    with mutation.apply():
        return Scenario(seed, climate=climate).run().violations


def try_out(name: str, seeds: range = SEEDS) -> Outcome:
    """Run a mutation, seed after seed, until it is caught."""
    mutation = load(name)
    prefix = f"{mutation.INVARIANT}:"
    for count, seed in enumerate(seeds, 1):
        violations = violations_of(mutation, seed, mutated=True)
        named = next((text for text in violations if text.startswith(prefix)), None)
        if named is None:
            continue
        without = violations_of(mutation, seed, mutated=False)
        if without:
            return Outcome(name, mutation.INVARIANT, None, count, f"nor without it: {without[0]}")
        return Outcome(name, mutation.INVARIANT, seed, count, named)
    return Outcome(name, mutation.INVARIANT, None, len(seeds), "")


def try_all(jobs: int) -> Iterable[Outcome]:
    """Every mutation, each worker process with one at a time."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(try_out, names())
