"""Tracking around a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from meterbook.tracking.names import NameOf, Names
from meterbook.tracking.recorder import RequestRecorder
from meterbook.tracking.watch import BodyCopy, Watch, is_json_type, read_length

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]


def remote_address(environ: Environ) -> str | None:
    """Return the address that the connection came from: behind a proxy, the proxy's."""
    address: str | None = environ.get("REMOTE_ADDR")
    return address


class WSGITracking:
    """Records every request that the application serves. The answer passes through piece by piece, untouched.

    `user_of(environ)`, `api_key_of`, `route_of` and `error_code_of` name what the record is about, and are called
    when the request is over, so that the application may have written down what it found out. Without `route_of` the
    server finds the route by method and path. `api_key_of` names the key, and is not the key. `ip_of` is by default
    the connection's address; None sends none. `has_query`: whether the query is recorded.
    """

    def __init__(
        self,
        application: Application,
        recorder: RequestRecorder,
        *,
        user_of: NameOf[Environ] | None = None,
        api_key_of: NameOf[Environ] | None = None,
        route_of: NameOf[Environ] | None = None,
        error_code_of: NameOf[Environ] | None = None,
        ip_of: NameOf[Environ] | None = remote_address,
        has_query: bool = False,
    ) -> None:
        self._application = application
        self._recorder = recorder
        self._has_query = has_query
        self._names = Names[Environ](
            recorder,
            user_id=user_of,
            api_key_id=api_key_of,
            route_id=route_of,
            error_code=error_code_of,
            ip_address=ip_of,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        watch = self._begin(environ) if self._recorder.is_enabled else None
        if watch is None:
            return self._application(environ, start_response)
        try:
            pieces = self._application(environ, _observed_start(start_response, watch, self._recorder))
        except BaseException as error:
            self._end(watch, environ, error)
            raise
        # A list is passed on as it is: servers tell the answer's length from it.
        if isinstance(pieces, list | tuple) and watch.status:
            for piece in pieces:
                watch.take_response(piece)
            self._end(watch, environ)
            return pieces
        return ObservedPieces(pieces, watch, lambda error: self._end(watch, environ, error))

    def _begin(self, environ: Environ) -> Watch | None:
        try:
            watch = Watch(
                environ["REQUEST_METHOD"],
                _decode(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")),
                environ.get("QUERY_STRING") if self._has_query else None,
                read_length(environ.get("CONTENT_LENGTH")),
            )
            if self._recorder.bodies.reads_requests and is_json_type(environ.get("CONTENT_TYPE")):
                watch.request_body = BodyCopy(self._recorder.tracking.max_body_bytes)
            if watch.request_body is not None or "HTTP_TRANSFER_ENCODING" in environ:
                environ["wsgi.input"] = _ObservedInput(environ["wsgi.input"], watch)
        except Exception as failure:  # a server that keeps to no rule: its request is served nevertheless
            self._recorder.note_failure(failure)
            return None
        return watch

    def _end(self, watch: Watch, environ: Environ, error: BaseException | None = None) -> None:
        if watch.end(error):
            self._names.fill(watch, environ)
            self._recorder.add(watch)


def _observed_start(start_response: StartResponse, watch: Watch, recorder: RequestRecorder) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        watch.status = int(status[:3]) if status[:3].isdecimal() else 0
        if recorder.bodies.reads_responses:
            content_type = next((value for name, value in headers if name.lower() == "content-type"), None)
            watch.response_body = BodyCopy(recorder.tracking.max_body_bytes) if is_json_type(content_type) else None
        write = start_response(status, headers, *exc_info)

        def observed_write(piece: bytes) -> object:
            watch.take_response(piece)
            return write(piece)

        return observed_write

    return start


class ObservedPieces:
    """The pieces of an answer on their way out. The request is over when they are, or when the server closes them."""

    def __init__(self, pieces: Iterable[bytes], watch: Watch, end: Callable[[BaseException | None], None]) -> None:
        self._pieces = pieces
        self._watch = watch
        self._end = end
        self._remaining: Iterator[bytes] | None = None

    def __iter__(self) -> ObservedPieces:
        return self

    def __next__(self) -> bytes:
        try:
            if self._remaining is None:
                self._remaining = iter(self._pieces)
            piece = next(self._remaining)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._watch.take_response(piece)
        return piece

    def close(self) -> None:
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._end(None)


class _ObservedInput:
    """The request's body on its way in."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch

    def read(self, *size: int) -> bytes:
        return self._pass(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._pass(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._pass(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._pass, iter(self._stream))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _pass(self, piece: bytes) -> bytes:
        self._watch.take_request(piece)
        return piece


def _decode(text: str) -> str:
    """Return the path in the text that its bytes stand for; WSGI hands each byte over as one character."""
    return text if text.isascii() else text.encode("latin-1", "replace").decode("utf-8", "replace")
