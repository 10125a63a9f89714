"""`diloco-peer`: arguments to settings, and errors to one line and an exit code.

Exit codes: 0 done, 1 the run had to stop, 2 something that was typed is wrong, 130 interrupted
before the run began.
"""

import asyncio
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from cli import founder, options
from cli import plan as planning
from cli.units import bytes_per_s, host_and_port, size_bytes
from peer.directory import claim
from protocol.errors import DilocoError, InputError, UnavailableError

PROGRAM = "diloco-peer"
INTERRUPTED = 130

# What typer raises for a misspelt command line. It exports only this one of its subclasses.
_UsageError = cast(type[Exception], typer.BadParameter.__base__)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train one language model together over the ordinary internet: Streaming DiLoCo, peer to"
    " peer.",
    epilog="To begin: `diloco-peer new my-run`, then `diloco-peer join --manifest"
    " my-run/manifest.toml`, and `diloco-peer invite my-run NAME` for everybody else.",
)


@app.command(epilog="Example: diloco-peer new my-run --start-peers 3 --corpus ~/books")
def new(
    directory: Annotated[
        Path, typer.Argument(help="Where to write manifest.toml.", metavar="DIRECTORY")
    ],
    start_peers: Annotated[
        int, typer.Option(help="Training begins when so many peers are there.", metavar="COUNT")
    ] = 1,
    corpus: Annotated[
        str,
        typer.Option(
            help="'python-stdlib', or the path of a text file or folder.", metavar="CORPUS"
        ),
    ] = "python-stdlib",
    name: Annotated[str, typer.Option(help="What people call the run.", metavar="NAME")] = "my-run",
    is_open: Annotated[
        bool, typer.Option("--open", help="Anybody may join, and nobody is invited.")
    ] = False,
) -> None:
    """Write a commented manifest with good defaults. Edit it, then found the run with `join`.

    Whoever has the directory that it makes decides who takes part: keep it to yourself.
    """
    from peer.new import write_manifest

    path, manifest = write_manifest(
        directory, name=name, start_peers=start_peers, corpus=corpus, is_open=is_open
    )
    print(f"wrote {path}")
    print(f"run_id {manifest.run_id} (it changes with every edit)")
    print(f"found the run with: {PROGRAM} join --manifest {shlex.quote(str(path))}")
    if not is_open:
        folder = shlex.quote(str(directory))
        print(f"invite people, once it runs, with: {PROGRAM} invite {folder} NAME")


app.command(epilog="Example: diloco-peer invite my-run alice --expires 30d")(founder.invite)
app.command(epilog="Example: diloco-peer revoke my-run alice")(founder.revoke)


@app.command(
    epilog="Found a run: diloco-peer join --manifest my-run/manifest.toml\n\n"
    "Join it: diloco-peer join --invite FILE, or, if it is open, type the line that any peer of the"
    " run printed.\n\n"
    "Over the internet, add: --listen 0.0.0.0:7000 --announce 203.0.113.5 --up 20mbit"
    " --down 100mbit"
)
def join(
    invite: options.Invite = None,
    initial_peers: options.InitialPeers = [],  # noqa: B006 (typer reads it, nobody changes it)
    run: options.Run = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Found the run that this file defines.",
            metavar="FILE",
            rich_help_panel="Which run",
        ),
    ] = None,
    lockstep: options.Lockstep = False,
    insecure: options.Insecure = 0,
    up: options.Up = None,
    down: options.Down = None,
    listen: options.Listen = None,
    announce: options.AnnounceHost = None,
    directory: options.Directory = None,
    name: options.Name = None,
    corpus: options.CorpusPath = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Leave after about so many inner steps.",
            metavar="COUNT",
            rich_help_panel="This peer",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Leave after about so many tokens.", metavar="COUNT", rich_help_panel="This peer"
        ),
    ] = None,
    log_size: options.LogSize = "1GB",
    keep_checkpoints: options.KeepCheckpoints = 3,
    plain: options.Plain = False,
) -> None:
    """Take part in a run: join one with --invite or --initial-peers, or found one with --manifest.

    A run can be joined at any time. A peer that was stopped goes on where it was when it is started
    again with its directory; it then needs no --initial-peers if the others are where they were.
    Ctrl-C leaves within seconds; pressed again, it drops everything at once.
    """
    from peer.settings import Settings

    host, port = ("", 0) if listen is None else host_and_port("--listen", listen)
    settings = Settings(
        directory=directory,
        name=name,
        manifest=manifest,
        invitation=invite,
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
        log_bytes=size_bytes("--log-size", log_size),
        keep_checkpoints=keep_checkpoints,
        plain=plain,
        insecure=insecure,
    )
    _take_part(settings)


