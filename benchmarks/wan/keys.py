"""The keys of our peers in the comparison: every system trains on the batches of the same four.

Peers draw their batches by their key, and other batches make as much difference to a loss as
another system does.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.wan.system import PEERS
from peer.identity import Identity


def key_of(seed: int, number: int) -> Ed25519PrivateKey:
    """Of our peer of that number, in the runs with that seed."""
    name = f"benchmarks.wan seed {seed} peer {number}"
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def peer_ids_of(seed: int) -> tuple[str, ...]:
    return tuple(Identity(key_of(seed, number)).peer_id for number in range(PEERS))
