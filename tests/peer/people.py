"""Peers with keys of their own, always the same ones, and what they say about themselves."""

import hashlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.contact import Contact, Introduction
from peer.identity import Identity


@cache
def identity(name: str) -> Identity:
    seed = hashlib.sha256(name.encode()).digest()
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


def peer_id(name: str) -> str:
    return identity(name).peer_id


def introduction(
    name: str, run_id: str, address: str = "127.0.0.1:9", dht: str = ""
) -> Introduction:
    return Introduction(identity=identity(name), run_id=run_id, name=name, address=address, dht=dht)


def contact(name: str, run_id: str, address: str = "127.0.0.1:9", dht: str = "") -> Contact:
    return introduction(name, run_id, address, dht).contact()
