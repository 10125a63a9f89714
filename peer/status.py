"""A running swarm from outside: find its peers, ask each, show one table.

The DHT is a hint: it forgets a peer that was cut off for long, while the others have met it again.
So those that it names are asked whom they know, and who of these answers is shown as well.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.contact import Contact, read_contact
from peer.gathering import MAX_PEERS_KNOWN, one_line
from peer.grpc_client import Asker
from peer.outside import Entrance, Sight, look_at
from peer.view import duration
from protocol.errors import RemoteError, UnavailableError
from protocol.wire import diloco_pb2 as pb

WIDTH_IN_A_FILE = 120
LARGEST_SHOWN = 1e12


async def show_status(entrance: Entrance, console: Console) -> None:
    """Print the swarm; raises InputError or UnavailableError when there is none to show."""
    sight = await look_at(entrance)
    manifest = sight.manifest
    announced, answers = await _ask_all(sight)
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH_IN_A_FILE)
    console.print(
        f"run {manifest.name}  {manifest.run_id}", soft_wrap=True, markup=False, highlight=False
    )
    table = _table(announced, answers, console.width >= WIDTH_IN_A_FILE)
    console.print(table, highlight=False)


async def _ask_all(
    sight: Sight,
) -> tuple[list[Contact], list[pb.StatusReply | str]]:
    """The announced peers and those that they know and that answer, and what each says."""
    answers = await asyncio.gather(*(_ask(sight.asker, a) for a in sight.announced))
    heard = await heard_of(sight)
    further = zip(heard, await asyncio.gather(*(_ask(sight.asker, a) for a in heard)), strict=True)
    # Others may know peers that left long ago.
    live = [(who, answer) for who, answer in further if not isinstance(answer, str)]
    peers = [*sight.announced, *(who for who, _ in live)]
    return peers, [*answers, *(answer for _, answer in live)]


async def heard_of(sight: Sight) -> list[Contact]:
    """Whom these peers know beyond themselves, at most MAX_PEERS_KNOWN."""
    run_id = sight.manifest.run_id
    request = pb.HelloRequest(run_id=run_id)
    replies = await asyncio.gather(
        *(sight.asker.hello(a, request) for a in sight.announced), return_exceptions=True
    )
    known = {a.peer_id for a in sight.announced}
    heard: dict[str, Contact] = {}
    for reply in replies:
        for signed in reply.peers if isinstance(reply, pb.HelloReply) else ():
            with contextlib.suppress(RemoteError):
                contact = read_contact(signed, run_id, "")
                if contact.peer_id not in known and len(heard) < MAX_PEERS_KNOWN:
                    heard[contact.peer_id] = contact
    return list(heard.values())


async def _ask(asker: Asker, contact: Contact) -> pb.StatusReply | str:
    try:
        return await asker.status(contact)
    except (UnavailableError, RemoteError) as error:
        return one_line(str(error))


def _table(
    announced: Sequence[Contact],
    answers: Sequence[pb.StatusReply | str],
    is_wide: bool,
) -> Table:
    """80 columns are enough: long names are cut then, and states take several lines."""
    rows: list[tuple[Text, Text, list[str]]] = []
    for contact, answer in sorted(
        zip(announced, answers, strict=True), key=lambda pair: pair[0].name
    ):
        name = Text(one_line(contact.name))
        if isinstance(answer, str):
            rows.append((name, Text(answer, style="red"), []))
        else:
            words = f"{one_line(answer.state)} for {_shown(answer.state_s, duration)}"
            if answer.rounds_in_words:
                words += f"; {one_line(answer.rounds_in_words)}"
            rows.append((name, Text(words), _numbers(answer)))
    table = Table(box=None, pad_edge=False, padding=(0, 2 if is_wide else 1, 0, 0))
    most = 20 if is_wide else 12
    table.add_column("peer", no_wrap=True, overflow="ellipsis", min_width=6, max_width=most)
    table.add_column("state", overflow="fold", min_width=12)
    columns = ("step", "round", "empty", "loss", "tok/s", "busy", "up", "down", "head")
    for place, column in enumerate(columns):
        widths = [len(numbers[place]) for _, _, numbers in rows if numbers]
        table.add_column(
            column, justify="right", no_wrap=True, min_width=max([len(column), *widths])
        )
    for name, state, numbers in rows:
        table.add_row(name, state, *numbers)
    table.caption = "up and down in mbit/s; peers with equal heads hold the same global_params"
    table.caption_justify = "left"
    return table


def _numbers(answer: pb.StatusReply) -> list[str]:
    """One for each column behind the state."""
    return [
        str(answer.step),
        str(answer.round) if answer.round >= 0 else "-",
        str(answer.rounds_empty),
        _shown(answer.loss, "{:.3f}".format),
        _shown(answer.tokens_per_s, "{:.0f}".format),
        _shown(answer.utilization, "{:.0%}".format),
        _shown(answer.up_bytes_per_s * 8 / 1e6, "{:.1f}".format),
        _shown(answer.down_bytes_per_s * 8 / 1e6, "{:.1f}".format),
        one_line(answer.head[:6]),
    ]


def _shown(number: float, words: Callable[[float], str]) -> str:
    """A number that another peer tells; one that is none, or that no peer can have, is a dash."""
    return words(number) if abs(number) < LARGEST_SHOWN else "-"
