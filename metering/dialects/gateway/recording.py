"""The wire format of requests: a record as it arrives, and the event that it becomes. Pure.

Owns what a record may hold. What an event may hold, times and customers among it, `metering.admission` examines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec

from common.bodies import decode_json, read_number
from common.errors import ApplicationError, BadRequest, FieldError, InvalidInput
from metering.admission import DECIMAL_TEXT, MAX_FRACTION_DIGITS, EventError
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.domain import Metering, RouteTable
from metering.dialects.gateway.expressions import MeteringError, Record
from metering.dialects.gateway.latency import MAX_LATENCY_MS, find_bucket
from metering.incoming import IncomingEvent, MalformedEvent

ANONYMOUS = "anonymous"
# The code of a record whose expression gave no number, where its route's policy is to reject it.
METERING_ERROR = "metering_error"
UNIT_PROPERTY = "metered_units"
# Of every event of a request, besides the units: no metric of a route's own may take one of these.
EVENT_PROPERTIES = frozenset(
    {
        "status",
        "method",
        "latency_ms",
        "latency_bucket",
        "total_bytes",
        "request_bytes",
        "response_bytes",
        "metering_mode",
        "metering_error",
        "route_id",
        "api_key_id",
        "path",
        "query_params",
        "error_code",
        "ip_address",
    }
)
MAX_BYTES = 10**15
MAX_TEXT_CHARACTERS = 2048  # of a path, of a query
MAX_PARAMETERS = 100
MAX_ADDRESS_CHARACTERS = 64  # the longest of IPv6 and the name of an interface as its zone have 61

_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Path = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARACTERS)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]


class RequestRecord(msgspec.Struct, forbid_unknown_fields=True):
    """One request as the gateway tells it. Absent, null and empty are the same for whatever may be left out."""

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    status_code: Annotated[int, msgspec.Meta(ge=100, le=599)]
    latency_ms: Any
    request_id: str | None = None
    user_id: _Name | None = None
    api_key_id: _Name | None = None
    route_id: _Name | None = None
    path: _Path | None = None
    query_params: Any = None
    timestamp: Any = None
    request_bytes: _Bytes = 0
    response_bytes: _Bytes = 0
    error_code: _Name | None = None
    ip_address: Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS_CHARACTERS)] | None = None
    # JSON, decoded where a route's expression asks for it, and never stored.
    request_body: msgspec.Raw = msgspec.Raw()
    response_body: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class RecordingRules:
    """What the organization says about its requests."""

    table: RouteTable
    # Of `IpStorage`.
    ip_storage: str
    is_path_stored: bool


@dataclass(slots=True)
class TranslatedBatch:
    """The events of a request's records, in their order, and what the expressions could not say."""

    events: list[IncomingEvent | MalformedEvent] = field(default_factory=list)
    # By index: the expression failed, and the policy gave the units or refused the record.
    metering_errors: dict[int, MeteringError] = field(default_factory=dict)
    # By index: what is told of the records that were refused for it, as events that say why and have no units.
    unmetered: dict[int, IncomingEvent] = field(default_factory=dict)


