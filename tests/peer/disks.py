"""Both disks, and what can happen to them, for tests of everything that is stored."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from peer.disk import Disk, FolderDisk
from tests.sim.disk import SimDisk


def make_disk(kind: str, folder: Path) -> Disk:
    return SimDisk() if kind == "simulated" else FolderDisk(folder)


def flip_bit(disk: Disk, name: str, bit: int) -> None:
    """Flip one bit of a file, counted from its start and around its end."""
    data = bytearray(disk.read(name))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    disk.replace(name, [bytes(data)])


def tear(disk: Disk, name: str, size: int) -> None:
    """Leave only the first `size` bytes of a file."""
    disk.replace(name, [disk.read_at(name, 0, size)])


@contextlib.contextmanager
def full(disk: Disk) -> Iterator[None]:
    """No room for any write inside the block."""
    if isinstance(disk, SimDisk):
        disk.is_full = True
        yield
        disk.is_full = False
    else:
        error = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(os, "fsync", side_effect=error):
            yield
