"""What a stream is cut into, and the bounds of it."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

# Of one record, as it came: more than a record with the largest metadata that an event may have.
MAX_RECORD_BYTES = 65_536
# Of one message on the wire, and of a chunk when it is inflated.
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_INFLATED_BYTES = 16 * 1024 * 1024
# What is kept of something that cannot be read, to show it.
MAX_SHOWN_BYTES = 1_024


class Unreadable(msgspec.Struct, frozen=True):
    """A message or record that is not what it should be; `content` is all of it, or its beginning."""

    message: str
    content: bytes | str
    is_oversized: bool = False


class _Heartbeat:
    """A nil message: the sender asks whether the connection lives, and expects nothing."""


HEARTBEAT = _Heartbeat()


class Undecodable(Exception):
    """The stream holds something after which nothing that follows can be told apart."""


class Stream(Protocol):
    """Cuts the bytes of one connection into messages. Feed, then take until there is none."""

    # The serialisation in which the sender is answered.
    is_json: bool

    @property
    def held_bytes(self) -> int:
        """Return how much of an unfinished message is held."""
        ...

    @property
    def taken_bytes(self) -> int:
        """Return how much was passed over so far, about: JSON is counted in characters."""
        ...

    def feed(self, data: bytes) -> None: ...

    def next_message(self) -> Any:
        """Return a decoded message, `HEARTBEAT`, an `Unreadable`, or None until more is fed.

        Raises `Undecodable`; nothing can be taken from the stream after that.
        """
        ...

    def give_up_message(self) -> None:
        """Keep nothing more of the unfinished message; it will come out as an oversized `Unreadable`."""
        ...
