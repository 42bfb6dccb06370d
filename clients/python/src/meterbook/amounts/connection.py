"""One connection to a forward listener: messages out, acknowledgements in. Knows nothing of amounts.

For one thread, except `abort`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping

# Acknowledgements are some forty bytes each and come after messages that asked for them, so little is ever unread.
MAX_UNREAD_CHARACTERS = 256 * 1024
READ_BYTES = 64 * 1024


class ForwardError(Exception):
    """The other side hung up, or said something that is no acknowledgement."""


class ForwardConnection:
    def __init__(self, address: tuple[str, int], *, timeout: float) -> None:
        self._timeout = timeout
        self._unread = b""
        self._socket = socket.create_connection(address, timeout)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def is_alive(self) -> bool:
        """Tell whether the other side has not hung up meanwhile, so that a message need not be lost to find out."""
        try:
            self._socket.settimeout(0)
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def deliver(self, unacknowledged: dict[str, bytes]) -> None:
        """Send the messages, and take each out when its acknowledgement comes.

        Raises `OSError` or `ForwardError` when that stops before the end: what is still there must be sent again.
        """
        self._socket.settimeout(self._timeout)
        self._socket.sendall(b"".join(unacknowledged.values()))
        deadline = time.monotonic() + self._timeout
        while unacknowledged:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ForwardError(f"{len(unacknowledged)} messages were not acknowledged within {self._timeout:g} s.")
            self._socket.settimeout(left)
            received = self._socket.recv(READ_BYTES)
            if not received:
                raise ForwardError("The listener closed the connection.")
            if self._take_acknowledgements(received, unacknowledged):
                deadline = time.monotonic() + self._timeout

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Have a call of another thread end at once."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _take_acknowledgements(self, received: bytes, unacknowledged: dict[str, bytes]) -> bool:
        """Read the objects that are whole; they come without a separator. Tell whether one was awaited."""
        self._unread += received
        begin, is_progress = 0, False
        # Objects are flat and of ASCII: each ends with its brace.
        while (end := self._unread.find(b"}", begin)) >= 0:
            chunk = _read_acknowledgement(self._unread[begin : end + 1])
            is_progress |= unacknowledged.pop(chunk, None) is not None
            begin = end + 1
        self._unread = self._unread[begin:]
        if len(self._unread) > MAX_UNREAD_CHARACTERS:
            raise ForwardError("The listener answered something that is no acknowledgement.")
        return is_progress


def _read_acknowledgement(text: bytes) -> str:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, Mapping) or not isinstance(answer.get("ack"), str):
        raise ForwardError(f"The listener answered {text[:80]!r}, which is no acknowledgement.")
    return str(answer["ack"])
