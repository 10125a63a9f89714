"""What goes on beside the rounds of a peer for as long as it runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from peer.board import Board
from peer.discovery import REFRESH_S, DhtDiscovery
from peer.gathering import Gathering
from peer.metrics import Metrics
from peer.planning import link_warning
from peer.rounds import RoundDriver
from peer.runfile import RunFile
from peer.settings import ASSUMED_BYTES_PER_S, Settings
from peer.threads import in_thread
from peer.trainer import Progress
from protocol.errors import UnavailableError
from protocol.plan import Swarm

STEPS_LINE_S = 1.0
STEPS_OF_A_PACE = 3
"""Inner steps after which the pace is believed."""


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Tasks that live as long as the block; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        try:
            yield lambda work: tasks.append(group.create_task(work))
        finally:
            for task in tasks:
                task.cancel()


async def announce(
    discovery: DhtDiscovery, gathering: Gathering, run_id: str, board: Board
) -> None:
    while True:
        try:
            await discovery.announce(run_id, gathering.me.contact())
        except UnavailableError:
            # Whoever is in the run knows the addresses; only newcomers look here.
            board.note("the DHT did not take the announcement; trying again")
        await asyncio.sleep(REFRESH_S)


async def remember_peers(gathering: Gathering, remembered: RunFile, board: Board) -> None:
    while True:
        await asyncio.sleep(REFRESH_S / 3)
        try:
            remembered.remember_peers(gathering.contacts())
        except OSError as error:
            board.note(f"the addresses of the others cannot be kept: {error.strerror}")


async def write_steps(
    metrics: Metrics, driver: RoundDriver, board: Board, on_progress: Callable[[Progress], None]
) -> None:
    """Once a second: a line of the record, and what follows from the count of steps."""
    written_step, largest_gap_s = 0, 0.0
    while True:
        await asyncio.sleep(STEPS_LINE_S)
        board.name_state()
        progress = driver.trainer.progress
        if progress.step == written_step:
            continue
        written_step = progress.step
        largest_gap_s = max(largest_gap_s, driver.trainer.take_largest_gap_s())
        is_written = metrics.write(
            "steps",
            step=progress.step,
            position=driver.position(progress.step),
            tokens=progress.tokens,
            loss=progress.loss,
            tokens_per_s=progress.pace_steps_per_s * driver.manifest.tokens_per_step,
            learning_rate=progress.learning_rate,
            largest_gap_s=largest_gap_s,
            waited_s=progress.waited_s,
            sync_s=progress.sync_s,
        )
        largest_gap_s = 0.0 if is_written else largest_gap_s
        on_progress(progress)


async def warn_of_narrow_link(settings: Settings, driver: RoundDriver, board: Board) -> None:
    """Once, when the first steps have shown the pace: a note if the caps cannot carry the run.

    Round trips are left out, since nobody has measured them.
    """
    up, down = settings.up_bytes_per_s, settings.down_bytes_per_s
    if not settings.trains or (up is None and down is None):
        return
    first_step = driver.trainer.progress.step
    while (progress := driver.trainer.progress).step < first_step + STEPS_OF_A_PACE:
        await asyncio.sleep(STEPS_LINE_S)
    swarm = Swarm(
        peers=max(driver.manifest.start_peers, 1 + len(driver.member.live)),
        step_s=1 / progress.pace_steps_per_s,
        up_bytes_per_s=up or ASSUMED_BYTES_PER_S,
        down_bytes_per_s=down or ASSUMED_BYTES_PER_S,
        rtt_s=0.0,
    )
    warning = await in_thread(link_warning, driver.manifest, swarm)
    if warning is not None:
        board.note(warning)
