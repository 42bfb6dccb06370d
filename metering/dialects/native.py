"""The native wire format: one JSON object, an array of them, or newline-delimited JSON."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from common.bodies import decode_json as decode_json_value
from common.bodies import read_number
from common.errors import ApplicationError, BadRequest, InvalidInput
from metering.incoming import IncomingEvent, MalformedEvent

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"

_one_event = msgspec.json.Decoder(IncomingEvent, float_hook=read_number)
_many_events = msgspec.json.Decoder(list[IncomingEvent], float_hook=read_number)
_many_raw = msgspec.json.Decoder(list[msgspec.Raw])

# msgspec ends its messages with the place: "… - at `$[3].customer`".
_PLACE = re.compile(r" - at `\$?(?:\[\d+\])?\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")


def decode_json(body: bytes) -> list[IncomingEvent | MalformedEvent]:
    """Decode one object or an array. Raises `BadRequest` with the position for malformed JSON."""
    if body.lstrip()[:1] != b"[":
        return [decode_one(body)]
    try:
        try:
            return _many_events.decode(body)  # type: ignore[return-value]  # a list is invariant
        except msgspec.ValidationError:
            # Some member has a field of the wrong type: decode one by one, so that only that member is refused.
            return [decode_one(bytes(member)) for member in _many_raw.decode(body)]
    except (BadRequest, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _why_malformed(body) from None


def decode_ndjson(body: bytes) -> list[IncomingEvent | MalformedEvent]:
    """Decode one object a line, passing over blank ones. A malformed line refuses the whole body, naming the line."""
    return list(_decode_lines(body))


def _decode_lines(body: bytes) -> Iterator[IncomingEvent | MalformedEvent]:
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            try:
                yield decode_one(line)
            except BadRequest as error:
                raise BadRequest(f"Line {number}: {error.message}", code=error.code, errors=error.errors) from None


def decode_one(body: bytes) -> IncomingEvent | MalformedEvent:
    try:
        return _one_event.decode(body)
    except msgspec.ValidationError as error:
        try:
            content = decode_json_value(body)
        except InvalidInput:  # an integer of thousands of digits: this event's fault, not its neighbours'
            content = None
        return _malformed_event(content, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _why_malformed(body) from None


def _why_malformed(body: bytes) -> ApplicationError:
    """Return the 400 that says where the body stops being JSON."""
    try:
        decode_json_value(body)
    except ApplicationError as error:
        return error
    raise AssertionError("the event decoder refused JSON that the general one accepts")


def _malformed_event(content: Any, message: str) -> MalformedEvent:
    unknown, place = _UNKNOWN_FIELD.search(message), _PLACE.search(message)
    field = unknown[1] if unknown else place[1] if place and place[1] else ""
    key = content.get("idempotency_key") if isinstance(content, dict) else None
    return MalformedEvent(field, _PLACE.sub("", message), key if isinstance(key, str) else None)
