"""A running swarm from outside: find its peers, ask each, show one table."""

import asyncio
import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from peer.discovery import DhtDiscovery
from peer.gathering import find_run
from peer.grpc_transport import ask_status
from protocol.errors import UnavailableError
from protocol.wire import diloco_pb2 as pb


async def show_status(initial_peers: Sequence[str], run_id: str | None, console: Console) -> None:
    """Print the swarm; raises InputError or UnavailableError when there is none to show."""
    discovery = await DhtDiscovery.start(
        initial_peers=initial_peers,
        listen_host="127.0.0.1",
        listen_port=0,
        announce_host=None,
        identity_path=None,
    )
    try:
        manifest = await find_run(discovery, run_id)
        announced = await discovery.peers(manifest.run_id)
        answers = await asyncio.gather(*(_ask(a) for a in announced))
    finally:
        await discovery.close()
    console.print(f"run {manifest.name}  {manifest.run_id}", soft_wrap=True)
    console.print(_table(announced, answers))


async def _ask(announcement: pb.Announcement) -> pb.StatusReply | str:
    try:
        return await ask_status(announcement.address)
    except UnavailableError as error:
        return str(error)


def _table(announced: Sequence[pb.Announcement], answers: Sequence[pb.StatusReply | str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("peer")
    table.add_column("state")
    for column in ("step", "round", "loss", "tokens/s", "busy", "up", "down", "full/empty"):
        table.add_column(column, justify="right")
    table.add_column("head")
    for announcement, answer in sorted(
        zip(announced, answers, strict=True), key=lambda pair: pair[0].name
    ):
        if isinstance(answer, str):
            table.add_row(announcement.name, f"[red]{answer}[/red]")
            continue
        table.add_row(
            announcement.name,
            answer.state,
            f"{answer.step}/{answer.total_steps}",
            str(answer.round),
            "-" if math.isnan(answer.loss) else f"{answer.loss:.3f}",
            f"{answer.tokens_per_s:.0f}",
            "-" if math.isnan(answer.utilization) else f"{100 * answer.utilization:.1f} %",
            f"{answer.up_bytes_per_s * 8 / 1e6:.2f}",
            f"{answer.down_bytes_per_s * 8 / 1e6:.2f}",
            f"{answer.rounds_committed}/{answer.rounds_empty}",
            answer.head[:8],
        )
    return table
