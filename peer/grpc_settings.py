"""The settings of every gRPC channel and server, and the times that hold for all calls.

The reason for each setting: docs/architecture.md ("gRPC").
"""

from typing import Final

from protocol.events import Leg
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_CONTROL_BYTES

CALL_S: Final = 4.0
"""One control message, connection included. Twice the longest round trip worth supporting."""
CHUNK_S: Final = 30.0
"""One chunk into or out of a stream: at the smallest cap a chunk takes well under a second."""

_SHARED_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 2 * MAX_CONTROL_BYTES),
    ("grpc.max_send_message_length", 2 * MAX_CONTROL_BYTES),
    ("grpc.default_compression_algorithm", 0),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CHANNEL_OPTIONS: Final = [
    *_SHARED_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
CONTROL_OPTIONS: Final = [*_CHANNEL_OPTIONS, ("grpc.http2.ping_timeout_ms", 4_000)]
# A ping may queue behind chunks in the kernel's buffers on a slow link.
BULK_OPTIONS: Final = [*_CHANNEL_OPTIONS, ("grpc.http2.ping_timeout_ms", 20_000)]
SERVER_OPTIONS: Final = [
    *_SHARED_OPTIONS,
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.so_reuseport", 0),
]

LEG_TO_WIRE: Final = {Leg.SCATTER: pb.LEG_SCATTER, Leg.GATHER: pb.LEG_GATHER}
LEG_FROM_WIRE: Final = {wire: leg for leg, wire in LEG_TO_WIRE.items()}
