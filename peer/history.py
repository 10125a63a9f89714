"""What peers wrote down: their metrics files, read and folded up into one history per peer.

A metrics file is JSON lines, one object each with `t` (unix seconds) and `kind`. A peer that is
started again goes on in the same file with another line of kind `start`; each life of it counts
what it trained from its line of kind `train_begin`, and everything else from 0.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from protocol.errors import InputError

MBIT_BYTES = 1e6 / 8


Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, lt=1e12)]


class _Record(BaseModel):
    # Nobody vouches for a record: what is added up and divided is bounded here.
    model_config = ConfigDict(allow_inf_nan=False)

    t: Seconds


class _Start(_Record):
    run_id: str
    peer_id: str
    name: str
    up_bytes_per_s: Annotated[float, Field(gt=0)] | None
    down_bytes_per_s: Annotated[float, Field(gt=0)] | None
    manifest: dict[str, object]


class _TrainBegin(_Record):
    steps: Count = 0
    tokens: Count = 0
    """What earlier lives of the peer had done; both counters go on from there."""


class _TrainEnd(_Record):
    steps: Count
    tokens: Count
    wall_s: Seconds
    waited_s: Seconds


class _Steps(_Record):
    step: Count
    tokens: Count
    waited_s: Seconds


class _Round(_Record):
    round: int
    empty: bool


class _Traffic(_Record):
    interval_s: Annotated[float, Field(ge=1e-3, le=1.0)]
    up: list[Count]
    down: list[Count]
    up_total: Count
    down_total: Count

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.up) != len(self.down):
            raise ValueError("up and down must be equally long")
        return self


class Heldout(_Record):
    round: int
    tokens: Count
    loss: Annotated[float, AllowInfNan(True)]
    """NaN when it was not finite, which JSON cannot say."""
    batches: int

    @field_validator("loss", mode="before")
    @classmethod
    def _null_is_nan(cls, loss: object) -> object:
        return math.nan if loss is None or loss in (math.inf, -math.inf) else loss


_KINDS: dict[str, type[_Record]] = {
    "start": _Start,
    "train_begin": _TrainBegin,
    "train_end": _TrainEnd,
    "steps": _Steps,
    "round": _Round,
    "traffic": _Traffic,
    "heldout": Heldout,
}


@dataclass(slots=True)
class PeerHistory:
    """One metrics file, folded up."""

    start: _Start
    """The last one, when the peer was started several times."""
    steps: int = 0
    tokens: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)
    """(begin, end) of training in unix seconds, one for each time that it was started."""
    waited_s: float = 0.0
    rounds: dict[int, bool] = field(default_factory=dict)
    """Whether each round was empty."""
    heldout: list[Heldout] = field(default_factory=list)
    traffic: list[_Traffic] = field(default_factory=list)
    sent_bytes: int = 0
    received_bytes: int = 0

    def windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(begin in unix seconds, up, down in mbit/s) of every traffic window, in order."""
        times: list[NDArray[np.float64]] = [np.empty(0)]
        up, down = list(times), list(times)
        for record in self.traffic:
            count = len(record.up)
            times.append(record.t - record.interval_s * np.arange(count, 0, -1, dtype=np.float64))
            up.append(np.array(record.up) / record.interval_s / MBIT_BYTES)
            down.append(np.array(record.down) / record.interval_s / MBIT_BYTES)
        return np.concatenate(times), np.concatenate(up), np.concatenate(down)


def read_histories(metrics: Sequence[Path]) -> list[PeerHistory]:
    """Read the files of one run, one per peer.

    Raises:
        InputError: a file cannot be read, a line of it is malformed, or the runs differ.
    """
    if not metrics:
        raise InputError("a report needs at least one metrics file")
    histories = [_read(path) for path in metrics]
    for path, history in zip(metrics, histories, strict=True):
        if history.start.run_id != histories[0].start.run_id:
            raise InputError(
                f"{path} is of run {history.start.run_id[:8]}, but {metrics[0]} is of run"
                f" {histories[0].start.run_id[:8]}; give the files of one run"
            )
    return histories


def _read(path: Path) -> PeerHistory:
    sessions: list[list[_Record]] = []
    for record in _records(path):
        if isinstance(record, _Start):
            sessions.append([])
        elif not sessions:
            raise InputError(f"{path} does not begin with a line of kind 'start'")
        sessions[-1].append(record)
    if not sessions:
        raise InputError(f"{path} is empty: it is not a peer's metrics file")
    first = sessions[0][0]
    assert isinstance(first, _Start)
    history = PeerHistory(first)
    for session in sessions:
        _fold_session(history, session)
    return history


def _fold_session(history: PeerHistory, session: list[_Record]) -> None:
    """Add what one process of the peer wrote. One that was killed has no train_end."""
    begin_s, end_s, waited_s = None, 0.0, 0.0
    first_steps = first_tokens = steps = tokens = 0
    traffic = [record for record in session if isinstance(record, _Traffic)]
    for record in session:
        match record:
            case _Start():
                history.start = record
            case _TrainBegin():
                begin_s = end_s = record.t
                first_steps, first_tokens = steps, tokens = record.steps, record.tokens
            case _Steps():
                steps, tokens = record.step, record.tokens
                end_s, waited_s = record.t, record.waited_s
            case _TrainEnd():
                steps, tokens = record.steps, record.tokens
                end_s, waited_s = (begin_s or 0.0) + record.wall_s, record.waited_s
            case _Round():
                history.rounds[record.round] = record.empty
            case Heldout():
                history.heldout.append(record)
    if begin_s is not None:
        history.spans.append((begin_s, end_s))
        history.waited_s += waited_s
    history.steps += steps - first_steps
    history.tokens += tokens - first_tokens
    history.traffic += traffic
    if traffic:
        history.sent_bytes += traffic[-1].up_total
        history.received_bytes += traffic[-1].down_total


def _records(path: Path) -> Iterator[_Record]:
    """Every line that the report needs; a last line that a killed process left torn is not one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}): name the directory of a peer that has trained"
        ) from error
    *lines, torn = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = _parse(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is malformed: {_first_line(error)}") from error
        if record is not None:
            yield record
    # What has no line end was being written when the process was killed. It may be whole though.
    with contextlib.suppress(ValueError, RecursionError):
        if (record := _parse(torn)) is not None:
            yield record


def _parse(line: bytes) -> _Record | None:
    """None: a kind that the report does not need. Raises ValueError."""
    raw = json.loads(line)
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("not an object with a kind")
    kind = _KINDS.get(raw["kind"], _Record)
    record = kind.model_validate(raw)
    return None if kind is _Record else record


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error)


def merged_rounds(histories: Sequence[PeerHistory]) -> dict[int, bool]:
    """Whether each round was empty. A round has one entry, so all who saw it say the same."""
    return {round_: empty for history in histories for round_, empty in history.rounds.items()}


def merged_heldout(histories: Sequence[PeerHistory]) -> list[Heldout]:
    """One evaluation per round, in order: the one over the most batches, then the first.

    global_params are the same on every peer, so whose evaluation it is does not matter.
    """
    best: dict[int, Heldout] = {}
    for record in sorted((r for history in histories for r in history.heldout), key=lambda r: r.t):
        if record.round not in best or record.batches > best[record.round].batches:
            best[record.round] = record
    return [best[round_] for round_ in sorted(best)]
