"""The warning that a link cannot carry the run."""

import asyncio
from types import SimpleNamespace

import pytest

from benchmarks.virtual.loop import run_virtually
from peer.background import STEPS_LINE_S, warn_of_narrow_link
from peer.settings import Settings
from peer.trainer import Progress
from protocol.manifest import Manifest

RUN = Manifest.from_toml(
    """
    start_peers = 3
    [model]
    depth = 3
    width = 128
    head_width = 16
    context = 32
    """
)


def warnings(*, step_s: float, mbit: float | None) -> list[str]:
    """What a peer of the run says at its start, when its first steps take so long."""
    notes: list[str] = []
    trainer = SimpleNamespace(progress=Progress(step=7))
    driver = SimpleNamespace(
        trainer=trainer, manifest=RUN, member=SimpleNamespace(live=("one other",))
    )
    settings = Settings(
        initial_peers=("a",),
        insecure=True,
        up_bytes_per_s=None if mbit is None else mbit * 125_000,
    )

    async def start() -> None:
        warning = asyncio.create_task(
            warn_of_narrow_link(settings, driver, SimpleNamespace(note=notes.append))
        )
        await asyncio.sleep(10 * STEPS_LINE_S)
        assert not notes  # nothing is known of the pace yet
        trainer.progress = Progress(step=10, pace_steps_per_s=1 / step_s)
        await warning

    run_virtually(start())
    return notes


def test_a_link_that_cannot_carry_the_run_is_told_so_with_what_to_do():
    (warning,) = warnings(step_s=0.02, mbit=1)
    assert "H is effectively" in warning and "sync_every = 100" in warning
    assert "give --up " in warning and "found the run with" in warning


@pytest.mark.parametrize(("step_s", "mbit"), [(1.0, 1), (0.02, None)])
def test_nothing_is_said_of_a_link_that_can_or_of_one_without_a_cap(step_s, mbit):
    assert not warnings(step_s=step_s, mbit=mbit)