class RefusedField(Exception):
    """Why a record is refused: a field of it, and a sentence."""

    def __init__(self, name: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.field, self.message, self.code = name, message, code or f"invalid_{name}"


# --- decoding -------------------------------------------------------------------------------------------------

_one_record = msgspec.json.Decoder(RequestRecord, float_hook=read_number)
_many_records = msgspec.json.Decoder(list[RequestRecord], float_hook=read_number)
_many_raw = msgspec.json.Decoder(list[msgspec.Raw])
_one_object = msgspec.json.Decoder(dict[str, msgspec.Raw])

# msgspec ends its messages with the place: "… - at `$.status_code`".
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED = re.compile(r"(unknown|missing required) field `([^`]+)`")

Decoded = RequestRecord | MalformedEvent


def decode_records(body: bytes) -> list[Decoded]:
    """Decode one object, an array, or `{"requests": […]}`. Raises `BadRequest` with the position for malformed JSON.

    A member that is no record takes its place as a `MalformedEvent`, so that only that member is refused.
    """
    try:
        array = _array_of(body)
        try:
            return _many_records.decode(array)  # type: ignore[return-value]  # a list is invariant
        except msgspec.ValidationError:
            return list(_decode_each(array))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _why_malformed(body) from None


def _array_of(body: bytes) -> bytes:
    """Return the JSON array of records that the body holds or is one member of."""
    if body.lstrip()[:1] == b"[":
        return body
    try:
        top = _one_object.decode(body)
    except msgspec.ValidationError:
        raise InvalidInput.of("body", 'Send one record, an array of them, or {"requests": […]}.') from None
    if "requests" not in top:
        return b"[" + body + b"]"
    if len(top) > 1:
        name = next(name for name in top if name != "requests")[:100]
        raise InvalidInput.of(name, "This field is not known beside `requests`.", "unknown_field")
    array = bytes(top["requests"])
    if array.lstrip()[:1] != b"[":
        raise InvalidInput.of("requests", "An array of records.")
    return array


def _decode_each(array: bytes) -> Iterator[Decoded]:
    for member in _many_raw.decode(array):
        try:
            yield _one_record.decode(member)
        except msgspec.ValidationError as error:
            yield _malformed(bytes(member), str(error))


def _malformed(member: bytes, message: str) -> MalformedEvent:
    named, place = _NAMED.search(message), _PLACE.search(message)
    name = named[2] if named else place[1] if place else ""
    code = {"unknown": "unknown_field", "missing required": "required"}[named[1]] if named else ""
    return MalformedEvent(
        name,
        _PLACE.sub("", message),
        _request_id(member),
        code=code or (f"invalid_{name}" if name else "invalid_record"),
    )


def _request_id(member: bytes) -> str | None:
    """Return the id of what is no record, if it has one: the sender knows it by that."""
    try:
        content = decode_json(member)
    except ApplicationError:  # an integer of thousands of digits: this record's fault, not its neighbours'
        return None
    key = content.get("request_id") if isinstance(content, dict) else None
    return key if isinstance(key, str) else None


def _why_malformed(body: bytes) -> ApplicationError:
    """Return the 400 that says where the body stops being JSON."""
    try:
        decode_json(body)
    except ApplicationError as error:
        return error
    # What the record decoder passes over unread, the general one takes apart: it may find less, never more.
    return BadRequest(
        "The body is not valid JSON.", code="malformed_json", errors=[FieldError("body", "malformed_json", "Not JSON.")]
    )


# --- translation ----------------------------------------------------------------------------------------------


def translate_records(records: Sequence[Decoded], rules: RecordingRules) -> TranslatedBatch:
    batch = TranslatedBatch()
    for index, record in enumerate(records):
        if isinstance(record, MalformedEvent):
            batch.events.append(record)
            continue
        try:
            event = _translate(index, record, rules, batch)
        except RefusedField as refusal:
            event = MalformedEvent(refusal.field, refusal.message, record.request_id, code=refusal.code)
        batch.events.append(event)
    return batch


def _translate(
    index: int, record: RequestRecord, rules: RecordingRules, batch: TranslatedBatch
) -> IncomingEvent | MalformedEvent:
    latency = _latency(record.latency_ms)
    method = record.method.upper()
    if not (method.isascii() and method.replace("-", "").isalpha()):
        raise RefusedField("method", "A method is a word, like GET.")
    path, query = _place_of(record)
    metering = _find_metering(rules.table, record.route_id, method, path)
    properties: dict[str, Any] = {
        "status": str(record.status_code),
        "method": method,
        "latency_ms": latency,
        "latency_bucket": str(find_bucket(Decimal(latency))),
        "total_bytes": record.request_bytes + record.response_bytes,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
    }
    route_id = metering.route_id if metering else record.route_id
    optional = {"route_id": route_id, "api_key_id": record.api_key_id, "error_code": record.error_code}
    if rules.is_path_stored:
        optional |= {"path": path, "query_params": query}
    if record.ip_address:
        optional["ip_address"] = _find_kept_ip(record.ip_address, rules.ip_storage)
    properties |= {name: text for name, text in optional.items() if text}
    error = _add_units(record, metering, latency, properties)
    event = IncomingEvent(
        idempotency_key=record.request_id,
        customer=record.user_id or ANONYMOUS,
        type=EVENT_TYPE,
        timestamp=record.timestamp,
        properties=properties,
    )
    if error is not None:
        batch.metering_errors[index] = error
        if UNIT_PROPERTY not in properties:
            batch.unmetered[index] = event
            raise RefusedField("metering_expr", f"{error.code}: {error.message}", METERING_ERROR)
    return event


def _find_metering(table: RouteTable, route_id: str | None, method: str, path: str) -> Metering | None:
    """A route that the record names but nobody defined is no other route: its requests count one each."""
    if route_id:
        return table.find_by_id(route_id)
    return table.find_by_path(method, path) if path else None


def _add_units(
    record: RequestRecord, metering: Metering | None, latency: int | Decimal, properties: dict[str, Any]
) -> MeteringError | None:
    """Add what the request is metered at. Return why its expression said nothing; by the route's policy it then has
    some units all the same, or none and is refused."""
    properties["metering_mode"] = metering.mode if metering else "request"
    if metering is None:
        properties[UNIT_PROPERTY] = 1
        return None
    facts = Record(
        status=record.status_code,
        latency_ms=latency,
        request_bytes=record.request_bytes,
        response_bytes=record.response_bytes,
        request_body=record.request_body,
        response_body=record.response_body,
    )
    failure: MeteringError | None = None
    try:
        units = metering.count_units(facts)
    except MeteringError as error:
        failure = error
        properties["metering_error"] = error.code
        if metering.policy == "reject":
            return failure
        units = Decimal(metering.policy == "one")
    properties[UNIT_PROPERTY] = units
    if metering.unit_property:
        properties[metering.unit_property] = units
    return failure


def _latency(value: Any) -> int | Decimal:
    number: int | Decimal | None = None
    if type(value) is int or type(value) is Decimal:
        number = value
    elif type(value) is str and DECIMAL_TEXT.match(value):
        number = Decimal(value)
    if number is None or not 0 <= number <= MAX_LATENCY_MS:
        raise RefusedField("latency_ms", f"Milliseconds: a number or a decimal string from 0 to {MAX_LATENCY_MS}.")
    if isinstance(number, Decimal):
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)  # JSON has no NaN and the text pattern none
        if -exponent > MAX_FRACTION_DIGITS:
            raise RefusedField("latency_ms", f"At most {MAX_FRACTION_DIGITS} digits after the point.")
    return number or 0  # without the exponent that a zero may have


