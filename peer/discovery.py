"""Finding the run and its peers: hivemind's DHT, used as a hint and never as an authority.

Each peer stores its signed contact under the run's key; it expires and is refreshed. What is
forged, stale or oversized is not stored, not passed on and not read, but counted. Still, all that
is read here is an address to dial: manifest and genesis are checked after dialling.
"""

import asyncio
import contextlib
import ipaddress
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from peer.contact import MAX_BYTES, TTL_S, Contact
from peer.dht_records import MAX_RECORDS, Guard, bounded_storage, peers_key, validator
from protocol.digest import is_digest
from protocol.errors import UnavailableError

REFRESH_S = 15.0
CALL_S = 10.0
CLOSE_S = 3.0
KEY_FILE = "dht.key"
MAX_SOCKET_PATH_BYTES = 107
SOCKET_NAME_BYTES = len("p2pclient-") + 11 + len(".sock")
_RUNS_KEY = "diloco/runs"


class Discovery(Protocol):
    """Where peers of a run find each other. Two implementations: the DHT and the simulated one."""

    async def announce(self, run_id: str, contact: Contact) -> None:
        """Publish for one TTL; the caller repeats it. Raises UnavailableError."""
        ...

    async def peers(self, run_id: str) -> list[Contact]:
        """Who says that it is in a run; all fresh, and signed by themselves.

        Raises:
            UnavailableError: there is no answer.
        """
        ...

    async def runs(self) -> list[str]:
        """Ids of the runs that are announced. Raises UnavailableError."""
        ...


