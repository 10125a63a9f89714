"""What a peer shows of itself: to its person on the live view, to others who ask for its status."""

import math
import time
from collections import deque

from peer.gathering import Gathering
from peer.metrics import Metrics
from peer.rounds import RoundDriver
from peer.settings import Settings
from peer.trainer import Progress, Trainer
from peer.view import MemberView, PeerView, TrafficView
from peer.watch import TrafficWatch
from protocol.manifest import Manifest
from protocol.messages import Decided
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_CONTROL_BYTES, encode_message

KEPT_NOTES = 8
GATHERING = "gathering"
PRESENT = ("contributed", "live", "following", "behind")
"""What is said of a peer that nothing is wrong with."""
GOING = ("leaving", "finishing", "done")


class Board:
    """The pieces of a running peer, as far as they are there, put into words and numbers."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.peer_id = ""
        self.manifest: Manifest | None = None
        self.gathering: Gathering | None = None
        self.driver: RoundDriver | None = None
        self.trainer: Trainer | None = None
        self.watch: TrafficWatch | None = None
        self.record: Metrics | None = None
        self.heldout_loss: float | None = None
        self._settings = settings
        self._notes: deque[str] = deque(maxlen=KEPT_NOTES)
        self._state = "starting"
        self._state_since_s = time.monotonic()

    def note(self, text: str) -> None:
        """Something that happened, in a sentence."""
        self._notes.append(text)
        if self.record is not None:
            self.record.write("note", text=text)

    def end_record(self) -> None:
        """Notes are only shown from now on."""
        self.record = None

    def be(self, state: str) -> None:
        """What the peer is doing from now on."""
        if state != self._state:
            self._state, self._state_since_s = state, time.monotonic()

    def name_state(self) -> None:
        """Put what the rounds are doing into words, unless the peer is already going."""
        if self.driver is None or self._state in GOING:
            return
        member, catchup = self.driver.member, self.driver.catchup
        if member.standing == "forked":
            self.be("forked")
        elif self.driver.is_new and catchup.is_away and not member.live:
            self.be("looking for peers")
        elif catchup.progress is not None:
            self.be("downloading")
        elif member.standing == "restoring" or catchup.is_away or member.entries_behind > 1:
            self.be("catching up")
        elif member.lacks_quorum:
            self.be("alone" if member.is_alone else "minority")
        elif member.round >= self.driver.manifest.schedule.training_rounds:
            self.be("draining")
        else:
            self.be("training" if member.trains else "following")

    @property
    def progress(self) -> Progress | None:
        """Of the trainer; None before its first step."""
        return self.trainer.progress if self.trainer and self.trainer.progress.step else None

    @property
    def utilization(self) -> float | None:
        """1 - time the trainer waited for the network / wall time of training."""
        if self.progress is None or not self.progress.trained_s:
            return None
        return 1 - self.progress.waited_s / self.progress.trained_s

    def view(self) -> PeerView:
        """Everything on the live view, as far as it is known."""
        manifest, driver, progress, watch = self.manifest, self.driver, self.progress, self.watch
        round_ = driver.member.round if driver and not driver.member.is_finished else None
        return PeerView(
            run_name=manifest.name if manifest else "",
            run_id=manifest.run_id if manifest else "",
            name=self.name,
            peer_id=self.peer_id,
            state=self._state,
            state_in_words=self._state_in_words(),
            state_s=time.monotonic() - self._state_since_s,
            step=progress.step if progress else 0,
            position=self._position(),
            total_steps=manifest.total_steps if manifest else 0,
            round=round_,
            fragment_id=manifest.schedule.fragment_of(round_)
            if manifest and round_ is not None
            else None,
            num_fragments=manifest.sync.num_fragments if manifest else 0,
            loss=progress.loss if progress and not math.isnan(progress.loss) else None,
            learning_rate=progress.learning_rate if progress else None,
            tokens_per_s=(
                progress.pace_steps_per_s * manifest.tokens_per_step
                if progress and manifest
                else None
            ),
            utilization=self.utilization,
            heldout_loss=self.heldout_loss,
            rounds_committed=driver.record.counts.committed if driver else 0,
            rounds_empty=driver.record.counts.empty if driver else 0,
            rounds_in_words=driver.record.in_effect.in_words if driver else "",
            up=_traffic_view(
                watch.up_bytes_per_s if watch else 0.0,
                watch.peak_up_bytes_per_s if watch else 0.0,
                self._settings.up_bytes_per_s,
            ),
            down=_traffic_view(
                watch.down_bytes_per_s if watch else 0.0,
                watch.peak_down_bytes_per_s if watch else 0.0,
                self._settings.down_bytes_per_s,
            ),
            members=self._member_views(),
            notes=tuple(self._notes),
        )

    def _state_in_words(self) -> str:
        if self._state == GATHERING and self.gathering is not None:
            return self._gathering_in_words(self.gathering)
        if self.driver is None:
            return self._state
        progress, behind = self.driver.catchup.progress, self.driver.member.entries_behind
        if self._state == "downloading" and progress is not None:
            done_mb, total_mb = progress.done_bytes / 1e6, progress.total_bytes / 1e6
            return f"downloading {done_mb:.0f} of {total_mb:.0f} MB"
        if self._state == "catching up" and behind:
            return f"catching up: {behind} {'entry' if behind == 1 else 'entries'} behind"
        return self._state

    def _gathering_in_words(self, gathering: Gathering) -> str:
        if gathering.genesis is not None:
            return "beginning"
        if self._settings.manifest is None and not gathering.present:
            return "looking for peers"
        awaited = gathering.awaited
        if not awaited:
            return "waiting for the founder to begin"
        return f"waiting for {awaited} more peer{'s' * (awaited > 1)}"

    def _position(self) -> int:
        """How far the swarm is in the schedule; a peer's own steps say that only in lockstep."""
        if self.driver is None or self.trainer is None:
            return 0
        return self.driver.position(self.trainer.progress.step + 1)

    def _member_views(self) -> tuple[MemberView, ...]:
        if self.driver is None or self.gathering is None:
            return ()
        names, member = self.gathering.names(), self.driver.member
        paces = dict(self.driver.last_group)
        own = "live" if member.trains else "following"
        states = {**member.peer_states(), self.peer_id: own}
        states |= dict.fromkeys(states.keys() & member.head.contributors, "contributed")
        return tuple(
            MemberView(
                name=names.get(peer, peer[:8]),
                peer_id=peer,
                state=state,
                is_missing=state not in PRESENT,
                steps_per_s=paces.get(peer),
                rtt_ms=None,
            )
            for peer, state in sorted(states.items())
        )

    async def log(self, count: int) -> pb.LogReply:
        """The newest entries, for `diloco-peer log` of somebody else."""
        reply, driver = pb.LogReply(), self.driver
        if driver is None:
            return reply
        book, head = driver.scribe.store.book, driver.member.head.round
        entries = await driver.scribe.ask(lambda: book.after(max(head - count, -1), count))
        for decided in entries:
            line = log_line(decided, driver)
            if reply.ByteSize() + line.ByteSize() > MAX_CONTROL_BYTES:
                break
            reply.lines.append(line)
        return reply

    def status(self) -> pb.StatusReply:
        """The same, for `diloco-peer status` of somebody else."""
        view, driver = self.view(), self.driver
        return pb.StatusReply(
            peer_id=view.peer_id,
            name=view.name,
            run_name=view.run_name,
            state=view.state_in_words,
            step=view.step,
            total_steps=view.total_steps,
            round=driver.member.round if driver else -1,
            head=driver.member.head.digest if driver else "",
            loss=math.nan if view.loss is None else view.loss,
            tokens_per_s=view.tokens_per_s or 0.0,
            utilization=math.nan if view.utilization is None else view.utilization,
            rounds_committed=view.rounds_committed,
            rounds_empty=view.rounds_empty,
            rounds_in_words=view.rounds_in_words,
            up_bytes_per_s=view.up.now_mbit * 1e6 / 8,
            down_bytes_per_s=view.down.now_mbit * 1e6 / 8,
            state_s=view.state_s,
            term=driver.member.head.term if driver else 0,
            group=[member.peer_id for member in view.members if not member.is_missing],
        )


def log_line(decided: Decided, driver: RoundDriver) -> pb.LogLine:
    """An entry, and how this peer saw its round."""
    entry, seen = decided.entry, driver.record.seen.get(decided.round)
    sizes = map(driver.manifest.codec.encoded_bytes, driver.replica.part_values[entry.fragment_id])
    line = pb.LogLine(
        decided=encode_message(decided).decided,
        part_bytes=sum(s for s, part in zip(sizes, entry.parts, strict=True) if part is not None),
    )
    if seen is not None:
        line.ready_s, line.exchange_s = seen.ready_s, seen.exchange_s
        line.apply_s, line.resent_bytes = seen.apply_s, seen.resent_bytes
    return line


def _traffic_view(now: float, peak: float, cap: float | None) -> TrafficView:
    return TrafficView(
        now_mbit=_mbit(now), peak_mbit=_mbit(peak), cap_mbit=None if cap is None else _mbit(cap)
    )


def _mbit(bytes_per_s: float) -> float:
    return bytes_per_s * 8 / 1e6
