"""Before the first round: newcomers find the run, the founder counts them and signs the genesis.

A newcomer says hello to every peer that it hears of, again and again, until one of them shows a
genesis. The founder lists as voters the first `start_peers` peers that keep saying hello.
"""

import asyncio
import time
from collections.abc import Callable

from peer.discovery import Discovery
from peer.grpc_transport import Desk, ask_hello
from peer.identity import Identity, check_genesis
from protocol.errors import InputError, ManifestError, RemoteError, UnavailableError
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

HELLO_EVERY_S = 0.25
LOOK_EVERY_S = 3.0
FORGET_AFTER_S = 5.0
FIND_S = 20.0
"""How long a newcomer looks for somebody who answers, before it gives up with a reason."""
MAX_PEERS_TOLD = 256


def check_announcement(announcement: pb.Announcement) -> pb.Announcement:
    """Bound what a stranger says about itself; raises RemoteError."""
    host, _, port = announcement.address.rpartition(":")
    fits = (
        len(announcement.peer_id) == 52
        and len(announcement.name) <= 64
        and 0 < len(host) <= 255
        and port.isdigit()
        and 0 < int(port) < 65536
    )
    if not fits:
        raise RemoteError(announcement.peer_id, "a malformed announcement")
    return announcement


class Gathering(Desk):
    """Who is there. Answers every hello, also after genesis."""

    def __init__(
        self, manifest: Manifest, me: pb.Announcement, status: Callable[[], pb.StatusReply]
    ) -> None:
        self._manifest = manifest
        self._me = me
        self._status = status
        self._heard_s: dict[str, float] = {}
        self._announcements: dict[str, pb.Announcement] = {me.peer_id: me}
        self._signed: pb.SignedGenesis | None = None
        self.genesis: Genesis | None = None

    @property
    def present(self) -> list[str]:
        """Peers that said hello within the last seconds, in the order they came."""
        now_s = time.monotonic()
        for peer in [p for p, heard_s in self._heard_s.items() if now_s - heard_s > FORGET_AFTER_S]:
            del self._heard_s[peer]
        return list(self._heard_s)

    def addresses(self) -> dict[str, str]:
        """gRPC addresses of everybody else heard of."""
        return {
            peer: announcement.address
            for peer, announcement in self._announcements.items()
            if peer != self._me.peer_id
        }

    def names(self) -> dict[str, str]:
        return {peer: a.name or peer[:8] for peer, a in self._announcements.items()}

    # --- answering -------------------------------------------------------------------------------

    async def hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        reply = pb.HelloReply(
            run_id=self._manifest.run_id,
            manifest=self._manifest.to_bytes(),
            genesis=self._signed,
            peers=list(self._announcements.values())[:MAX_PEERS_TOLD],
        )
        if request.run_id and request.run_id != self._manifest.run_id:
            reply.refusal = f"this is run {self._manifest.run_id}, not {request.run_id}"
        elif request.HasField("me"):
            reply.refusal = self._register(request.me)
        return reply

    def status(self) -> pb.StatusReply:
        return self._status()

    def _register(self, announcement: pb.Announcement) -> str:
        """Note a newcomer; returns why it cannot take part, or nothing."""
        peer_id = check_announcement(announcement).peer_id
        if self.genesis is not None:
            if peer_id in self.genesis.voters:
                return ""
            return (
                f"run {self._manifest.name} has begun with {len(self.genesis.voters)} peers, and"
                " joining in mid-run is not possible yet: it comes with the next version"
            )
        if len(self._announcements) >= self._manifest.limits.max_peers:
            return f"run {self._manifest.name} is full"
        self._heard_s[peer_id] = time.monotonic()
        self._announcements[peer_id] = announcement
        return ""

    def adopt(self, reply: pb.HelloReply, signed_by: str) -> None:
        """Take over what another peer's answer says about the others, and its genesis."""
        for announcement in reply.peers[:MAX_PEERS_TOLD]:
            self._announcements.setdefault(check_announcement(announcement).peer_id, announcement)
        if reply.HasField("genesis") and self.genesis is None:
            self.genesis = check_genesis(signed_by, reply.genesis, self._manifest.run_id)
            self._signed = reply.genesis

    # --- waiting for genesis ---------------------------------------------------------------------

    async def found(self, identity: Identity, state_digest: str) -> Genesis:
        """As the founder: wait until everybody is there, then sign the genesis."""
        others = self._manifest.start_peers - 1
        while len(self.present) < others:
            await asyncio.sleep(0.1)
        voters = sorted([identity.peer_id, *self.present[:others]])
        self.genesis = Genesis(
            run_id=self._manifest.run_id,
            founder=identity.peer_id,
            voters=tuple(voters),
            tie_breaker=identity.peer_id,
            state_digest=state_digest,
        )
        self._signed = identity.sign_genesis(self.genesis)
        return self.genesis

    async def join(self, discovery: Discovery) -> Genesis:
        """As a newcomer: say hello to everybody until the genesis is there.

        Raises:
            InputError: the run does not take this peer.
            UnavailableError: nobody answered for FIND_S.
        """
        answered_s, looked_s = time.monotonic(), 0.0
        request = pb.HelloRequest(run_id=self._manifest.run_id, me=self._me)
        while self.genesis is None:
            if time.monotonic() - looked_s > LOOK_EVERY_S:
                looked_s = time.monotonic()
                for announcement in await discovery.peers(self._manifest.run_id):
                    self._announcements.setdefault(announcement.peer_id, announcement)
            addresses = list(self.addresses().values())
            replies = await asyncio.gather(*(_hello(address, request) for address in addresses))
            for address, reply in zip(addresses, replies, strict=True):
                if reply is None:
                    continue
                answered_s = time.monotonic()
                self.adopt(reply, address)
                if reply.refusal:
                    raise InputError(reply.refusal)
            if time.monotonic() - answered_s > FIND_S:
                raise UnavailableError(
                    f"nobody of run {self._manifest.run_id[:12]} has answered for {FIND_S:.0f} s:"
                    " are its peers still running?"
                )
            if self.genesis is None:
                await asyncio.sleep(HELLO_EVERY_S)
        if self._me.peer_id not in self.genesis.voters:
            raise InputError(
                f"run {self._manifest.name} began without this peer; joining in mid-run comes with"
                " the next version"
            )
        return self.genesis


