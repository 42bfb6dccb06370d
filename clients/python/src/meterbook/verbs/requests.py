"""Recorded requests and their routes: `client.requests.*` and `client.routes.*`.

A record and a route are plain dictionaries, with the fields that the server's documentation names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote

from meterbook.errors import MeterbookError, ValidationError
from meterbook.events import IngestResult, new_key
from meterbook.verbs.events import MAX_EVENTS_PER_REQUEST
from meterbook.wire import Call, Listing, Plan, encode_json, one_object

REQUESTS_PATH = "/v1/requests"
ROUTES_PATH = "/v1/routes"


def record(requests: Iterable[Mapping[str, Any]] | Mapping[str, Any]) -> Plan[IngestResult]:
    """Record requests that were served, any number of them, and return the verdicts.

    Give each a `request_id` to be able to repeat the call: without one it gets it here, and a repetition would count
    again. Refused records are listed in the result; `ValidationError` is raised only when all of a call were.
    """
    remaining = iter([requests] if isinstance(requests, Mapping) else requests)
    total = IngestResult()
    sent_count = 0
    while batch := list(islice(remaining, MAX_EVENTS_PER_REQUEST)):
        body = encode_json([{"request_id": new_key(), **request} for request in batch])
        try:
            total += yield from send_requests(body, first_index=sent_count)
        except MeterbookError as error:
            error.partial = total
            raise
        sent_count += len(batch)
    return total


def send_requests(body: bytes, *, is_compressed: bool | None = None, first_index: int = 0) -> Plan[IngestResult]:
    """Send one call of encoded records. Every record has its id, so a transport may repeat it.

    Raises `ValidationError` when the call was refused; its `result` holds the verdicts, where it was readable.
    """
    try:
        answer = yield Call("POST", REQUESTS_PATH, (), body, is_compressed=is_compressed)
    except ValidationError as error:
        if "rejected" in error.body:
            error.result = IngestResult.from_json(error.body, first_index=first_index)
        raise
    return IngestResult.from_json(answer.json(), first_index=first_index)


def list_routes() -> Plan[list[dict[str, Any]]]:
    """Return the routes, and how each is metered."""
    return (yield from Listing(Call.get(ROUTES_PATH, limit=1000), dict).all())


def get_route(route_id: str) -> Plan[dict[str, Any]]:
    """Return one route. Raises `NotFoundError`."""
    return (yield from one_object(Call.get(_path(route_id))))


def create_route(**fields: Any) -> Plan[dict[str, Any]]:
    """Create a route of `id`, `name`, `method`, `path_pattern`, `metering_mode`, `metering_expr` and `metric`.

    Raises `ValidationError` for an expression that cannot be read, with the place.
    """
    return (yield from one_object(Call.post(ROUTES_PATH, fields)))


def update_route(route_id: str, **fields: Any) -> Plan[dict[str, Any]]:
    """Change the given fields of a route, for requests from now on."""
    return (yield from one_object(Call.send("PATCH", _path(route_id), fields, is_repeatable=True)))


def delete_route(route_id: str) -> Plan[None]:
    """Forget a route; what was recorded of it stays."""
    yield Call("DELETE", _path(route_id))


def _path(route_id: str) -> str:
    return f"{ROUTES_PATH}/{quote(str(route_id), safe='')}"
