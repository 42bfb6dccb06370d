"""MessagePack objects one after the other, in pieces that end anywhere.

The end of an object is found by counting: how many objects are still due. That walk can stop and go on anywhere, so
each byte is looked at once however small the pieces are; what is whole is decoded by msgspec.
Source: the MessagePack specification, formats and their first bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from metering.dialects.weave.wire.messages import (
    HEARTBEAT,
    MAX_MESSAGE_BYTES,
    MAX_SHOWN_BYTES,
    Undecodable,
    Unreadable,
)

NIL = 0xC0
_NEVER_USED = 0xC1
# What decoding raises for an object that is whole: text that is not UTF-8, a map with lists for keys, a deep nest.
DECODE_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)

_decode = msgspec.msgpack.Decoder().decode


def _tables() -> tuple[list[int], list[int], list[tuple[int, int, int]]]:
    """Return for each first byte: the object's bytes where they follow from it, else 0; its children; the rest.

    The rest is for objects with a length in their head: bytes of that length, bytes beside it, children per unit
    of it (0: the length counts bytes).
    """
    size, children = [1] * 256, [0] * 256
    lengths = [(0, 0, 0)] * 256
    for head in range(0x80, 0x90):
        children[head] = 2 * (head & 0x0F)  # fixmap
    for head in range(0x90, 0xA0):
        children[head] = head & 0x0F  # fixarray
    for head in range(0xA0, 0xC0):
        size[head] = 1 + (head & 0x1F)  # fixstr
    for head, width in ((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        size[head] = 1 + width  # floats, unsigned
    for head, width in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        size[head] = 1 + width  # signed
    for power, head in enumerate(range(0xD4, 0xD9)):
        size[head] = 2 + 2**power  # fixext
    for first in (0xC4, 0xD9):  # bin, str
        for power in range(3):
            lengths[first + power] = (2**power, 0, 0)
    for power, head in enumerate((0xC7, 0xC8, 0xC9)):
        lengths[head] = (2**power, 1, 0)  # ext
    lengths[0xDC], lengths[0xDD] = (2, 0, 1), (4, 0, 1)  # array
    lengths[0xDE], lengths[0xDF] = (2, 0, 2), (4, 0, 2)  # map
    for head, length in enumerate(lengths):
        if length[0]:
            size[head] = 0
    return size, children, lengths


_SIZE, _CHILDREN, _LENGTHS = _tables()


def walk(data: bytes | bytearray, place: int, due: int) -> tuple[int, int]:
    """Pass over `due` objects from `place`; return where that ended and how many are still due.

    The place may lie beyond the data: so many bytes of the last object have yet to come. Raises `Undecodable` for a
    byte that begins no object.
    """
    size, end = _SIZE, len(data)
    while due and place < end:
        head = data[place]
        step = size[head]
        if step:
            if head == _NEVER_USED:
                raise Undecodable("a byte that MessagePack never uses")
            place += step
            due += _CHILDREN[head] - 1
            continue
        width, beside, per_unit = _LENGTHS[head]
        content = place + 1 + width
        if content > end:
            break
        length = int.from_bytes(data[place + 1 : content], "big")
        if per_unit:
            place, due = content, due + length * per_unit - 1
        else:
            place, due = content + beside + length, due - 1
    return place, due


def is_array(head: int) -> bool:
    return 0x90 <= head < 0xA0 or head in {0xDC, 0xDD}


def is_bytes(head: int) -> bool:
    """Tell whether text or binary begins here: old senders use one type for both."""
    return 0xA0 <= head < 0xC0 or 0xC4 <= head <= 0xC6 or 0xD9 <= head <= 0xDB


def split_array(data: bytes) -> Iterator[bytes]:
    """Yield the members of an array, each as it was encoded. Raises `Undecodable` if it is not whole."""
    head = data[0]
    if head < 0xA0:
        count, place = head & 0x0F, 1
    else:
        width = _LENGTHS[head][0]
        count, place = int.from_bytes(data[1 : 1 + width], "big"), 1 + width
    for _ in range(count):
        end, due = walk(data, place, 1)
        if due or end > len(data):
            raise Undecodable("an array ends too early")
        yield data[place:end]
        place = end


def content_of(data: bytes) -> bytes:
    """Return what a whole text or binary object holds."""
    width = _LENGTHS[data[0]][0]
    return data[1 + width :]


def split_objects(data: bytes) -> Iterator[bytes]:
    """Yield the objects of a concatenation. Raises `Undecodable` where it does not end with one."""
    place = 0
    while place < len(data):
        end, due = walk(data, place, 1)
        if due or end > len(data):
            raise Undecodable("the entries end in the middle of one")
        yield data[place:end]
        place = end


class RawMessage(msgspec.Struct, frozen=True):
    """A whole array as it was encoded: which carrier it is, its beginning tells."""

    data: bytes


class MsgpackStream:
    is_json = False

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message = max_message_bytes
        self._data = bytearray()
        # Where the message begins that is looked at, how far the walk got in it, and what it still misses.
        self._start = 0
        self._place = 0
        self._due = 1
        self._given_up: bytes | None = None
        # Bytes that are no longer in the buffer.
        self._passed = 0

    @property
    def taken_bytes(self) -> int:
        return self._passed + self._start

    @property
    def held_bytes(self) -> int:
        return len(self._data) - self._start

    def allow(self, max_message_bytes: int) -> None:
        """Read messages of this size from now on."""
        self._max_message = max_message_bytes

    def feed(self, data: bytes) -> None:
        if self._start:
            # What was taken goes; the walk's place is counted from the beginning of what is left.
            del self._data[: self._start]
            self._passed += self._start
            self._place -= self._start
            self._start = 0
        self._data += data

    def next_message(self) -> Any:
        data, start = self._data, self._start
        self._place, self._due = walk(data, self._place, self._due)
        if self._due == 0 and self._place <= len(data):
            return self._take()
        if self._given_up is not None:
            self._drop_passed()
        elif len(data) - start > self._max_message:
            self.give_up_message()
        elif start < len(data) and not is_array(data[start]):
            raise Undecodable("a message is an array")
        return None

    def give_up_message(self) -> None:
        if self._given_up is None:
            self._given_up = bytes(self._data[self._start : self._start + MAX_SHOWN_BYTES])
        self._drop_passed()

    def _drop_passed(self) -> None:
        """Forget what was walked over of a message that is not kept."""
        passed = min(self._place, len(self._data))
        del self._data[:passed]
        self._passed += passed
        self._place -= passed
        self._start = 0

    def _take(self) -> Any:
        start, end = self._start, self._place
        self._start, self._due = end, 1
        if self._given_up is not None:
            beginning, self._given_up = self._given_up, None
            return Unreadable("The message is too large.", beginning, is_oversized=True)
        head = self._data[start]
        if is_array(head):
            return RawMessage(bytes(self._data[start:end]))
        if head == NIL:
            return HEARTBEAT
        raise Undecodable("a message is an array")


def decode(data: bytes) -> Any:
    """Decode one whole object. Raises one of `DECODE_ERRORS`."""
    return _decode(data)