async def _hello(address: str, request: pb.HelloRequest) -> pb.HelloReply | None:
    """The answer, or None when there is none this time."""
    try:
        return await ask_hello(address, request)
    except UnavailableError:
        return None


async def find_run(discovery: Discovery, wanted: str | None) -> Manifest:
    """The manifest of the run to join, checked against its id.

    Args:
        wanted: the run_id, or the beginning of one; None takes the only run that is announced.

    Raises:
        InputError: there is no such run, several, or its manifest does not match its id.
        UnavailableError: the run is announced and nobody answers.
    """
    deadline_s = time.monotonic() + FIND_S
    why = "no run is announced there"
    while True:
        run_ids = [run for run in await discovery.runs() if run.startswith(wanted or "")]
        if len(run_ids) > 1:
            raise InputError(
                "several runs are announced there; choose one with --run: " + ", ".join(run_ids)
            )
        if run_ids:
            run_id = run_ids[0]
            for address in [a.address for a in await discovery.peers(run_id)]:
                try:
                    reply = await ask_hello(address, pb.HelloRequest(run_id=run_id))
                except UnavailableError as error:
                    why = f"run {run_id[:12]} is at {address}, which cannot be reached: {error}"
                    continue
                return check_manifest(reply, run_id)
        elif wanted and (others := await discovery.runs()):
            raise InputError(
                f"--run {wanted} is not what the initial peers announce: {', '.join(others)}"
            )
        if time.monotonic() > deadline_s:
            raise UnavailableError(why)
        await asyncio.sleep(HELLO_EVERY_S)


def check_manifest(reply: pb.HelloReply, run_id: str) -> Manifest:
    """The manifest in a reply; raises InputError when it is not the run's."""
    try:
        manifest = Manifest.from_bytes(reply.manifest)
    except ManifestError as error:
        raise InputError(f"a peer of run {run_id[:12]} sent a wrong manifest: {error}") from error
    if manifest.run_id != run_id:
        raise InputError(
            f"a peer of run {run_id[:12]} sent the manifest of run {manifest.run_id[:12]}: it was"
            " tampered with, or the address belongs to another run"
        )
    return manifest
