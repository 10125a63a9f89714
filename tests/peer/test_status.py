"""The table of `diloco-peer status`."""

import io

from rich.console import Console

from peer.status import _table
from protocol.wire import diloco_pb2 as pb


def test_what_makes_rounds_long_is_told_of_every_peer():
    answers = [
        pb.StatusReply(state="training", rounds_in_words="link-bound: H is effectively 140"),
        pb.StatusReply(state="training"),
        "does not answer",
    ]
    announced = [pb.Announcement(name=name) for name in ("anna", "bert", "cleo")]
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(_table(announced, answers, True))
    anna, bert, cleo, *_ = console.export_text().splitlines()[1:]
    assert "training for 0 s; link-bound: H is effectively 140" in anna
    assert "training for 0 s  " in bert and "bound" not in bert
    assert "does not answer" in cleo
