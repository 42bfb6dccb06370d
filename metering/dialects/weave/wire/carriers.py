"""What a message carries: one record, a list of them, or a packed and perhaps compressed concatenation.

The second member tells: text or binary is a packed chunk, an array a list of entries, anything else the time of one
record. Times of the carrier are passed over: a record of the billing-client says itself when it occurred.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from metering.dialects.weave.wire import msgpack_stream as msgpack
from metering.dialects.weave.wire.messages import (
    MAX_INFLATED_BYTES,
    MAX_RECORD_BYTES,
    MAX_SHOWN_BYTES,
    Undecodable,
    Unreadable,
)

# A sender's name for a chunk is 24 characters; what is much longer is not echoed.
MAX_CHUNK_NAME = 1_024
_GZIP = 31  # zlib's word for a gzip header and trailer

_NO_ENTRY = "An entry is an array of a time and a record."

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode


class Carried(msgspec.Struct):
    """The records of one message; those that cannot be read are among them as `Unreadable`.

    `chunk` is None where the sender did not ask for an acknowledgement. `inflated_bytes` are held until the records
    are taken.
    """

    records: Iterable[Any]
    chunk: str | bytes | None = None
    inflated_bytes: int = 0


class ChunkTooLarge(Exception):
    """A chunk inflates to more than anybody sends: it is neither counted nor acknowledged."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__(f"a chunk inflates to more than {MAX_INFLATED_BYTES:,} bytes")
        self.beginning = beginning


def open_message(message: Any) -> Carried:
    """Return what a stream's message carries. Raises `ChunkTooLarge`."""
    if isinstance(message, Unreadable):
        return Carried([message])
    if isinstance(message, msgpack.RawMessage):
        return _open_msgpack(message.data)
    return _open_json(message)


def set_aside(message: Any, error: Exception) -> Unreadable:
    """Return what is kept of a message whose reading failed as nobody foresaw."""
    if isinstance(message, Unreadable):
        return message
    content = message.data if isinstance(message, msgpack.RawMessage) else _encode_any(message)
    return Unreadable(f"Reading the message failed: {type(error).__name__}.", content[:MAX_RECORD_BYTES])


def encode_ack(chunk: str | bytes, *, is_json: bool) -> bytes:
    return (_encode_json if is_json else _encode_msgpack)({"ack": chunk})


def _open_json(message: Any) -> Carried:
    if not isinstance(message, list) or len(message) < 2:
        return Carried([_refuse(message)])
    if isinstance(message[1], list):
        return Carried(_json_records(message[1]), _chunk_of(message, 2))
    if len(message) < 3 or isinstance(message[1], str):
        return Carried([_refuse(message)])
    return _one_record(message[2], _chunk_of(message, 3))


def _open_msgpack(data: bytes) -> Carried:
    members = _first_members(data)
    if len(members) < 2:
        return Carried([Unreadable("A message has a tag and at least one record.", data)])
    if msgpack.is_bytes(members[1][0]):
        return _open_packed(msgpack.content_of(members[1]), _option_of(members, 2))
    if msgpack.is_array(members[1][0]):
        return Carried(_entries(msgpack.split_array(members[1])), _chunk_in(_option_of(members, 2)))
    if len(members) < 3:
        return Carried([Unreadable("A message has a tag, a time and a record.", data)])
    return _one_record(_decoded(members[2]), _chunk_in(_option_of(members, 3)))


def _first_members(data: bytes) -> list[bytes]:
    """Return the members of a message; of one that claims to have many, none: no message has more than four."""
    return list(msgpack.split_array(data)) if 0x90 <= data[0] < 0xA0 or len(data) < MAX_SHOWN_BYTES else []


def _one_record(record: Any, chunk: str | bytes | None) -> Carried:
    # A record that is nil is passed over, and its sender gets no acknowledgement.
    return Carried([]) if record is None else Carried([record], chunk)


