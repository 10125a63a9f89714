"""Who is there: newcomers find the run, the founder signs its genesis, and peers keep meeting.

Before genesis a newcomer says hello to every peer that it hears of, again and again, until one of
them shows a genesis. The founder lists as voters the first `start_peers` peers that keep saying
hello. From then on everybody says hello, once, to whomever it has not met at that address: both
sides of a hello know each other, and exchange whom else they know.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

from peer.contact import Contact, Introduction, read_contact
from peer.discovery import REFRESH_S, Discovery
from peer.grpc_client import ask_hello
from peer.identity import Identity, check_genesis
from protocol.errors import InputError, ManifestError, RemoteError, UnavailableError
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

HELLO_EVERY_S = 0.25
LOOK_EVERY_S = 3.0
MEET_EVERY_S = 2.0
"""Between two hellos to a peer that does not answer."""
FORGET_AFTER_S = 5.0
FIND_S = 20.0
"""How long a newcomer waits for somebody who answers, before it gives up with a reason."""
LOOK_S = 8.0
"""How long it looks for a run: whoever prints an address has announced its run already."""
MAX_PEERS_KNOWN = 256
MAX_LOG_LINES = 200


class Gathering:
    """Who is there. Answers every hello, also after genesis (a `Desk` of the server)."""

    def __init__(
        self,
        manifest: Manifest,
        me: Introduction,
        status: Callable[[], pb.StatusReply],
        log: Callable[[int], Awaitable[pb.LogReply]],
    ) -> None:
        self._manifest = manifest
        self.me = me
        """Said to everybody; whoever listens adds the address."""
        self._status = status
        self._log = log
        self._heard_s: dict[str, float] = {}
        self._contacts: dict[str, Contact] = {}
        """Of everybody else heard of."""
        self.signed: pb.SignedGenesis | None = None
        self.genesis: Genesis | None = None
        self._met: dict[str, str] = {}
        """Addresses at which a hello went through, in either direction."""
        self._on_met: Callable[[str, str], None] = lambda peer_id, address: None

    @property
    def present(self) -> list[str]:
        """Peers that said hello within the last seconds, in the order they came."""
        now_s = time.monotonic()
        for peer in [p for p, heard_s in self._heard_s.items() if now_s - heard_s > FORGET_AFTER_S]:
            del self._heard_s[peer]
        return list(self._heard_s)

    @property
    def awaited(self) -> int:
        """How many peers are not there yet, as far as this one has heard."""
        return max(0, self._manifest.start_peers - 1 - len(self.present))

    def addresses(self) -> dict[str, str]:
        """gRPC addresses of everybody else heard of."""
        return {peer: contact.address for peer, contact in self._contacts.items()}

    def names(self) -> dict[str, str]:
        named = {peer: contact.name for peer, contact in self._contacts.items()}
        named[self.me.peer_id] = self.me.name
        return {peer: name or peer[:8] for peer, name in named.items()}

    # --- answering -------------------------------------------------------------------------------

    async def hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        reply = pb.HelloReply(
            run_id=self._manifest.run_id,
            manifest=self._manifest.to_bytes(),
            genesis=self.signed,
            peers=[c.signed for c in (self.me.contact(), *self._contacts.values())],
        )
        if request.run_id and request.run_id != self._manifest.run_id:
            reply.refusal = f"this is run {self._manifest.run_id}, not {request.run_id}"
        elif request.HasField("me"):
            contact = read_contact(request.me, self._manifest.run_id, "")
            contact.refuse_stale(time.time(), contact.peer_id)
            reply.refusal = self._register(contact)
        return reply

    def status(self) -> pb.StatusReply:
        return self._status()

    async def log(self, request: pb.LogRequest) -> pb.LogReply:
        if not 0 < request.count <= MAX_LOG_LINES:
            raise RemoteError("", "asked for no entries, or for too many")
        return await self._log(request.count)

    def _register(self, contact: Contact) -> str:
        """Note a newcomer; returns why it cannot take part, or nothing."""
        peer_id = contact.peer_id
        if peer_id == self.me.peer_id:
            return "a peer with this identity is running already: give each peer a --dir of its own"
        if self.genesis is not None:
            if self._manifest.mode == "lockstep" and peer_id not in self.genesis.voters:
                return too_late(self._manifest, self.genesis)
            self._note(contact)
            self._meet(peer_id)
            return ""
        if peer_id not in self.present and 1 + len(self.present) >= self._manifest.limits.max_peers:
            return f"run {self._manifest.name} is full: it takes limits.max_peers peers"
        self._note(contact)
        self._heard_s[peer_id] = time.monotonic()
        return ""

    def _note(self, contact: Contact) -> None:
        """Know a peer, or its new address. There is an end to whom strangers can make us know."""
        peer_id, known = contact.peer_id, self._contacts.get(contact.peer_id)
        if peer_id == self.me.peer_id or (known and known.signed_s >= contact.signed_s):
            return
        if known is None and len(self._contacts) >= MAX_PEERS_KNOWN:
            present = self.present
            stranger = next((p for p in self._contacts if p not in present), None)
            if stranger is None:
                return
            del self._contacts[stranger]
        self._contacts[peer_id] = contact

    def adopt(self, reply: pb.HelloReply, signed_by: str) -> None:
        """Take over what another peer's answer says about the others, and its genesis.

        Raises:
            RemoteError: a part of it is malformed, or the genesis is not signed.
        """
        for signed in reply.peers[:MAX_PEERS_KNOWN]:
            self._note(read_contact(signed, self._manifest.run_id, signed_by))
        if reply.HasField("genesis") and self.genesis is None:
            self.genesis = check_genesis(signed_by, reply.genesis, self._manifest.run_id)
            self.signed = reply.genesis

    def _meet(self, peer_id: str) -> None:
        """Dial it where the newest that it said leads, if it is known at all."""
        address = self.addresses().get(peer_id)
        if address is not None and self._met.get(peer_id) != address:
            self._met[peer_id] = address
            self._on_met(peer_id, address)

    def contacts(self) -> list[Contact]:
        """Of everybody else heard of."""
        return list(self._contacts.values())

    def resume(self, signed: pb.SignedGenesis, others: Iterable[Contact]) -> Genesis:
        """This peer was in the run before: go on from its genesis, with whom it knew.

        Raises:
            RemoteError: the genesis is not this run's.
        """
        self.genesis = check_genesis(self.me.peer_id, signed, self._manifest.run_id)
        self.signed = signed
        for contact in others:
            self._note(contact)
        return self.genesis

    # --- after genesis ---------------------------------------------------------------------------

    def greet(self, on_met: Callable[[str, str], None]) -> None:
        """From now on `on_met` hears of every peer that can be dialled, with its address."""
        self._on_met = on_met
        for peer_id, address in self._met.items():
            on_met(peer_id, address)

    async def keep_meeting(self, discovery: Discovery) -> None:
        """Say hello to everybody who is not met yet, and look in the DHT for more; without end."""
        looked_s = float("-inf")
        while True:
            request = self._request()
            if time.monotonic() - looked_s > REFRESH_S:
                looked_s = time.monotonic()
                await self._look(discovery)
            unmet = {p: a for p, a in self.addresses().items() if self._met.get(p) != a}
            replies = await asyncio.gather(*(_hello(a, request) for a in unmet.values()))
            for (peer_id, address), reply in zip(unmet.items(), replies, strict=True):
                if reply is not None and not reply.refusal:
                    with contextlib.suppress(RemoteError):
                        self.adopt(reply, peer_id)
                    if self.addresses().get(peer_id) == address:
                        self._meet(peer_id)
            await asyncio.sleep(MEET_EVERY_S)

    # --- waiting for genesis ---------------------------------------------------------------------

    async def found(self, identity: Identity, state_digest: str) -> Genesis:
        """As the founder: wait until everybody is there, then sign the genesis."""
        others = self._manifest.start_peers - 1
        while len(self.present) < others:
            await asyncio.sleep(0.1)
        voters = sorted([identity.peer_id, *self.present[:others]])
        incarnations = {peer: contact.incarnation for peer, contact in self._contacts.items()}
        incarnations[identity.peer_id] = self.me.incarnation
        self.genesis = Genesis(
            run_id=self._manifest.run_id,
            founder=identity.peer_id,
            voters=tuple(voters),
            incarnations=tuple(incarnations[voter] for voter in voters),
            tie_breaker=identity.peer_id,
            state_digest=state_digest,
        )
        self.signed = identity.sign_genesis(self.genesis)
        return self.genesis

    async def join(self, discovery: Discovery) -> Genesis:
        """As a newcomer: say hello to everybody until the genesis is there.

        Raises:
            InputError: the run does not take this peer.
            UnavailableError: nobody answered for FIND_S.
        """
        answered_s = time.monotonic()
        request = self._request()
        # One call for each peer at a time: an address where nobody answers holds up no other.
        calls: dict[str, asyncio.Task[pb.HelloReply | None]] = {}
        looking = asyncio.create_task(self._keep_looking(discovery))
        try:
            while self.genesis is None:
                for peer_id, address in self.addresses().items():
                    if peer_id not in calls:
                        calls[peer_id] = asyncio.create_task(_hello(address, request))
                await asyncio.sleep(HELLO_EVERY_S)
                for peer_id in [peer_id for peer_id, call in calls.items() if call.done()]:
                    if self._hear(peer_id, calls.pop(peer_id).result()):
                        answered_s = time.monotonic()
                if time.monotonic() - answered_s > FIND_S:
                    raise UnavailableError(
                        f"nobody of run {self._manifest.run_id[:12]} has answered for"
                        f" {FIND_S:.0f} s: check that its peers are still running"
                    )
        finally:
            for task in (looking, *calls.values()):
                task.cancel()
        if self._manifest.mode == "lockstep" and self.me.peer_id not in self.genesis.voters:
            raise InputError(too_late(self._manifest, self.genesis))
        return self.genesis

    def _hear(self, peer_id: str, reply: pb.HelloReply | None) -> bool:
        """Take a peer's answer; False when there was none. Raises InputError when it refuses."""
        if reply is None:
            return False
        if reply.refusal:
            raise InputError(one_line(reply.refusal))
        try:
            self.adopt(reply, peer_id)
        except RemoteError:
            # One peer that talks nonsense must not keep this one from all the others.
            return False
        self._heard_s[peer_id] = time.monotonic()
        return True

    async def _keep_looking(self, discovery: Discovery) -> None:
        """Ask the DHT who is there. It is a hint: without it, whoever is known knows the others."""
        while True:
            await self._look(discovery)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, discovery: Discovery) -> None:
        with contextlib.suppress(UnavailableError):
            for contact in await discovery.peers(self._manifest.run_id):
                self._note(contact)

    def _request(self) -> pb.HelloRequest:
        return pb.HelloRequest(run_id=self._manifest.run_id, me=self.me.contact().signed)


