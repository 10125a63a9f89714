"""`diloco-peer`: arguments to settings, and errors to one line and an exit code.

Exit codes: 0 done, 1 the run had to stop, 2 something that was typed is wrong, 130 interrupted
before the run began.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.units import bytes_per_s, host_and_port
from protocol.errors import DilocoError, InputError, UnavailableError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train one language model together over the ordinary internet: Streaming DiLoCo, peer to"
    " peer.",
)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(help="Where to write manifest.toml.")],
    name: Annotated[str, typer.Option(help="What people call the run.")] = "my-run",
    start_peers: Annotated[int, typer.Option(help="Training begins when so many are there.")] = 1,
    corpus: Annotated[
        str, typer.Option(help="'python-stdlib', or the path of a text file or folder.")
    ] = "python-stdlib",
) -> None:
    """Write a commented manifest with good defaults. Edit it, then found the run with `join`."""
    from peer.new import write_manifest

    path, manifest = write_manifest(directory, name=name, start_peers=start_peers, corpus=corpus)
    print(f"wrote {path}")
    print(f"run_id {manifest.run_id} (it changes with every edit)")
    print(f"found the run with: diloco-peer join --manifest {path} --insecure")


@app.command()
def join(
    initial_peers: Annotated[
        list[str], typer.Option(help="Address that a running peer printed; may be repeated.")
    ] = [],  # noqa: B006 (typer reads it, nobody changes it)
    manifest: Annotated[
        Path | None, typer.Option(help="Found the run that this file defines.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only this run_id, or its first digits.")] = None,
    up: Annotated[str | None, typer.Option(help="Cap on what leaves, as in 20mbit.")] = None,
    down: Annotated[str | None, typer.Option(help="Cap on what comes in, as in 100mbit.")] = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT for the peers; the DHT takes the next port.")
    ] = "127.0.0.1:0",
    announce: Annotated[
        str | None, typer.Option(help="Host under which other machines reach this one.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of torch, as in cpu or cuda:0.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Keys, data cursor, metrics and result of this peer.")
    ] = Path("peer-state"),
    name: Annotated[str | None, typer.Option(help="What people call this peer.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Where the run's corpus is on this machine.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Leave after so many inner steps.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Leave after so many tokens.")] = None,
    lockstep: Annotated[
        bool, typer.Option("--lockstep", help="The paper's fixed schedule, for science.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept that connections are not encrypted.")
    ] = False,
) -> None:
    """Take part in a run: join one with --initial-peers, or found one with --manifest."""
    from peer.settings import Settings

    host, port = host_and_port("--listen", listen)
    settings = Settings(
        directory=directory,
        name=(name or directory.name)[:64],
        manifest=manifest,
        initial_peers=tuple(initial_peers),
        run_id=run,
        listen_host=host,
        listen_port=port,
        announce_host=announce,
        up_bytes_per_s=None if up is None else bytes_per_s("--up", up),
        down_bytes_per_s=None if down is None else bytes_per_s("--down", down),
        device=device,
        threads=threads,
        corpus=corpus,
        stop_after_steps=steps,
        stop_after_tokens=tokens,
        lockstep=lockstep,
        plain=plain,
        insecure=insecure,
    )
    from peer.run import Peer
    from peer.view import LiveView

    async def take_part() -> None:
        console = Console()
        live = not plain and console.is_terminal
        peer = Peer(settings, say=lambda text: console.print(text, soft_wrap=True, highlight=False))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, peer.leave)
        with LiveView(peer.view, console=console, plain=not live):
            await peer.run()

    _run(take_part())
    _print_report([directory])


@app.command()
def status(
    initial_peers: Annotated[list[str], typer.Option(help="Address that a running peer printed.")],
    run: Annotated[str | None, typer.Option(help="Only this run_id, or its first digits.")] = None,
) -> None:
    """Show a running swarm from outside."""
    from peer.status import show_status

    _run(show_status(initial_peers, run, Console()))


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(help="State directories of peers.")],
) -> None:
    """Say what peers achieved, from their directories, and draw report.png into the first one."""
    _print_report(directories)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where to put everything.")] = Path("runs/demo"),
) -> None:
    """Four peers on this machine train one model together; then what that was worth."""
    from peer.demo import run_demo

    run_demo(directory, Console())


def _print_report(directories: list[Path]) -> None:
    from peer.report import report_on

    print(report_on(directories))


def _run(work: Coroutine[Any, Any, None]) -> None:
    # hivemind and asyncio log what this project reports in its own words.
    logging.getLogger("hivemind").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.run(work)


def main() -> None:
    """Entry point: one line for every error that is expected, a traceback for every other."""
    try:
        app(standalone_mode=False)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except (InputError, UnavailableError) as error:
        _fail(str(error), 2)
    except DilocoError as error:
        _fail(str(error), 1)
    except BaseExceptionGroup as group:
        causes = [e for e in _leaves(group) if isinstance(e, DilocoError)]
        if not causes:
            raise
        _fail(str(causes[0]), 2 if isinstance(causes[0], InputError | UnavailableError) else 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _leaves(group: BaseExceptionGroup) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _fail(why: str, code: int) -> None:
    print(f"diloco-peer: {why}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
