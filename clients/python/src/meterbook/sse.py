"""Server-Sent Events, without the network: bytes in, messages out, and where to resume."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    event: str
    data: str


@dataclass(slots=True)
class MessageReader:
    """Assembles messages from the pieces of a stream, as the HTML standard describes them.

    `last_id` survives reconnections: it is what `Last-Event-ID` must say to lose nothing. Lines end at line feeds
    alone: `str.splitlines` would also cut at characters that JSON leaves as they are.
    """

    last_id: str = ""
    retry_seconds: float | None = None
    _rest: bytes = b""
    _id: str | None = None
    _event: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, piece: bytes) -> list[Message]:
        """Take the next bytes, however they are cut; return the messages that they complete."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        messages = (self._take_line(line.removesuffix(b"\r").decode(errors="replace")) for line in lines)
        return [message for message in messages if message is not None]

    def reconnect(self) -> dict[str, str]:
        """Forget the message that the broken connection left half-read; return the headers that resume after it."""
        self._rest = b""
        self._clear()
        return {"Accept": "text/event-stream", **({"Last-Event-ID": self.last_id} if self.last_id else {})}

    def _take_line(self, line: str) -> Message | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isdecimal():
            self.retry_seconds = int(value) / 1000
        return None

    def _complete(self) -> Message | None:
        if self._id is not None:  # only now: a message cut off in the middle has not been seen
            self.last_id = self._id
        message = Message(self.last_id, self._event or "message", "\n".join(self._data)) if self._data else None
        self._clear()
        return message

    def _clear(self) -> None:
        self._id, self._event, self._data = None, "", []