async def _hello(address: str, request: pb.HelloRequest) -> pb.HelloReply | None:
    """The answer, or None when there is none this time."""
    try:
        return await ask_hello(address, request)
    except (UnavailableError, RemoteError):
        return None


async def find_run(discovery: Discovery, wanted: str | None, me: str | None = None) -> Manifest:
    """The manifest of the run to join, checked against its id.

    Args:
        wanted: the run_id, or the beginning of one; None takes the only run that is announced.
        me: the peer that would join; None only looks.

    Raises:
        InputError: there is no such run, several, its manifest does not match its id, or it is in
            lockstep mode and has begun.
        UnavailableError: the run is announced and nobody answers.
    """
    deadline_s = time.monotonic() + LOOK_S
    while True:
        try:
            return await _find_run(discovery, wanted, me)
        except UnavailableError:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(HELLO_EVERY_S)


async def _find_run(discovery: Discovery, wanted: str | None, me: str | None) -> Manifest:
    """One look; raises UnavailableError when another one may find more."""
    announced = await discovery.runs()
    if not announced:
        raise UnavailableError(
            "the initial peers answer, but no run is announced there: found one with --manifest, or"
            " take the address that a peer of the run printed"
        )
    run_ids = [run for run in announced if run.startswith(wanted or "")]
    if not run_ids:
        raise InputError(
            f"--run {wanted} is not what the initial peers announce ({', '.join(announced)}):"
            " correct it, or leave it out"
        )
    if len(run_ids) > 1:
        raise InputError(
            "several runs are announced there; choose one with --run: " + ", ".join(run_ids)
        )
    run_id = run_ids[0]
    unreachable = f"run {run_id[:12]} is announced, but none of its peers is: ask one for its line"
    wrong: InputError | None = None
    for address in [contact.address for contact in await discovery.peers(run_id)]:
        try:
            reply = await ask_hello(address, pb.HelloRequest(run_id=run_id))
            manifest = check_manifest(reply, run_id)
            genesis = _genesis_in(reply, address, run_id)
        except InputError as error:
            wrong = error  # another peer of the run may have the right one
        except UnavailableError as error:
            unreachable = (
                f"run {run_id[:12]} is at {address}, which cannot be reached ({error}): check that"
                " its peers are running and that their ports are open"
            )
        except RemoteError:
            continue
        else:
            is_closed = manifest.mode == "lockstep" and genesis is not None
            if me is not None and is_closed and genesis and me not in genesis.voters:
                raise InputError(too_late(manifest, genesis))
            return manifest
    raise wrong or UnavailableError(unreachable)


