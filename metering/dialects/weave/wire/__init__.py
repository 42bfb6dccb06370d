"""The forward protocol as bytes: streams that are cut into messages, carriers that hold records, the handshake.

Pure: no sockets, no clock, no database. Nothing here trusts a sender: every buffer has a bound, and what cannot be
read is handed on as what it is, so that whoever asks decides what becomes of it.
"""

from metering.dialects.weave.wire.carriers import Carried, ChunkTooLarge, encode_ack, open_message, set_aside
from metering.dialects.weave.wire.json_stream import JsonStream
from metering.dialects.weave.wire.messages import (
    HEARTBEAT,
    MAX_MESSAGE_BYTES,
    MAX_RECORD_BYTES,
    Stream,
    Undecodable,
    Unreadable,
)
from metering.dialects.weave.wire.msgpack_stream import MsgpackStream

__all__ = [
    "HEARTBEAT",
    "MAX_MESSAGE_BYTES",
    "MAX_RECORD_BYTES",
    "Carried",
    "ChunkTooLarge",
    "JsonStream",
    "MsgpackStream",
    "Stream",
    "Undecodable",
    "Unreadable",
    "encode_ack",
    "open_message",
    "open_stream",
    "set_aside",
]


def open_stream(first: bytes, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> Stream:
    """Return the reader that the first byte of a connection asks for; it decides for the whole connection."""
    stream = JsonStream if first[:1] in {b"[", b"{"} else MsgpackStream
    return stream(max_message_bytes=max_message_bytes)
