"""Signals that end a command, and the clearing away that they must not cut short."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_raise() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the block like an exception does."""

    def leave(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    with _handlers(leave, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """A second Ctrl-C does not stop the clearing away; what came meanwhile takes effect after."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    came: list[int] = []
    with _handlers(lambda number, frame: came.append(number), *signals):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def _handlers(
    handler: Callable[[int, FrameType | None], object], *signals: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers, and only it gets the signals
        return
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)