def _genesis_in(reply: pb.HelloReply, address: str, run_id: str) -> Genesis | None:
    return check_genesis(address, reply.genesis, run_id) if reply.HasField("genesis") else None


def too_late(manifest: Manifest, genesis: Genesis) -> str:
    """Why a peer that comes after genesis cannot take part in lockstep mode."""
    return (
        f"run {manifest.name} has begun with {len(genesis.voters)} peers, and in lockstep mode"
        " nobody can join later: ask for the next run, or found one"
    )


def check_manifest(reply: pb.HelloReply, run_id: str) -> Manifest:
    """The manifest in a reply; raises InputError when it is not the run's."""
    try:
        manifest = Manifest.from_bytes(reply.manifest)
    except ManifestError as error:
        raise InputError(
            f"a peer of run {run_id[:12]} sent a wrong manifest ({error}): join through another"
            " peer's address"
        ) from error
    if manifest.run_id != run_id:
        raise InputError(
            f"a peer of run {run_id[:12]} sent the manifest of run {manifest.run_id[:12]}: it was"
            " tampered with; join through another peer's address"
        )
    return manifest


def one_line(foreign: str) -> str:
    """What another peer said, fit to be shown: a bounded line without control characters."""
    return "".join(c if c.isprintable() else " " for c in foreign[:400])
