"""SharedState: the model follows what is in force, whatever has become of who asked before."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from peer.replica import Replica
from peer.shared_state import SharedState
from peer.trainer import Trainer
from tests.peer.test_replica import advance, entry_of, random_parts
from tests.peer.test_trainer import MANIFEST, Gate, train


def shared_state(trainer: Trainer, replica: Replica) -> SharedState:
    """At genesis, with nothing around it that puts an entry on disk or fetches one."""
    share = SimpleNamespace(trainer=trainer, replica=replica, ledger=None, manifest=MANIFEST)
    recovered = SimpleNamespace(head=SimpleNamespace(round=-1), versions=[])
    return SharedState(
        me="me",
        genesis=None,  # type: ignore[arg-type]
        initial=(),
        recovered=recovered,  # type: ignore[arg-type]
        share=share,  # type: ignore[arg-type]
        scribe=None,  # type: ignore[arg-type]
        catchup=None,  # type: ignore[arg-type]
        note=print,
    )


def test_the_model_follows_after_a_request_that_was_given_up(tmp_path: Path) -> None:
    async def work(trainer: Trainer, replica: Replica, gate: Gate) -> None:
        def put_in_force(seed: int) -> None:
            parts = tuple(random_parts(replica, MANIFEST, 0, seed))
            advance(replica, entry_of(replica, 0, parts, tokens=0), parts)

        state = shared_state(trainer, replica)
        await trainer.unchanged(lambda: put_in_force(1))
        given_up = asyncio.create_task(state.fold_in())
        await asyncio.sleep(0)  # it has asked, and the step is still under way
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gate.may_end.set()
        await trainer.at_boundary(lambda: put_in_force(2))
        assert not replica.is_folded
        await state.fold_in()
        assert replica.is_folded

    train(tmp_path, work)
