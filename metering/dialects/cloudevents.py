"""CloudEvents 1.0 in structured JSON mode, single and batch.

Mapping: source and id → idempotency key, subject → customer, type → type, time → timestamp, data → properties,
`data.value` → value. Nested data becomes dotted property names. Source: the CloudEvents 1.0.2 specification.
"""

from typing import Any

from common.bodies import decode_json
from metering.incoming import IncomingEvent, MalformedEvent

EVENT_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"
SPEC_VERSION = "1.0"


def decode_cloudevents(body: bytes) -> list[IncomingEvent | MalformedEvent]:
    content = decode_json(body)
    members = content if isinstance(content, list) else [content]
    return [_to_event(member) for member in members]


def _to_event(content: Any) -> IncomingEvent | MalformedEvent:
    if not isinstance(content, dict):
        return MalformedEvent("", "A CloudEvent is a JSON object.")
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(content.get(name), str) or not content[name]:
            return MalformedEvent(name, "A CloudEvent needs this attribute, as a string that is not empty.")
    if content["specversion"] != SPEC_VERSION:
        return MalformedEvent("specversion", f"Only CloudEvents {SPEC_VERSION} is understood.")
    for name in ("subject", "time"):
        if name in content and not isinstance(content[name], str):
            return MalformedEvent(name, "This attribute is a string.")
    data = content.get("data")
    if data is not None and not isinstance(data, dict):
        return MalformedEvent("data", "The data of a usage event is a JSON object.")
    properties = _flatten(data or {})
    value = properties.pop("value", None)
    return IncomingEvent(
        idempotency_key=_key_of(content["source"], content["id"]),
        customer=content.get("subject"),
        type=content["type"],
        timestamp=content.get("time"),
        value=value,
        properties=properties or None,
    )


def _key_of(source: str, event_id: str) -> str:
    """Return one key for source and id, which the specification makes unique together.

    A source may hold a `#` of its own; it is escaped, so that no two pairs make the same key.
    """
    return f"{source.replace('%', '%25').replace('#', '%23')}#{event_id}"


def _flatten(data: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves under dotted names. Nulls are absent properties; lists stay and are refused by admission."""
    flat: dict[str, Any] = {}
    pending = [("", data)]
    while pending:
        path, content = pending.pop()
        for name, member in content.items():
            if isinstance(member, dict):
                pending.append((f"{path}{name}.", member))
            elif member is not None:
                flat[f"{path}{name}"] = member
    return flat
