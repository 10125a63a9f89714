"""The table of `diloco-peer status`."""

import asyncio
import io

import pytest
from rich.console import Console

from peer.grpc_client import Asker
from peer.outside import Sight
from peer.status import _ask_all, _table
from protocol.wire import diloco_pb2 as pb
from tests.peer.people import security
from tests.peer.test_gathering import MANIFEST, ME, B, listening, say, told


def test_what_makes_rounds_long_is_told_of_every_peer():
    answers = [
        pb.StatusReply(state="training", rounds_in_words="link-bound: H is effectively 140"),
        pb.StatusReply(state="training"),
        "does not answer",
    ]
    announced = [told(name) for name in ("anna", "bert", "cleo")]
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(_table(announced, answers, True))
    anna, bert, cleo, *_ = console.export_text().splitlines()[1:]
    assert "training for 0 s; link-bound: H is effectively 140" in anna
    assert "training for 0 s  " in bert and "bound" not in bert
    assert "does not answer" in cleo


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1e300, 1e300])
def test_a_number_that_no_peer_can_have_is_shown_as_none(number: float):
    numbers = ("state_s", "loss", "tokens_per_s", "utilization", "up_bytes_per_s")
    answer = pb.StatusReply(state="training", **dict.fromkeys(numbers, number))
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(_table([told("anna")], [answer], True))
    row = console.export_text().splitlines()[1].split()
    assert row == ["anna", "training", "for", "-", "0", "0", "0", "-", "-", "-", "-", "0.0"]


def test_who_is_not_in_the_dht_is_shown_if_another_peer_knows_it_and_it_answers():
    async def work() -> None:
        async with listening() as (_, _, me), listening("b") as (_, _, b):
            await say("b", me, pb.HelloRequest(me=b.signed))
            await say("c", me)  # and has left
            sight = Sight(MANIFEST, [me], Asker(security("olga", MANIFEST.run_id)))
            shown, answers = await _ask_all(sight)
            assert [a.peer_id for a in shown] == [ME, B]
            assert all(isinstance(answer, pb.StatusReply) for answer in answers)

    asyncio.run(work())
