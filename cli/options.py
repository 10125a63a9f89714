"""The flags that several commands share: what people type, and what the help says about it."""

from pathlib import Path
from typing import Annotated

import typer

InitialPeers = Annotated[
    list[str],
    typer.Option(
        help="Address that a running peer printed; may be repeated.",
        metavar="ADDRESS",
        rich_help_panel="Which run",
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        help="Only this run_id, or its first digits.",
        metavar="RUN_ID",
        rich_help_panel="Which run",
    ),
]
Lockstep = Annotated[
    bool,
    typer.Option(
        "--lockstep",
        help="The paper's fixed schedule, for science.",
        rich_help_panel="Which run",
    ),
]
Invite = Annotated[
    Path | None,
    typer.Option(
        help="What the founder of a run sent you; nothing else is needed then.",
        metavar="FILE",
        rich_help_panel="Which run",
    ),
]
Insecure = Annotated[
    int,
    typer.Option(
        "--insecure",
        count=True,
        help="Speak plaintext, on this machine or a private network; twice: anywhere.",
        rich_help_panel="Network",
    ),
]
Up = Annotated[
    str | None,
    typer.Option(
        help="Cap on what leaves, as in 20mbit.", metavar="RATE", rich_help_panel="Network"
    ),
]
Down = Annotated[
    str | None,
    typer.Option(
        help="Cap on what comes in, as in 100mbit.", metavar="RATE", rich_help_panel="Network"
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        help="Where other peers connect; the DHT takes the next port. By default this machine's"
        " address on the way to the initial peers, or loopback, and any ports.",
        metavar="HOST:PORT",
        rich_help_panel="Network",
    ),
]
AnnounceHost = Annotated[
    str | None,
    typer.Option(
        help="Host under which other machines reach this one.",
        metavar="HOST",
        rich_help_panel="Network",
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help="Keys, log, checkpoints, metrics and result of this peer: by default peer-state, or"
        " peer-state-2 and so on while others have that. A peer that is started again with its"
        " directory goes on where it was.",
        metavar="DIRECTORY",
        rich_help_panel="This peer",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="What people call this peer.", metavar="NAME", rich_help_panel="This peer"),
]
CorpusPath = Annotated[
    str | None,
    typer.Option(
        help="Where the run's corpus is on this machine.",
        metavar="PATH",
        rich_help_panel="This peer",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Device of torch, as in cpu or cuda:0.",
        metavar="DEVICE",
        rich_help_panel="This peer",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads of torch.", metavar="COUNT", rich_help_panel="This peer"),
]
LogSize = Annotated[
    str,
    typer.Option(
        help="Disk for recent entries that others catch up with, as in 1GB.",
        metavar="SIZE",
        rich_help_panel="This peer",
    ),
]
KeepCheckpoints = Annotated[
    int,
    typer.Option(
        help="Checkpoints that stay on disk.", metavar="COUNT", rich_help_panel="This peer"
    ),
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Lines instead of the live view.", rich_help_panel="This peer"),
]
