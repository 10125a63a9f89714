"""What a peer begins with: its state directory, opened, and what an earlier life left in it."""

import secrets
from pathlib import Path

from peer.directory import STATE_FOLDER
from peer.disk import FolderDisk
from peer.identity import tally_of
from peer.inner import InnerOptimizer
from peer.replica import Replica
from peer.settings import Settings
from peer.store import Recovered, Store
from protocol.errors import InputError
from protocol.ledger import PENDING_CAP_CYCLES, Ledger
from protocol.manifest import Manifest


def open_disk(directory: Path) -> FolderDisk:
    try:
        return FolderDisk(directory / STATE_FOLDER)
    except OSError as error:
        raise InputError(
            f"{directory} cannot be written: {error.strerror}; name another one with --dir"
        ) from error


def open_store(disk: FolderDisk, manifest: Manifest, settings: Settings) -> Store:
    try:
        return Store(
            disk,
            tally_of(manifest),
            new_incarnation=lambda: secrets.token_hex(8),
            keep_checkpoints=settings.keep_checkpoints,
            log_bytes=settings.log_bytes,
            checkpoint_rounds=manifest.limits.checkpoint_rounds,
        )
    except OSError as error:
        raise InputError(
            f"the log in the state directory cannot be read or written: {error}; make room, or"
            " name another directory with --dir"
        ) from error


def new_ledger(manifest: Manifest, replica: Replica) -> Ledger:
    cycle_tokens = manifest.schedule.longest_sync_every * manifest.tokens_per_step
    return Ledger(
        part_values=tuple(replica.part_values), cap_tokens=PENDING_CAP_CYCLES * cycle_tokens
    )


def resume(
    recovered: Recovered, replica: Replica, optimizer: InnerOptimizer, ledger: Ledger, me: str
) -> int:
    """Put back what an earlier life of this peer had; returns its inner steps.

    Without its private part, training begins at global_params: what was not sent is lost.
    """
    private = recovered.private
    if private is None:
        replica.begin_at(recovered.states, None)
    else:
        local = [private[f"local/{f.fragment_id}"] for f in replica.fragments]
        replica.begin_at(recovered.begun_at, local)
        for entry, parts in recovered.replayed:
            replica.advance(replica.outer_step(entry, parts, entry.contributed_parts(me)))
        replica.fold_in()
        optimizer.restore(private)
        ledger.restore(recovered.facts["ledger"])
    for entry, _ in recovered.replayed:
        ledger.decided(entry, me)
    return int(recovered.facts["step"]) if private is not None else 0
