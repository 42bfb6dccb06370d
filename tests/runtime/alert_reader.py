"""A reader of the alert stream as any client is one: HTTP, redirects, Server-Sent Events, and where it stopped."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    event: str
    data: dict[str, Any]

    @property
    def offset(self) -> int:
        return int(self.id)


class Refused(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


class AlertReader:
    """One connection. `start_id` is the position that the stream told before any alert."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        last_event_id: int | None = None,
        receive_buffer: int | None = None,
        **parameters: Any,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        query = urlencode(parameters, doseq=True)
        address = f"{url}/v1/alerts/stream?{query}"
        self._receive_buffer = receive_buffer
        self._response = self._get(address, headers)
        if self._response.status == 307:
            location = self._response.headers["Location"]
            self.close()
            # As HTTP clients do when the port changes.
            self._response = self._get(location, {name: headers[name] for name in headers if name != "Authorization"})
        if self._response.status != 200:
            body = json.loads(self._response.read())
            self.close()
            raise Refused(self._response.status, body)
        self.start_id = self._read_block()["id"]

    def _get(self, address: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port)
        connection.sock = socket.socket()
        if self._receive_buffer is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        connection.sock.settimeout(PATIENCE_SECONDS)
        connection.sock.connect((parts.hostname, parts.port))
        connection.request("GET", f"{parts.path}?{parts.query}", headers=dict(headers))
        self._connection = connection
        return connection.getresponse()

    def next(self) -> Message | None:
        """Return the next message; None where the stream has ended."""
        while True:
            block = self._read_block()
            if block is None:
                return None
            if "data" in block:
                return Message(block.get("id", ""), block.get("event", "message"), json.loads(block["data"]))

    def take(self, count: int) -> list[Message]:
        taken = [message for _ in range(count) if (message := self.next()) is not None]
        assert len(taken) == count, f"the stream ended after {[message.id for message in taken]}"
        return taken

    def is_silent_for(self, seconds: float) -> bool:
        """Tell whether no message comes for so long. Nothing can be read afterwards."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._connection.sock.settimeout(left)
                if self.next() is not None:
                    return False
        except TimeoutError:
            pass
        return True

    def _read_block(self) -> Any:
        """Return the fields up to the next empty line, comments left out; None at the end of the stream."""
        fields: dict[str, str] = {}
        try:
            while line := self._response.readline():
                text = line.decode().rstrip("\n")
                if not text:
                    if fields:
                        return fields
                    continue
                name, _, value = text.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
        except (http.client.IncompleteRead, ConnectionError):
            pass
        return None

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> AlertReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
