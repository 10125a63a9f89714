"""A peer that was away for 20 rounds comes back by whichever is fewer bytes (benchmarks/join.py).

One of three peers is killed, and started again with its directory when the others are 20 rounds
further. With the 4-bit codec the entries that it missed are fewer bytes than the state; with fp32
on the wire the state is. Real peers, on loopback; bytes are payload, from the peer's own record,
and those of the entries from the log of another one.
"""

import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.processes import Swarm
from peer.show_log import lines_in
from protocol.errors import UnavailableError

ROUNDS_AWAY = 20
FIRST_ROUNDS = 3
"""All three have done so many before one is killed."""
PATIENCE_S = 300.0
CAPS = ("--up", "50mbit", "--down", "50mbit")
STATE_BYTES_PER_PARAMETER = 8
MAX_ENTRIES = 200

MANIFEST = """
name = "catch-up"
start_peers = 3
total_steps = 1_000_000

[model]
depth = 2
width = 384
context = 8

[data]
batch_sequences = 1

[inner_optimizer]
learning_rate = 1e-4

[sync]
sync_every = {sync_every}
num_fragments = 2
edges = "spread"
sync_delay_steps = 0
codec = "{codec}"

[limits]
checkpoint_rounds = 4

[evaluation]
every_rounds = 1_000_000
"""


@dataclass(frozen=True, slots=True)
class Case:
    how: str
    """What is fewer bytes: replay or snapshot."""
    codec: str
    sync_every: int
    """120: rounds of some seconds. 30: as short as the links allow, so that what is lent to who
    comes back is taken from the rounds."""


CASES = (Case("replay", "e3m0", 120), Case("snapshot", "fp32", 120), Case("snapshot", "fp32", 30))


@dataclass(frozen=True, slots=True)
class Return:
    sync_every: int
    rounds: int
    """Missed when it had arrived."""
    how: str
    bytes: int
    """That it fetched."""
    entries_bytes: int
    """Of the entries that it missed, encoded."""
    snapshot_bytes: int
    """Of the state."""
    seconds: float
    """From the first request until it held what the others hold."""


def come_back(case: Case) -> Return:
    """Measure one return.

    Raises:
        UnavailableError: a peer ended, or the one that was away came back in the other way.
    """
    with (
        tempfile.TemporaryDirectory(prefix="catch-up-") as folder,
        Swarm(Path(folder), _manifest(case)) as swarm,
    ):
        try:
            swarm.found("a", *CAPS)
            for name in ("b", "c"):
                swarm.join(name, *CAPS)
            _wait_for_round(swarm, FIRST_ROUNDS, "c")
            swarm.signal("c", signal.SIGKILL)
            last = swarm.rounds("c")[-1]["round"]
            for round_ in range(last + 1, last + ROUNDS_AWAY + 1):
                _wait_for_round(swarm, round_, "a")
            swarm.join("c", *CAPS)
            swarm.wait_until(
                lambda: bool(swarm.lines("c", "arrived")), "c to come back", patience_s=PATIENCE_S
            )
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{swarm.tails()}") from error
        arrived, start = swarm.lines("c", "arrived")[0], swarm.lines("c", "start")[0]
        missed = range(arrived["from_round"] + 1, arrived["round"] + 1)
        lines, _ = lines_in(swarm.path("a"), MAX_ENTRIES)
        how = "snapshot" if arrived["snapshot_bytes"] else "replay"
        if how != case.how:
            raise UnavailableError(f"c came back by a {how}")
        return Return(
            sync_every=case.sync_every,
            rounds=len(missed),
            how=how,
            bytes=arrived["snapshot_bytes"] + arrived["replay_bytes"],
            entries_bytes=sum(line.part_bytes for line in lines if line.decided.round in missed),
            snapshot_bytes=STATE_BYTES_PER_PARAMETER * start["parameters"],
            seconds=round(arrived["seconds"], 1),
        )


def _manifest(case: Case) -> str:
    return MANIFEST.format(codec=case.codec, sync_every=case.sync_every)


def _wait_for_round(swarm: Swarm, round_: int, name: str) -> None:
    swarm.wait_until(
        lambda: any(line["round"] >= round_ for line in swarm.rounds(name)),
        f"round {round_}",
        name,
    )


def table_of(returns: Sequence[Return]) -> Table:
    table = Table(
        title="A peer that was away comes back, by whichever is fewer bytes",
        caption="Rounds that it missed, MB that it fetched, and what either way takes: the encoded"
        " entries, or the state. With H = 30 the rounds fill the links.",
        box=None,
        min_width=80,
    )
    table.add_column("how")
    for name in ("H", "rounds", "fetched", "entries", "state", "seconds"):
        table.add_column(name, justify="right")
    for one in returns:
        sizes = (one.bytes, one.entries_bytes, one.snapshot_bytes)
        counts = (f"{one.sync_every}", f"{one.rounds}")
        megabytes = (f"{size / 1e6:.2f}" for size in sizes)
        table.add_row(one.how, *counts, *megabytes, f"{one.seconds:.0f}")
    return table
