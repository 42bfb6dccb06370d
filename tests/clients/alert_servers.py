"""Two small HTTP servers that speak the wire contract of alerts: one answers the log and redirects, one streams.

For the interruptions that the real servers cannot be made to show at will: a stream that ends in the middle of a
message, that falls silent, that repeats itself, that tells its reader to resume. The log is a list in memory.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "mb_test_key"


def alert_body(offset: int, **fields: Any) -> dict[str, Any]:
    return {
        "offset": str(offset),
        "customer": "acme",
        "metric": "requests",
        "threshold_code": "cap",
        "threshold_value": "100.5",
        "value_at_cross": "101",
        "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
        "triggered_at": "2026-11-21T12:00:00Z",
        **fields,
    }


def running(hours: float = 1, **fields: Any) -> dict[str, Any]:
    """Return the fields of an alert whose period ends in so many hours (negative: has ended)."""
    now = datetime.now(UTC)
    period = {"start": (now - timedelta(days=20)).isoformat(), "end": (now + timedelta(hours=hours)).isoformat()}
    return {"period": period, "triggered_at": (now - timedelta(minutes=1)).isoformat(), **fields}


def message(offset: int, **fields: Any) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (offset, json.dumps(alert_body(offset, **fields)).encode())


class AlertServers:
    """The log, and what the next connections to the stream will get: a script of pieces each, else the log itself.

    A piece is bytes to send, or `"hold"`: keep the connection open and say nothing until the servers end.
    """

    def __init__(self) -> None:
        self.offsets: list[int] = []
        # What makes an alert different from `alert_body`'s, by offset.
        self.fields: dict[int, dict[str, Any]] = {}
        self.scripts: list[list[bytes | str]] = []
        # The statuses with which the next requests to the first server are refused; 0: not.
        self.refusals: list[int] = []
        # The `since` of every connection to the stream, and of every request to the log.
        self.stream_requests: list[int] = []
        self.log_requests: list[int] = []
        self.grew = threading.Condition()
        self.is_over = False
        self._servers: list[ThreadingHTTPServer] = []

    def append(self, *offsets: int, **fields: Any) -> None:
        with self.grew:
            self.fields |= dict.fromkeys(offsets, fields)
            self.offsets += offsets
            self.grew.notify_all()

    def wait_for_more_than(self, count: int) -> list[int]:
        """Return what the log holds beyond its first so many, as soon as there is something, or all is over."""
        with self.grew:
            self.grew.wait_for(lambda: self.is_over or len(self.offsets) > count)
            return self.offsets[count:]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def stream_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    @contextmanager
    def running(self) -> Iterator["AlertServers"]:
        for _ in range(2):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
            server.daemon_threads = True
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            with self.grew:
                self.is_over = True
                self.grew.notify_all()
            for server in self._servers:
                server.shutdown()
                server.server_close()


def _handler_of(servers: AlertServers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = parse_qs(address.query)
            since = int(query.get("since", ["0"])[0])
            try:
                if address.path == "/v1/alerts":
                    servers.log_requests.append(since)
                    self._answer_log(since, int(query["limit"][0]))
                elif address.path == "/v1/metrics":
                    self._answer(200, b'{"data": [], "next_cursor": null}')
                elif "ticket" in query:
                    servers.stream_requests.append(since)
                    self._stream(since)
                else:
                    self._redirect()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer_log(self, since: int, limit: int) -> None:
            if self._is_refused():
                return
            found = [offset for offset in servers.offsets if offset > since][:limit]
            following = str(found[-1] if found else since)
            body = {
                "data": [alert_body(offset, **servers.fields[offset]) for offset in found],
                "next_offset": following,
                "last_offset": str(max(servers.offsets, default=0)),
            }
            self._answer(200, json.dumps(body).encode())

        def _is_refused(self) -> bool:
            status = servers.refusals.pop(0) if servers.refusals else 0
            if status:
                self._answer(status, b'{"code": "refused", "message": "no", "errors": []}')
            return status != 0

        def _redirect(self) -> None:
            if self._is_refused():
                return
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self._answer(401, b'{"code": "not_authenticated", "message": "Who?", "errors": []}')
            else:
                self._answer(307, b"", location=f"{servers.stream_url}{self.path}&ticket=t")

        def _stream(self, since: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._send(b": listening\nretry: 50\n\n")
            script = servers.scripts.pop(0) if servers.scripts else None
            if script is None:
                self._send_log(since)
            else:
                for piece in script:
                    if isinstance(piece, bytes):
                        self._send(piece)
                    else:
                        with servers.grew:
                            servers.grew.wait_for(lambda: servers.is_over)
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def _send_log(self, since: int) -> None:
            sent_count = sum(offset <= since for offset in servers.offsets)
            while not servers.is_over:
                new = servers.wait_for_more_than(sent_count)
                for offset in new:
                    self._send(message(offset, **servers.fields[offset]))
                sent_count += len(new)

        def _send(self, piece: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

        def _answer(self, status: int, body: bytes, location: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if location is not None:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
