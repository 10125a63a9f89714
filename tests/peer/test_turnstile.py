"""One caller's share of a peer: so many calls at once, and so often."""

from contextlib import ExitStack, suppress

import pytest

from peer.turnstile import BURST, CALLS_PER_S, MAX_CALLERS, MAX_OPEN, Turnstile
from protocol.errors import RemoteError


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_caller_has_so_many_calls_at_once_and_takes_none_from_others():
    turnstile = Turnstile(Clock())
    with ExitStack() as calls:
        for _ in range(MAX_OPEN):
            calls.enter_context(turnstile.enter("greedy"))
        with pytest.raises(RemoteError, match="at once"), turnstile.enter("greedy"):
            pass
        with turnstile.enter("modest"):
            pass
    with turnstile.enter("greedy"):
        pass


def test_a_caller_may_call_so_often_and_again_later():
    clock = Clock()
    turnstile = Turnstile(clock)

    def calls() -> int:
        count = 0
        with suppress(RemoteError):
            while True:
                with turnstile.enter("busy"):
                    count += 1
        return count

    assert calls() == BURST
    clock.now_s += 2.0
    assert calls() == 2 * CALLS_PER_S
    with turnstile.enter("other"):
        pass
    clock.now_s += 1e6
    assert calls() == BURST


def test_a_call_that_fails_is_over():
    turnstile = Turnstile(Clock())
    for _ in range(2 * MAX_OPEN):
        with pytest.raises(ValueError, match="broken"), turnstile.enter("unlucky"):
            raise ValueError("broken")


def test_callers_without_end_take_no_memory_and_those_that_call_are_kept():
    clock = Clock()
    turnstile = Turnstile(clock)
    with turnstile.enter("here"):
        for number in range(3 * MAX_CALLERS):
            clock.now_s += 0.001
            with turnstile.enter(f"stranger {number}"):
                pass
            assert len(turnstile._callers) <= MAX_CALLERS
        assert "here" in turnstile._callers