class DhtDiscovery:
    """hivemind's DHTNode in this process's event loop, with its p2pd as the only child."""

    def __init__(self, node: Any, p2p: Any, guard: Guard) -> None:
        self._node = node
        self._p2p = p2p
        self._guard = guard

    @classmethod
    async def start(
        cls,
        *,
        initial_peers: Sequence[str],
        listen_host: str,
        listen_port: int,
        announce_host: str | None,
        directory: Path | None,
    ) -> "DhtDiscovery":
        """Join the DHT of `initial_peers`, or begin one when there are none.

        UPnP, relays and autonat are off: they talk to third parties, which a person has to ask for.

        Args:
            directory: where the DHT's identity is kept, and the sockets to p2pd; None: nowhere.

        Raises:
            UnavailableError: no initial peer answers, an address is malformed, or a clock is off.
        """
        # Importing hivemind takes seconds; nothing but a running peer should pay for it.
        from hivemind.dht.node import DHTNode

        # It sets up its own log when it is imported; this project says what matters in its own
        # words.
        logging.getLogger("hivemind").setLevel(logging.CRITICAL)
        asyncio.get_running_loop().set_exception_handler(_pass_over_hivemind)
        guard = Guard()
        daemons: list[Any] = []
        announced = announce_host and f"{_maddr_host(announce_host)}/tcp/{listen_port}"
        try:
            p2p = await _p2p_class(directory, daemons).create(
                initial_peers=list(initial_peers),
                host_maddrs=[f"{_maddr_host(listen_host)}/tcp/{listen_port}"],
                announce_maddrs=[announced] if announced else None,
                identity_path=str(directory / KEY_FILE) if directory else None,
                # The directory is locked. Asking the swarm starts another p2pd, with UPnP.
                check_if_identity_free=False,
                nat_port_map=False,
                auto_nat=False,
                use_relay=False,
                use_auto_relay=False,
            )
            node = await DHTNode.create(
                p2p=p2p, initial_peers=list(initial_peers), record_validator=validator(guard)
            )
            node.protocol.storage = bounded_storage()
        except BaseException as error:
            for daemon in daemons:
                await _stop(daemon)
            if not isinstance(error, Exception):
                raise
            # hivemind reports a failed bootstrap, a bad address and a skewed clock by exceptions
            # of unrelated types; all of them mean that there is no DHT to work with.
            raise UnavailableError(_why_not(error, initial_peers)) from error
        return cls(node, p2p, guard)

    async def addresses(self) -> list[str]:
        """Multiaddresses that others can give as --initial-peers."""
        return [str(maddr) for maddr in await self._node.get_visible_maddrs()]

    @property
    def daemon_pid(self) -> int:
        """Process id of p2pd, whose traffic counts as this peer's."""
        return int(self._p2p._child.pid)

    async def announce(self, run_id: str, contact: Contact) -> None:
        """As `Discovery.announce`; raises UnavailableError."""
        from hivemind.utils import get_dht_time

        data = contact.signed.SerializeToString()
        assert len(data) <= MAX_BYTES
        expires = get_dht_time() + TTL_S
        async with _in_time():
            await self._node.store(
                peers_key(run_id), subkey=contact.peer_id, value=data, expiration_time=expires
            )
            await self._node.store(_RUNS_KEY, subkey=run_id, value=b"", expiration_time=expires)

    async def peers(self, run_id: str) -> list[Contact]:
        records = await self._records(peers_key(run_id))
        found = (self._guard.read(run_id, peer_id, value) for peer_id, value in records.items())
        return [contact for contact in found if contact is not None]

    def guard(self, run_id: str, check: Callable[[Contact], None]) -> None:
        """From now on take no record of this run, for others either, unless its peer signed it.

        Args:
            check: raises RemoteError for the contact of a peer that is not to be in the run.
        """
        from hivemind.dht.routing import DHTID

        self._guard.guarded[DHTID.generate(source=peers_key(run_id)).to_bytes()] = run_id
        self._guard.check = check

    @property
    def refused(self) -> Counter[str]:
        """Records that were not believed, by reason."""
        return self._guard.refused

    async def runs(self) -> list[str]:
        # Anybody can announce anything, and a person is shown what is announced.
        return sorted(filter(is_digest, await self._records(_RUNS_KEY)))

    async def _records(self, key: str) -> dict[Any, Any]:
        async with _in_time():
            found = await self._node.get(key, latest=True)
        if found is None or not isinstance(found.value, dict):
            return {}
        return {k: v.value for k, v in list(found.value.items())[:MAX_RECORDS]}

    async def close(self) -> None:
        """Stop the node and its p2pd."""
        # Without p2pd the node would wait for its answers.
        ends = {
            asyncio.ensure_future(end) for end in (self._node.shutdown(), self._p2p._child.wait())
        }
        await asyncio.wait(ends, timeout=CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await _stop(self._p2p)


def _pass_over_hivemind(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tasks that hivemind leaves to themselves fail when p2pd goes first, as it does after Ctrl-C
    in a terminal, which interrupts both. Nothing depends on them then."""
    coroutine = getattr(context.get("future") or context.get("task"), "get_coro", lambda: None)()
    code = getattr(coroutine, "cr_code", None)
    if code is None or "hivemind" not in Path(code.co_filename).parts:
        loop.default_exception_handler(context)


def _p2p_class(directory: Path | None, started: list[Any]) -> Any:
    """hivemind's P2P, except that a start that fails can be undone and sockets are kept at home."""
    from hivemind.p2p import P2P

    class HomelyP2P(P2P):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    if directory is not None:
        home = directory.resolve()
        if len(f"{home}/".encode()) + SOCKET_NAME_BYTES <= MAX_SOCKET_PATH_BYTES:
            for left_behind in home.glob("p2p*.sock"):
                left_behind.unlink()
            HomelyP2P._UNIX_SOCKET_PREFIX = f"/unix{home}/"
    return HomelyP2P


async def _stop(p2p: Any) -> None:
    """End p2pd, by force if it does not end when it is asked to."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await p2p.shutdown()
            return
    if p2p._child is not None and p2p._child.returncode is None:
        p2p._child.kill()


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """One question to the DHT. Whatever goes wrong with it, there is no answer."""
    try:
        async with asyncio.timeout(CALL_S):
            yield
    except Exception as error:
        # As in `start`: hivemind and a p2pd that is gone raise many unrelated types.
        text = str(error) or "it does not answer in time"
        raise UnavailableError(f"the DHT cannot be asked: {text}") from error


def _maddr_host(host: str) -> str:
    try:
        return f"/ip{ipaddress.ip_address(host).version}/{host}"
    except ValueError:
        return f"/dns4/{host}"


def _why_not(error: BaseException, initial_peers: Sequence[str]) -> str:
    text = str(error) or type(error).__name__
    if "local time" in text:
        return (
            "this machine's clock is more than 3 s away from the other peers': set it (for example"
            " with 'timedatectl set-ntp true') and try again"
        )
    if "multiaddr" in text:
        return (
            f"{', '.join(initial_peers)} is not an address: copy the line that a running peer"
            " prints; it looks like /ip4/203.0.113.5/tcp/7001/p2p/12D3Koo..."
        )
    if initial_peers:
        return (
            f"no initial peer answers ({', '.join(initial_peers)}): check that it is running, that"
            " the address is the one it printed, and that its port is open"
        )
    return f"the DHT did not start: {text.splitlines()[-1][:200]}"
