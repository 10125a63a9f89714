"""Peers with keys of their own, always the same ones, and what they say about themselves."""

import hashlib
from collections.abc import Iterable
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.admission import Membership
from peer.contact import Contact, Introduction
from peer.identity import Identity
from peer.secure import Credentials, Security
from protocol.accepts import SignedAccept, Vote
from protocol.log import Entry
from protocol.messages import Decided


@cache
def identity(name: str) -> Identity:
    seed = hashlib.sha256(name.encode()).digest()
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


def peer_id(name: str) -> str:
    return identity(name).peer_id


@cache
def membership(name: str, run_id: str) -> Membership:
    """Of an open run, which everybody may join."""
    return Membership.of_open_run(identity(name), run_id)


def security(name: str, run_id: str) -> Security:
    """What this person shows in an open run."""
    return Credentials(identity(name)).for_run(run_id)


def decide(entry: Entry, by: Iterable[str], run_id: str) -> Decided:
    """By people with these names, each with its first journal."""
    vote = Vote.on(entry, 0)
    accepts = [
        SignedAccept.of(vote, run_id, peer_id(name), f"{peer_id(name)}-0", identity(name))
        for name in by
    ]
    in_order = tuple(sorted(accepts, key=lambda accept: accept.voter))
    return Decided(round=entry.round, entry=entry, ballot=0, accepts=in_order)


def introduction(
    name: str, run_id: str, address: str = "127.0.0.1:9", dht: str = ""
) -> Introduction:
    return Introduction(
        identity=identity(name),
        run_id=run_id,
        name=name,
        address=address,
        dht=dht,
        certificate=membership(name, run_id).certificate,
    )


def contact(name: str, run_id: str, address: str = "127.0.0.1:9", dht: str = "") -> Contact:
    return introduction(name, run_id, address, dht).contact()