def _place_of(record: RequestRecord) -> tuple[str, str]:
    """Return path and query, also where a gateway sends both as one."""
    path, _, rest = (record.path or "").partition("?")
    query = record.query_params
    if isinstance(query, dict):
        query = _encode_query(query)
    if query is not None and not isinstance(query, str):
        raise RefusedField("query_params", "The query as text, or an object of texts and lists of texts.")
    query = query or rest
    if len(query) > MAX_TEXT_CHARACTERS:
        raise RefusedField("query_params", f"At most {MAX_TEXT_CHARACTERS} characters.")
    return path, query


def _encode_query(parameters: dict[str, Any]) -> str:
    pairs = [
        (name, value)
        for name, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    if len(pairs) > MAX_PARAMETERS or not all(isinstance(value, str) for _, value in pairs):
        raise RefusedField("query_params", f"An object of at most {MAX_PARAMETERS} texts, or of lists of them.")
    return urlencode(pairs)


def _find_kept_ip(text: str, storage: str) -> str:
    """Return what is kept of an address; empty: nothing, and then nobody remembers it either."""
    if storage == "off":
        _read_ip(text)
        return ""
    return _stored_ip(text, storage)


@lru_cache(maxsize=4096)
def _stored_ip(text: str, storage: str) -> str:
    """Return the address or, cut off, the network of /24 or /48 bits. The text is short: it stays in memory."""
    address = _read_ip(text)
    if storage == "full":
        return str(address)
    dropped = 8 if isinstance(address, IPv4Address) else 80
    return str(type(address)(int(address) >> dropped << dropped))


def _read_ip(text: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise RefusedField("ip_address", "An IPv4 or IPv6 address.") from None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without the zone of a link-local one
    return address


# --- verdicts -------------------------------------------------------------------------------------------------

# What a record calls the fields of its event.
_RECORD_FIELDS = {"customer": "user_id", "idempotency_key": "request_id", "properties": "path"}


def in_words_of_record(error: EventError) -> EventError:
    """Return the verdict on an event as one on its record."""
    if error.code == "unknown_field":
        return error
    name = error.field.removeprefix("properties.")
    return EventError(error.index, error.idempotency_key, error.code, _RECORD_FIELDS.get(name, name), error.message)
