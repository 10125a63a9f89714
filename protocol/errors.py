"""Every exception that this project raises on purpose.

    DilocoError
    ├── InputError            the person's arguments or files are wrong; the command exits with 2
    │   └── ManifestError     the manifest is not one that a run can be made of
    ├── RemoteError           another peer sent something wrong; it is refused and changes nothing
    ├── CodecError            values that cannot be encoded, or bytes that cannot be decoded
    └── UnavailableError      a peer, an address or the DHT cannot be reached

Broken invariants of our own are `assert`s: they are bugs, and nobody should catch them.
"""


class DilocoError(Exception):
    """Base of all of them."""


class InputError(DilocoError):
    """What was typed, or a file that was named, is wrong. One line that also says what to do."""


class ManifestError(InputError):
    """The manifest is malformed, has unknown keys, or asks for something impossible."""


class RemoteError(DilocoError):
    """A peer broke the protocol. Its message was refused and nothing changed.

    Args:
        peer_id: who sent it (as far as the transport knows).
        why: one sentence for the log.
    """

    def __init__(self, peer_id: str, why: str) -> None:
        super().__init__(f"{peer_id[:8]}: {why}")
        self.peer_id = peer_id
        self.why = why


class CodecError(DilocoError):
    """A value is not finite, or bytes are not a canonical encoding."""


class UnavailableError(DilocoError):
    """Something on the network does not answer."""