def _open_packed(packed: bytes, option: Any) -> Carried:
    chunk = _chunk_in(option)
    if not _is_gzip(option):
        return Carried(_packed_entries(packed), chunk)
    try:
        inflated = _inflate(packed)
    except (zlib.error, EOFError) as error:
        return Carried([Unreadable(f"The chunk is not gzip: {error}", packed)], chunk)
    return Carried(_packed_entries(inflated), chunk, len(inflated))


def _is_gzip(option: Any) -> bool:
    # Compared, not looked up: what an option holds need not be hashable.
    compressed = option.get("compressed") if isinstance(option, dict) else None
    return isinstance(compressed, (str, bytes)) and compressed in ("gzip", b"gzip")


def _inflate(packed: bytes) -> bytes:
    """Return the content of one or more gzip members, at most so many bytes that they can be held."""
    parts: list[bytes] = []
    room = MAX_INFLATED_BYTES
    while packed:
        member = zlib.decompressobj(_GZIP)
        parts.append(member.decompress(packed, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise ChunkTooLarge(parts[0][:MAX_SHOWN_BYTES])
        if not member.eof:
            raise EOFError("it ends too early")
        packed = member.unused_data
    return b"".join(parts)


def _packed_entries(packed: bytes) -> Iterator[Any]:
    try:
        for entry in msgpack.split_objects(packed):
            yield from _entry(entry)
    except Undecodable as error:
        yield Unreadable(f"The rest of the chunk cannot be read: {error}.", packed[-MAX_SHOWN_BYTES:])


def _entries(entries: Iterable[bytes]) -> Iterator[Any]:
    for entry in entries:
        yield from _entry(entry)


def _entry(entry: bytes) -> Iterator[Any]:
    """Yield the entry's record; none where it is nil."""
    try:
        members = msgpack.decode(entry) if msgpack.is_array(entry[0]) else None
    except msgpack.DECODE_ERRORS as error:
        yield _unreadable(entry, error)
        return
    # An array has several encodings: how many members it has is known when it is decoded.
    if not isinstance(members, list) or len(members) < 2:
        yield Unreadable(_NO_ENTRY, entry)
    elif members[1] is not None:
        yield members[1]


def _json_records(entries: list[Any]) -> Iterator[Any]:
    """Yield the entries' records, without those that are nil."""
    for entry in entries:
        if not isinstance(entry, list) or len(entry) < 2:
            yield Unreadable(_NO_ENTRY, _encode_any(entry))
        elif entry[1] is not None:
            yield entry[1]


def _decoded(member: bytes) -> Any:
    try:
        return msgpack.decode(member)
    except msgpack.DECODE_ERRORS as error:
        return _unreadable(member, error)


def _unreadable(data: bytes, error: Exception) -> Unreadable:
    return Unreadable(f"The record cannot be decoded: {str(error)[:200]}", data)


def _refuse(content: Any) -> Unreadable:
    return Unreadable("This is no message of the forward protocol.", _encode_any(content))


def _encode_any(content: Any) -> bytes | str:
    try:
        return _encode_json(content)
    except (UnicodeEncodeError, ValueError, TypeError, OverflowError):
        return ascii(content)[:MAX_SHOWN_BYTES]
    except RecursionError:
        return "It is nested too deeply to be shown."


def _option_of(members: list[bytes], place: int) -> Any:
    return _decoded(members[place]) if len(members) > place else None


def _chunk_of(message: list[Any], place: int) -> str | bytes | None:
    return _chunk_in(message[place]) if len(message) > place else None


def _chunk_in(option: Any) -> str | bytes | None:
    """Return the chunk that the sender waits for: that it names one asks for an acknowledgement.

    A name that cannot be sent back, for it holds halves of characters, is none.
    """
    chunk = option.get("chunk") if isinstance(option, dict) else None
    if not isinstance(chunk, (str, bytes)) or len(chunk) > MAX_CHUNK_NAME:
        return None
    if isinstance(chunk, str):
        try:
            chunk.encode()
        except UnicodeEncodeError:
            return None
    return chunk
