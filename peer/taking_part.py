"""Who else takes part: what a person copies to let others in, and who was thrown out."""

import shlex
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from peer.authority_folder import AuthorityFolder
from peer.board import Board
from peer.gathering import Gathering
from peer.grpc_client import Asker
from peer.settings import Settings
from peer.spreading import Spreader
from peer.starting import Base
from protocol.manifest import Manifest


def how_others_join(
    settings: Settings, manifest: Manifest, addresses: Sequence[str], founds: bool
) -> Iterator[str]:
    """Lines that a person copies; the founder of a closed run leaves the way in for `invite`.

    Raises:
        InputError: the founder's folder cannot be written.
    """
    if manifest.admission.authority:
        yield f"in run {manifest.name}, which takes invited peers only"
        if settings.manifest is not None:
            directory = settings.manifest.parent
            AuthorityFolder(directory, manifest).remember_way_in(list(addresses))
            yield f"invite people with: diloco-peer invite {shlex.quote(str(directory))} NAME"
        return
    yield (
        f"run {manifest.name} is founded; the others join it with:"
        if founds
        else f"in run {manifest.name}; others can join it through this peer, too:"
    )
    insecure = " --insecure" * settings.insecure
    for address in addresses:
        yield f"diloco-peer join --initial-peers {address} --run {manifest.run_id}{insecure}"


def passing_on_revocations(
    settings: Settings,
    base: Base,
    gathering: Gathering,
    board: Board,
    drop: Callable[[str], None],
) -> Iterator[Coroutine[Any, Any, None]]:
    """In a closed run the work of knowing who was thrown out, and letting the others know.

    Args:
        drop: ends all that goes to a peer.
    """
    trust = base.security.trust
    if trust is None or trust.is_open:
        return
    if settings.manifest is not None:
        folder = AuthorityFolder(settings.manifest.parent, base.manifest)
        trust.revocations.take(folder.revocations().signed, "")
    asker = Asker(base.security)
    yield Spreader(trust.revocations, gathering, asker, base.remembered, board, drop).run()