@app.command(epilog="Example: diloco-peer archive --invite archive.invite --dir my-archive")
def archive(
    invite: options.Invite = None,
    initial_peers: options.InitialPeers = [],  # noqa: B006 (typer reads it, nobody changes it)
    run: options.Run = None,
    insecure: options.Insecure = 0,
    up: options.Up = None,
    down: options.Down = None,
    listen: options.Listen = None,
    announce: options.AnnounceHost = None,
    directory: options.Directory = None,
    name: options.Name = None,
    corpus: options.CorpusPath = None,
    threads: options.Threads = None,
    log_size: options.LogSize = "10GB",
    keep_checkpoints: options.KeepCheckpoints = 10,
    plain: options.Plain = False,
) -> None:
    """Follow a run without training: keep its log, give newcomers its state, evaluate it.

    Needs no GPU. Ctrl-C leaves.
    """
    from peer.settings import Settings

    host, port = ("", 0) if listen is None else host_and_port("--listen", listen)
    settings = Settings(
        directory=directory,
        name=name,
        invitation=invite,
        initial_peers=tuple(initial_peers),
        run_id=run,
        listen_host=host,
        listen_port=port,
        announce_host=announce,
        up_bytes_per_s=None if up is None else bytes_per_s("--up", up),
        down_bytes_per_s=None if down is None else bytes_per_s("--down", down),
        threads=threads,
        corpus=corpus,
        trains=False,
        log_bytes=size_bytes("--log-size", log_size),
        keep_checkpoints=keep_checkpoints,
        plain=plain,
        insecure=insecure,
    )
    _take_part(settings)


def _take_part(settings: Any) -> None:
    """Run one peer with these settings to its end, and print its report."""
    console = Console()
    with console.status("loading torch ..."):
        from peer.run import Peer
        from peer.view import LiveView
    plain = settings.plain or not console.is_terminal
    with claim(settings.directory) as claimed:
        peer = Peer(
            settings,
            claimed,
            say=lambda text: console.print(text, soft_wrap=True, highlight=False, markup=False),
        )

        async def take_part() -> None:
            with LiveView(peer.board.view, console=console, plain=plain):
                await peer.run()

        _run(take_part(), peer.leave)
        if not settings.trains:
            return
        if peer.board.progress is None:
            print("left before the run began")
            raise typer.Exit(INTERRUPTED)
        _print_report([claimed])


app.command(
    epilog="Example: diloco-peer plan --manifest my-run/manifest.toml --peers 4 --up 20mbit"
    " --rtt 50ms --plot plan.png\n\n"
    "Without a manifest: diloco-peer plan --parameters 1B --step-time 0.8s --peers 8 --up 100mbit"
)(planning.plan)


