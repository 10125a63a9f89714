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
from peer.grpc_client import Asker
from peer.identity import Identity, check_genesis
from peer.secure import Caller, Security
from protocol.errors import InputError, RemoteError, UnavailableError
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
MAX_PEERS_KNOWN = 256
MAX_LOG_LINES = 200


class Gathering:
    """Who is there. Answers every hello, also after genesis (a `Desk` of the server)."""

    def __init__(
        self,
        manifest: Manifest,
        me: Introduction,
        security: Security,
        status: Callable[[], pb.StatusReply],
        log: Callable[[int], Awaitable[pb.LogReply]],
    ) -> None:
        self._manifest = manifest
        self.me = me
        """Said to everybody; whoever listens adds the address."""
        self._security = security
        self._asker = Asker(security)
        self._status = status
        self._log = log
        self._heard_s: dict[str, float] = {}
        self._contacts: dict[str, Contact] = {}
        """Of everybody else heard of."""
        self.signed: pb.SignedGenesis | None = None
        self.genesis: Genesis | None = None
        self._met: dict[str, Contact] = {}
        """With whom a hello went through, in either direction."""
        self._on_met: Callable[[Contact], None] = lambda contact: None

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

    def names(self) -> dict[str, str]:
        named = {peer: contact.name for peer, contact in self._contacts.items()}
        named[self.me.peer_id] = self.me.name
        return {peer: name or peer[:8] for peer, name in named.items()}

    # --- answering -------------------------------------------------------------------------------

    async def hello(self, request: pb.HelloRequest, caller: Caller) -> pb.HelloReply:
        reply = pb.HelloReply(
            run_id=self._manifest.run_id,
            manifest=self._manifest.to_bytes(),
            genesis=self.signed,
            peers=[c.signed for c in (self.me.contact(), *self._contacts.values())],
        )
        if request.run_id and request.run_id != self._manifest.run_id:
            reply.refusal = f"this is run {self._manifest.run_id}, not {request.run_id}"
        elif request.HasField("me"):
            contact = read_contact(request.me, self._manifest.run_id, caller.peer_id)
            contact.refuse_stale(time.time(), contact.peer_id)
            if contact.peer_id != caller.peer_id:
                raise RemoteError(caller.peer_id, "a hello in another's name")
            self._security.check_contact(contact)
            reply.refusal = self._register(contact)
        return reply

    def status(self) -> pb.StatusReply:
        return self._status()

    async def log(self, request: pb.LogRequest) -> pb.LogReply:
        if not 0 < request.count <= MAX_LOG_LINES:
            raise RemoteError("", "asked for no entries, or for too many")
        return await self._log(request.count)

    def revoked(self, told: pb.SignedRevocations, caller: Caller) -> pb.SignedRevocations:
        if self._security.trust is None:
            raise RemoteError(caller.peer_id, "a list of revocations, where everybody is believed")
        revocations = self._security.trust.revocations
        revocations.take(told, caller.peer_id)
        return revocations.signed

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
            RemoteError: a part of it is malformed, or the genesis is not signed; nothing changed.
        """
        run_id, peers = self._manifest.run_id, reply.peers[:MAX_PEERS_KNOWN]
        contacts = [read_contact(signed, run_id, signed_by) for signed in peers]
        if reply.HasField("genesis") and self.genesis is None:
            self.genesis = self._believed(reply.genesis, signed_by)
            self.signed = reply.genesis
        self._note_admitted(contacts)

    def _note_admitted(self, contacts: Iterable[Contact]) -> None:
        """Know those of them that may take part now. Somebody who was thrown out, or has run out,
        says nothing about whoever still knows it."""
        for contact in contacts:
            with contextlib.suppress(RemoteError):
                self._security.check_contact(contact)
                self._note(contact)

    def _meet(self, peer_id: str) -> None:
        """Dial it where the newest that it said leads, if it is known at all."""
        contact = self._contacts.get(peer_id)
        if contact is not None and not self._has_met(contact):
            self._met[peer_id] = contact
            self._on_met(contact)

    def _has_met(self, contact: Contact) -> bool:
        met = self._met.get(contact.peer_id)
        return met is not None and met.leads_where(contact)

    def forget(self, peer_id: str) -> None:
        """It was thrown out."""
        for known in (self._contacts, self._met, self._heard_s):
            known.pop(peer_id, None)

    def contacts(self) -> list[Contact]:
        """Of everybody else heard of."""
        return list(self._contacts.values())

    def resume(self, signed: pb.SignedGenesis, others: Iterable[Contact]) -> Genesis:
        """This peer was in the run before: go on from its genesis, with whom it knew.

        Raises:
            RemoteError: the genesis is not this run's.
        """
        self.genesis = self._believed(signed, self.me.peer_id)
        self.signed = signed
        self._note_admitted(others)
        return self.genesis

    # --- after genesis ---------------------------------------------------------------------------

    def greet(self, on_met: Callable[[Contact], None]) -> None:
        """From now on `on_met` hears of every peer that can be dialled."""
        self._on_met = on_met
        for contact in self._met.values():
            on_met(contact)

    async def keep_meeting(self, discovery: Discovery) -> None:
        """Say hello to everybody who is not met yet, and look in the DHT for more; without end."""
        looked_s = float("-inf")
        while True:
            request = self._request()
            if time.monotonic() - looked_s > REFRESH_S:
                looked_s = time.monotonic()
                await self._look(discovery)
            unmet = [c for c in self._contacts.values() if not self._has_met(c)]
            replies = await asyncio.gather(*(self._hello(c, request) for c in unmet))
            for contact, reply in zip(unmet, replies, strict=True):
                if reply is not None and not reply.refusal:
                    with contextlib.suppress(RemoteError):
                        self.adopt(reply, contact.peer_id)
                    newest = self._contacts.get(contact.peer_id)
                    if newest is not None and newest.leads_where(contact):
                        self._meet(contact.peer_id)
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
        self.signed = identity.sign_genesis(self.genesis, self._security.certificate)
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
                for peer_id, contact in self._contacts.items():
                    if peer_id not in calls:
                        calls[peer_id] = asyncio.create_task(self._hello(contact, request))
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
            self._note_admitted(await discovery.peers(self._manifest.run_id))

    def _request(self) -> pb.HelloRequest:
        return pb.HelloRequest(run_id=self._manifest.run_id, me=self.me.contact().signed)

    async def _hello(self, contact: Contact, request: pb.HelloRequest) -> pb.HelloReply | None:
        """The answer, or None when there is none this time."""
        try:
            return await self._asker.hello(contact, request)
        except (UnavailableError, RemoteError):
            return None

    def _believed(self, signed: pb.SignedGenesis, told_by: str) -> Genesis:
        return believe_genesis(told_by, signed, self._manifest.run_id, self._security)


def believe_genesis(
    told_by: str, signed: pb.SignedGenesis, run_id: str, security: Security
) -> Genesis:
    """As `check_genesis`, and by somebody whom the run's authority let found it."""
    genesis = check_genesis(told_by, signed, run_id)
    if security.trust is not None:
        security.trust.check_founder(genesis.founder, signed.certificate)
    return genesis


def too_late(manifest: Manifest, genesis: Genesis) -> str:
    """Why a peer that comes after genesis cannot take part in lockstep mode."""
    return (
        f"run {manifest.name} has begun with {len(genesis.voters)} peers, and in lockstep mode"
        " nobody can join later: ask for the next run, or found one"
    )


def one_line(foreign: str) -> str:
    """What another peer said, fit to be shown: a bounded line without control characters."""
    return "".join(c if c.isprintable() else " " for c in foreign[:400])
