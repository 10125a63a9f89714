from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Leg(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEG_UNSPECIFIED: _ClassVar[Leg]
    LEG_SCATTER: _ClassVar[Leg]
    LEG_GATHER: _ClassVar[Leg]
LEG_UNSPECIFIED: Leg
LEG_SCATTER: Leg
LEG_GATHER: Leg

class Contact(_message.Message):
    __slots__ = ("peer_id", "name", "address", "incarnation", "dht", "run_id", "signed_s", "certificate")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DHT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNED_S_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    name: str
    address: str
    incarnation: str
    dht: str
    run_id: str
    signed_s: float
    certificate: bytes
    def __init__(self, peer_id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[str] = ..., dht: _Optional[str] = ..., run_id: _Optional[str] = ..., signed_s: _Optional[float] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class SignedContact(_message.Message):
    __slots__ = ("contact", "public_key", "signature")
    CONTACT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    contact: bytes
    public_key: bytes
    signature: bytes
    def __init__(self, contact: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("run_id", "me")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ME_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    me: SignedContact
    def __init__(self, run_id: _Optional[str] = ..., me: _Optional[_Union[SignedContact, _Mapping]] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("run_id", "manifest", "genesis", "peers", "refusal")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    GENESIS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    manifest: bytes
    genesis: SignedGenesis
    peers: _containers.RepeatedCompositeFieldContainer[SignedContact]
    refusal: str
    def __init__(self, run_id: _Optional[str] = ..., manifest: _Optional[bytes] = ..., genesis: _Optional[_Union[SignedGenesis, _Mapping]] = ..., peers: _Optional[_Iterable[_Union[SignedContact, _Mapping]]] = ..., refusal: _Optional[str] = ...) -> None: ...

class Revocations(_message.Message):
    __slots__ = ("run_id", "number", "peer_ids")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PEER_IDS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    number: int
    peer_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_id: _Optional[str] = ..., number: _Optional[int] = ..., peer_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SignedRevocations(_message.Message):
    __slots__ = ("revocations", "signature")
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    revocations: bytes
    signature: bytes
    def __init__(self, revocations: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedGenesis(_message.Message):
    __slots__ = ("genesis", "public_key", "signature", "certificate")
    GENESIS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    genesis: bytes
    public_key: bytes
    signature: bytes
    certificate: bytes
    def __init__(self, genesis: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("peer_id", "name", "run_name", "state", "step", "total_steps", "round", "head", "loss", "tokens_per_s", "utilization", "rounds_committed", "rounds_empty", "up_bytes_per_s", "down_bytes_per_s", "group", "state_s", "term", "rounds_in_words")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_EMPTY_FIELD_NUMBER: _ClassVar[int]
    UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STATE_S_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_IN_WORDS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    name: str
    run_name: str
    state: str
    step: int
    total_steps: int
    round: int
    head: str
    loss: float
    tokens_per_s: float
    utilization: float
    rounds_committed: int
    rounds_empty: int
    up_bytes_per_s: float
    down_bytes_per_s: float
    group: _containers.RepeatedScalarFieldContainer[str]
    state_s: float
    term: int
    rounds_in_words: str
    def __init__(self, peer_id: _Optional[str] = ..., name: _Optional[str] = ..., run_name: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[int] = ..., total_steps: _Optional[int] = ..., round: _Optional[int] = ..., head: _Optional[str] = ..., loss: _Optional[float] = ..., tokens_per_s: _Optional[float] = ..., utilization: _Optional[float] = ..., rounds_committed: _Optional[int] = ..., rounds_empty: _Optional[int] = ..., up_bytes_per_s: _Optional[float] = ..., down_bytes_per_s: _Optional[float] = ..., group: _Optional[_Iterable[str]] = ..., state_s: _Optional[float] = ..., term: _Optional[int] = ..., rounds_in_words: _Optional[str] = ...) -> None: ...

class LogRequest(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("decided", "part_bytes", "ready_s", "exchange_s", "apply_s", "resent_bytes")
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    READY_S_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_S_FIELD_NUMBER: _ClassVar[int]
    APPLY_S_FIELD_NUMBER: _ClassVar[int]
    RESENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    decided: Decided
    part_bytes: int
    ready_s: float
    exchange_s: float
    apply_s: float
    resent_bytes: int
    def __init__(self, decided: _Optional[_Union[Decided, _Mapping]] = ..., part_bytes: _Optional[int] = ..., ready_s: _Optional[float] = ..., exchange_s: _Optional[float] = ..., apply_s: _Optional[float] = ..., resent_bytes: _Optional[int] = ...) -> None: ...

class LogReply(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("ready", "roster", "held", "prepare", "promise", "accept", "accepted", "decided", "heartbeat", "ask", "leave", "amend", "gone", "trail", "accuse")
    READY_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    AMEND_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    TRAIL_FIELD_NUMBER: _ClassVar[int]
    ACCUSE_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    roster: Roster
    held: Held
    prepare: Prepare
    promise: Promise
    accept: Accept
    accepted: Accepted
    decided: Decided
    heartbeat: Heartbeat
    ask: Ask
    leave: Leave
    amend: Amend
    gone: Gone
    trail: Trail
    accuse: Accuse
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., promise: _Optional[_Union[Promise, _Mapping]] = ..., accept: _Optional[_Union[Accept, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., decided: _Optional[_Union[Decided, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., amend: _Optional[_Union[Amend, _Mapping]] = ..., gone: _Optional[_Union[Gone, _Mapping]] = ..., trail: _Optional[_Union[Trail, _Mapping]] = ..., accuse: _Optional[_Union[Accuse, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("round", "parent", "tokens", "pace_steps_per_s", "up_bytes_per_s", "down_bytes_per_s", "overhead_s", "dialable", "state")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PACE_STEPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_S_FIELD_NUMBER: _ClassVar[int]
    DIALABLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    round: int
    parent: str
    tokens: int
    pace_steps_per_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    overhead_s: float
    dialable: bool
    state: str
    def __init__(self, round: _Optional[int] = ..., parent: _Optional[str] = ..., tokens: _Optional[int] = ..., pace_steps_per_s: _Optional[float] = ..., up_bytes_per_s: _Optional[float] = ..., down_bytes_per_s: _Optional[float] = ..., overhead_s: _Optional[float] = ..., dialable: bool = ..., state: _Optional[str] = ...) -> None: ...

class RosterMember(_message.Message):
    __slots__ = ("peer_id", "tokens", "pace_steps_per_s", "incarnation")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PACE_STEPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    tokens: int
    pace_steps_per_s: float
    incarnation: str
    def __init__(self, peer_id: _Optional[str] = ..., tokens: _Optional[int] = ..., pace_steps_per_s: _Optional[float] = ..., incarnation: _Optional[str] = ...) -> None: ...

class Missing(_message.Message):
    __slots__ = ("peer_id", "why")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    why: str
    def __init__(self, peer_id: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("round", "ballot", "parent", "members", "owners", "missing", "transfer_s", "deadline_s", "close_s")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    CLOSE_S_FIELD_NUMBER: _ClassVar[int]
    round: int
    ballot: int
    parent: str
    members: _containers.RepeatedCompositeFieldContainer[RosterMember]
    owners: _containers.RepeatedScalarFieldContainer[int]
    missing: _containers.RepeatedCompositeFieldContainer[Missing]
    transfer_s: float
    deadline_s: float
    close_s: float
    def __init__(self, round: _Optional[int] = ..., ballot: _Optional[int] = ..., parent: _Optional[str] = ..., members: _Optional[_Iterable[_Union[RosterMember, _Mapping]]] = ..., owners: _Optional[_Iterable[int]] = ..., missing: _Optional[_Iterable[_Union[Missing, _Mapping]]] = ..., transfer_s: _Optional[float] = ..., deadline_s: _Optional[float] = ..., close_s: _Optional[float] = ...) -> None: ...

class Amend(_message.Message):
    __slots__ = ("round", "roster", "number", "lost", "owners", "resend_s")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    RESEND_S_FIELD_NUMBER: _ClassVar[int]
    round: int
    roster: str
    number: int
    lost: _containers.RepeatedScalarFieldContainer[str]
    owners: _containers.RepeatedScalarFieldContainer[int]
    resend_s: float
    def __init__(self, round: _Optional[int] = ..., roster: _Optional[str] = ..., number: _Optional[int] = ..., lost: _Optional[_Iterable[str]] = ..., owners: _Optional[_Iterable[int]] = ..., resend_s: _Optional[float] = ...) -> None: ...

class Mean(_message.Message):
    __slots__ = ("part_index", "digest", "without")
    PART_INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    part_index: int
    digest: str
    without: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, part_index: _Optional[int] = ..., digest: _Optional[str] = ..., without: _Optional[_Iterable[int]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("round", "roster", "number", "means")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    round: int
    roster: str
    number: int
    means: _containers.RepeatedCompositeFieldContainer[Mean]
    def __init__(self, round: _Optional[int] = ..., roster: _Optional[str] = ..., number: _Optional[int] = ..., means: _Optional[_Iterable[_Union[Mean, _Mapping]]] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("round", "ballot", "parent")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    round: int
    ballot: int
    parent: str
    def __init__(self, round: _Optional[int] = ..., ballot: _Optional[int] = ..., parent: _Optional[str] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("round", "ballot", "accepted_ballot", "accepted", "parent")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BALLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    round: int
    ballot: int
    accepted_ballot: int
    accepted: bytes
    parent: str
    def __init__(self, round: _Optional[int] = ..., ballot: _Optional[int] = ..., accepted_ballot: _Optional[int] = ..., accepted: _Optional[bytes] = ..., parent: _Optional[str] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("round", "ballot", "entry")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    round: int
    ballot: int
    entry: bytes
    def __init__(self, round: _Optional[int] = ..., ballot: _Optional[int] = ..., entry: _Optional[bytes] = ...) -> None: ...

class SignedAccept(_message.Message):
    __slots__ = ("voter", "incarnation", "public_key", "signature")
    VOTER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    voter: str
    incarnation: str
    public_key: bytes
    signature: bytes
    def __init__(self, voter: _Optional[str] = ..., incarnation: _Optional[str] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("round", "ballot", "entry_digest", "accept")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    round: int
    ballot: int
    entry_digest: str
    accept: SignedAccept
    def __init__(self, round: _Optional[int] = ..., ballot: _Optional[int] = ..., entry_digest: _Optional[str] = ..., accept: _Optional[_Union[SignedAccept, _Mapping]] = ...) -> None: ...

class Decided(_message.Message):
    __slots__ = ("round", "entry", "ballot", "accepts")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_FIELD_NUMBER: _ClassVar[int]
    round: int
    entry: bytes
    ballot: int
    accepts: _containers.RepeatedCompositeFieldContainer[SignedAccept]
    def __init__(self, round: _Optional[int] = ..., entry: _Optional[bytes] = ..., ballot: _Optional[int] = ..., accepts: _Optional[_Iterable[_Union[SignedAccept, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("round", "head", "step", "incarnation", "trains", "deaf_to", "convicts")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TRAINS_FIELD_NUMBER: _ClassVar[int]
    DEAF_TO_FIELD_NUMBER: _ClassVar[int]
    CONVICTS_FIELD_NUMBER: _ClassVar[int]
    round: int
    head: str
    step: int
    incarnation: str
    trains: bool
    deaf_to: _containers.RepeatedScalarFieldContainer[str]
    convicts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[int] = ..., head: _Optional[str] = ..., step: _Optional[int] = ..., incarnation: _Optional[str] = ..., trains: bool = ..., deaf_to: _Optional[_Iterable[str]] = ..., convicts: _Optional[_Iterable[str]] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("round", "head")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    round: int
    head: str
    def __init__(self, round: _Optional[int] = ..., head: _Optional[str] = ...) -> None: ...

class Gone(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class ChainStep(_message.Message):
    __slots__ = ("round", "digest", "term", "committed")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    round: int
    digest: str
    term: int
    committed: str
    def __init__(self, round: _Optional[int] = ..., digest: _Optional[str] = ..., term: _Optional[int] = ..., committed: _Optional[str] = ...) -> None: ...

class Trail(_message.Message):
    __slots__ = ("round", "steps")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    round: int
    steps: _containers.RepeatedCompositeFieldContainer[ChainStep]
    def __init__(self, round: _Optional[int] = ..., steps: _Optional[_Iterable[_Union[ChainStep, _Mapping]]] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class Accuse(_message.Message):
    __slots__ = ("round", "accusation")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCUSATION_FIELD_NUMBER: _ClassVar[int]
    round: int
    accusation: bytes
    def __init__(self, round: _Optional[int] = ..., accusation: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("roster", "leg", "part_index", "offset", "part_bytes", "data", "without", "digest", "signature", "inputs")
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    LEG_FIELD_NUMBER: _ClassVar[int]
    PART_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    roster: str
    leg: Leg
    part_index: int
    offset: int
    part_bytes: int
    data: bytes
    without: _containers.RepeatedScalarFieldContainer[int]
    digest: str
    signature: Signature
    inputs: _containers.RepeatedCompositeFieldContainer[Input]
    def __init__(self, roster: _Optional[str] = ..., leg: _Optional[_Union[Leg, str]] = ..., part_index: _Optional[int] = ..., offset: _Optional[int] = ..., part_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., without: _Optional[_Iterable[int]] = ..., digest: _Optional[str] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[Input, _Mapping]]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("public_key", "signature")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    signature: bytes
    def __init__(self, public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("digest", "signature")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    signature: Signature
    def __init__(self, digest: _Optional[bytes] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digests", "rate_bytes_per_s")
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    rate_bytes_per_s: float
    def __init__(self, digests: _Optional[_Iterable[str]] = ..., rate_bytes_per_s: _Optional[float] = ...) -> None: ...

class ChunksRequest(_message.Message):
    __slots__ = ("root", "indices", "rate_bytes_per_s")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    root: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    rate_bytes_per_s: float
    def __init__(self, root: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., rate_bytes_per_s: _Optional[float] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("item", "offset", "item_bytes", "data")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    item: int
    offset: int
    item_bytes: int
    data: bytes
    def __init__(self, item: _Optional[int] = ..., offset: _Optional[int] = ..., item_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class OffersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OffersReply(_message.Message):
    __slots__ = ("offers",)
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("decided", "fragments")
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    decided: Decided
    fragments: _containers.RepeatedCompositeFieldContainer[FragmentState]
    def __init__(self, decided: _Optional[_Union[Decided, _Mapping]] = ..., fragments: _Optional[_Iterable[_Union[FragmentState, _Mapping]]] = ...) -> None: ...

class FragmentState(_message.Message):
    __slots__ = ("values", "version", "root")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    values: int
    version: int
    root: str
    def __init__(self, values: _Optional[int] = ..., version: _Optional[int] = ..., root: _Optional[str] = ...) -> None: ...