@app.command(
    epilog="A peer's own: diloco-peer log peer-state\n\n"
    "A running swarm's: diloco-peer log --initial-peers ADDRESS"
)
def log(
    directory: Annotated[
        Path | None, typer.Argument(help="State directory of a peer.", metavar="[DIRECTORY]")
    ] = None,
    invite: options.Invite = None,
    initial_peers: options.InitialPeers = [],  # noqa: B006
    run: options.Run = None,
    insecure: options.Insecure = 0,
    last: Annotated[
        int, typer.Option(help="The newest so many entries.", metavar="COUNT", min=1, max=200)
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the log: who contributed to each round, what was missing and why, bytes and times."""
    from peer.outside import Entrance
    from peer.show_log import show_directory, show_swarm

    is_running = bool(initial_peers) or invite is not None
    if (directory is None) != is_running:
        raise InputError(
            "name a peer's directory, or a running swarm with --initial-peers or --invite"
        )
    if directory is not None:
        show_directory(directory, last, as_json, Console())
    else:
        entrance = Entrance.of(initial_peers, run, invite, bool(insecure))
        _run(show_swarm(entrance, last, as_json, Console()))


@app.command(
    epilog="Example: diloco-peer status --initial-peers /ip4/203.0.113.5/tcp/7001/p2p/Qm...\n\n"
    "A run that takes invited peers only: diloco-peer status --invite FILE"
)
def status(
    invite: options.Invite = None,
    initial_peers: options.InitialPeers = [],  # noqa: B006
    run: options.Run = None,
    insecure: options.Insecure = 0,
) -> None:
    """Show a running swarm from outside."""
    console = Console()
    with console.status("asking ..."):
        from peer.outside import Entrance
        from peer.status import show_status

    _run(show_status(Entrance.of(initial_peers, run, invite, bool(insecure)), console))


@app.command(epilog="Example: diloco-peer report peer-state peer-state-2 peer-state-3")
def report(
    directories: Annotated[
        list[Path], typer.Argument(help="State directories of peers.", metavar="DIRECTORY...")
    ],
) -> None:
    """Say what peers achieved, from their directories, and draw report.png into the first one."""
    _print_report(directories)


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Argument(help="Where to put everything.", metavar="DIRECTORY")
    ] = Path("runs/demo"),
) -> None:
    """Four peers on this machine train one model together; then what that was worth."""
    from peer.demo import run_demo

    run_demo(directory, Console())


def _print_report(directories: list[Path]) -> None:
    from peer.report import report_on

    print(report_on(directories))


def _run(work: Coroutine[Any, Any, None], leave: Callable[[], None] | None = None) -> None:
    """Run to the end. Ctrl-C and SIGTERM call `leave` the first time, and cancel the next."""

    async def watched() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        answers: list[Callable[[], Any]] = [task.cancel]
        if leave is not None:
            answers.append(leave)

        def interrupted() -> None:
            (answers.pop() if len(answers) > 1 else answers[0])()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted)
        try:
            await work
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            _end_at_once()

    asyncio.run(watched())


def _end_at_once() -> None:
    """While nothing runs that has to be ended in order, Ctrl-C just ends the process, and not with
    a traceback from the middle of an import."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Entry point: one line for every error that is expected, a traceback for every other."""
    _end_at_once()
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (InputError, UnavailableError) as error:
        _fail(str(error), 2)
    except DilocoError as error:
        _fail(str(error), 1)
    except _UsageError as error:
        _fail(_usage_in_words(error), 2)
    except BaseExceptionGroup as group:
        causes = [e for e in _leaves(group) if isinstance(e, DilocoError)]
        if not causes:
            raise
        _fail(str(causes[0]), 2 if isinstance(causes[0], InputError | UnavailableError) else 1)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        sys.exit(INTERRUPTED)


def _usage_in_words(error: Any) -> str:
    """What typer found wrong with the command line, and where to read how it should be."""
    command = PROGRAM if error.ctx is None else error.ctx.command_path
    return f"{error.format_message().rstrip('.')}: see '{command} --help'"


def _leaves(group: BaseExceptionGroup) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _fail(why: str, code: int) -> None:
    # One line, also when a path or another program's message brought line ends along.
    print(f"{PROGRAM}: {' '.join(why.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
