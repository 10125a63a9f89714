"""Simulated keys: cheap, always the same, and of use to their owners only.

A signature is a keyed hash, and whoever verifies one computes it again. A liar of the simulation
has no way to another's secret but `SimKey`, so what it forges does not verify.
"""

from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3

from protocol.accepts import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from protocol.log import QuorumRule
from protocol.tally import Tally


@dataclass(frozen=True, slots=True)
class SimKey:
    """One peer's."""

    peer_id: str

    @property
    def public_key(self) -> bytes:
        return _public_key(self.peer_id)

    def sign(self, message: bytes) -> bytes:
        return _signature(self.peer_id, message)


def is_signed_by(peer_id: str, public_key: bytes, signature: bytes, message: bytes) -> bool:
    """As `peer.identity.is_signed_by`."""
    return public_key == _public_key(peer_id) and signature == _signature(peer_id, message)


def tally_of(run_id: str, quorum: QuorumRule = "majority") -> Tally:
    return Tally(run_id=run_id, quorum=quorum, is_signed_by=is_signed_by)


@lru_cache(maxsize=1024)
def _public_key(peer_id: str) -> bytes:
    return blake3(f"public key of {peer_id}".encode()).digest(PUBLIC_KEY_BYTES)


@lru_cache(maxsize=1024)
def _secret(peer_id: str) -> bytes:
    return blake3(f"secret of {peer_id}".encode()).digest()


@lru_cache(maxsize=4096)
def _signature(peer_id: str, message: bytes) -> bytes:
    return blake3(message, key=_secret(peer_id)).digest(SIGNATURE_BYTES)
