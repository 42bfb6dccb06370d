"""A program that serves and records requests, for servers to run: three pieces for each, an exception for `/19`."""

import os
from collections.abc import Iterable
from typing import Any

from meterbook import Client
from meterbook.tracking import ASGITracking, WSGITracking

client = Client(os.environ["RECORD_URL"], os.environ["RECORD_KEY"], trust_env=False)
recorder = client.track_requests(flush_interval_ms=3_600_000)


def _serve_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/19":
        raise ValueError("as told")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (b"x" * 1000 for _ in range(3))


async def _serve_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"] == "/19":
            raise ValueError("as told")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": number < 2})


wsgi = WSGITracking(_serve_wsgi, recorder)
asgi = ASGITracking(_serve_asgi, recorder)
