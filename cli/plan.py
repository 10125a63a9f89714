"""`diloco-peer plan`: arguments to a plan, printed and drawn."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli import options
from cli.units import bytes_per_s, count, duration_s
from protocol.errors import InputError

DEFAULT_PEERS = 2


def plan(
    up: Annotated[
        str,
        typer.Option(
            help="What a peer's link carries up, as in 20mbit; with different links, the slowest.",
            metavar="RATE",
            rich_help_panel="The swarm",
        ),
    ],
    down: Annotated[
        str | None,
        typer.Option(help="Down; by default as up.", metavar="RATE", rich_help_panel="The swarm"),
    ] = None,
    peers: Annotated[
        int | None,
        typer.Option(
            help="How many train; by default start_peers of the manifest, at least"
            f" {DEFAULT_PEERS}.",
            metavar="COUNT",
            min=1,
            max=256,
            rich_help_panel="The swarm",
        ),
    ] = None,
    rtt: Annotated[
        str,
        typer.Option(
            help="Round trip between two peers, as in 50ms.",
            metavar="TIME",
            rich_help_panel="The swarm",
        ),
    ] = "50ms",
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Plan the run that this file defines.",
            metavar="FILE",
            rich_help_panel="The model",
        ),
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(
            help="Or only the size of the model, as in 1B or 350M; the rest is the defaults.",
            metavar="COUNT",
            rich_help_panel="The model",
        ),
    ] = None,
    step_time: Annotated[
        str | None,
        typer.Option(
            help="Of one inner step, as in 0.8s; by default the manifest's step is measured here.",
            metavar="TIME",
            rich_help_panel="The model",
        ),
    ] = None,
    lockstep: options.Lockstep = False,
    target: Annotated[
        float,
        typer.Option(
            help="Utilization below which a link does not carry a run.",
            metavar="SHARE",
            min=0.01,
            max=0.999,
        ),
    ] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw utilization over bandwidth into this PNG.", metavar="FILE"),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Say what to set so that a link carries a run, and what comes of it.

    For what the manifest says and for what is recommended: rates, times, utilization, and what
    limits it. Nothing is started.
    """
    up_bytes_per_s = _positive("--up", up, bytes_per_s("--up", up))
    down_bytes_per_s = up_bytes_per_s
    if down is not None:
        down_bytes_per_s = _positive("--down", down, bytes_per_s("--down", down))
    rtt_s = duration_s("--rtt", rtt)
    step_s = None
    if step_time is not None:
        step_s = _positive("--step-time", step_time, duration_s("--step-time", step_time))
    size = None if parameters is None else count("--parameters", parameters)
    if (manifest is None) == (size is None):
        raise InputError(
            "name the model: --manifest FILE of a run, or its size with --parameters 1B"
        )
    if manifest is None and step_s is None:
        raise InputError(
            "say how long a step takes with --step-time 0.8s, or give a --manifest whose step can"
            " be measured here"
        )
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads} must be at least 1: correct it or leave it out")
    with Console(stderr=True).status("loading torch ..."):
        from peer.planning import Question, answer
        from peer.show_plan import draw_plan, show_plan
    question = Question(
        manifest=manifest,
        parameters=size,
        lockstep=lockstep,
        step_s=step_s,
        peers=peers,
        least_peers=DEFAULT_PEERS,
        up_bytes_per_s=up_bytes_per_s,
        down_bytes_per_s=down_bytes_per_s,
        rtt_s=rtt_s,
        target=target,
        device=device,
        threads=threads,
    )
    aside, doing = Console(stderr=True), "planning ..."
    if step_s is None:
        doing = "measuring an inner step here, which takes some seconds (or give --step-time) ..."
        if not aside.is_terminal:
            aside.print(doing, soft_wrap=True)
    with aside.status(doing):
        found = answer(question)
    if plot is not None:
        draw_plan(found, plot)
    show_plan(found, as_json, Console())
    if plot is not None and not as_json:
        print(f"Picture: {plot}")


def _positive(flag: str, text: str, value: float) -> float:
    if value <= 0:
        raise InputError(f"{flag} {text} must be more than nothing: correct it")
    return value
