"""The billing-client's record as an event: keys, codes of metrics, and what makes a record unreadable. Pure."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec

from metering.admission import MAX_KEY_CHARACTERS
from metering.incoming import QueuedEvent

# Of a sender's words; what is longer is kept in a record's text alone.
MAX_WORD_CHARACTERS = 256
MAX_CODE_CHARACTERS = 64
_NOT_IN_CODE = re.compile(r"[^a-z0-9_.:-]")
_DIGEST_CHARACTERS = 12
# What no UTF-8 holds: bytes that were none (`wire.json_stream`), or escapes of halves of characters.
_SURROGATES = re.compile("[\ud800-\udfff]")

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_WORD_CHARACTERS)]
Amount = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class AmountRecord(msgspec.Struct):
    """One amount of one instance, as the billing-client sends it. What else a record holds is not counted."""

    unique_key: Annotated[str, msgspec.Meta(min_length=1)]
    internal_instance_id: Word
    amount_type: Word
    amount_value: Amount
    occurred_at: str
    metadata: dict[str, Any] | None = None


class Arrival(msgspec.Struct):
    """A record (or an `Unreadable`) as a stream held it, who sent it and when; once it is read, what it says."""

    record: Any
    peer: str
    received_at: datetime
    amount: AmountRecord | None = None
    instance_id: str = ""


class Refused(NamedTuple):
    """Why a record is not counted: a `QuarantineReason` or a code of `metering.admission`, and a sentence."""

    arrival: Arrival
    reason: str
    message: str


class UnreadableRecord(ValueError):
    """The record is not one of the billing-client's; the message says in what."""


def read_record(record: Any) -> AmountRecord:
    """Return the record with every field of the right type. Raises `UnreadableRecord`."""
    try:
        amount = msgspec.convert(record, AmountRecord)
    except (msgspec.ValidationError, UnicodeError):
        # Old senders write text as binary.
        try:
            amount = msgspec.convert(as_text(record), AmountRecord)
        except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
            raise UnreadableRecord(str(error)) from None
    if has_broken_text(amount):
        raise UnreadableRecord("The record holds text that is not UTF-8, or NUL.")
    return amount


def has_broken_text(amount: AmountRecord) -> bool:
    """Tell whether a field holds what cannot be stored as text (of key and metadata, the ingest refuses NUL itself)."""
    words = [amount.unique_key, amount.internal_instance_id, amount.amount_type]
    if "\x00" in words[1] or "\x00" in words[2]:
        return True
    if amount.metadata:
        words += amount.metadata
        words += [value for value in amount.metadata.values() if type(value) is str]
    text = "".join(words)
    return not text.isascii() and _SURROGATES.search(text) is not None


def as_text(content: Any) -> Any:
    """Return the content with binary strings as text, as deep as a record of the billing-client goes.

    Raises `UnicodeDecodeError` for binary that is no text.
    """
    if isinstance(content, bytes):
        return content.decode()
    if isinstance(content, dict):
        return {as_text(name): _member_as_text(value) for name, value in content.items()}
    return content


def _member_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(name): _plain(member) for name, member in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def to_event(arrival: Arrival, *, customer: str) -> QueuedEvent:
    """Return the event of a record that was read."""
    amount = arrival.amount
    assert amount is not None
    return QueuedEvent(
        idempotency_key=key_of(amount.internal_instance_id, amount.unique_key),
        customer=customer,
        type=amount.amount_type,
        value=amount.amount_value,
        timestamp=amount.occurred_at,
        properties=amount.metadata or None,
        arrived_at=arrival.received_at,
    )


def key_of(internal_instance_id: str, unique_key: str) -> str:
    """Return the idempotency key: senders make theirs unique within an instance only.

    Different pairs have different keys: a slash in the id is escaped, and the digest of what is too long has none.
    """
    if "/" in internal_instance_id or "%" in internal_instance_id:
        internal_instance_id = internal_instance_id.replace("%", "%25").replace("/", "%2F")
    key = f"{internal_instance_id}/{unique_key}"
    if len(key) <= MAX_KEY_CHARACTERS:
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def code_of(amount_type: str) -> str:
    """Return the code of the metric for an amount type: itself where it is one, else what is left and a digest."""
    code = _NOT_IN_CODE.sub("_", amount_type.lower())[:MAX_CODE_CHARACTERS]
    return code if code == amount_type else distinct_code_of(amount_type)


def distinct_code_of(amount_type: str) -> str:
    """Return a code that no other amount type has: for what is not a code itself, or where its code is taken."""
    digest = hashlib.sha256(amount_type.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    room = MAX_CODE_CHARACTERS - _DIGEST_CHARACTERS - 1
    return f"{_NOT_IN_CODE.sub('_', amount_type.lower())[:room]}.{digest}"


def encode_record(record: Any) -> str:
    """Return the record as JSON text, whatever it holds, with the same text for the same content."""
    try:
        return _encoder.encode(_plain_content(record)).decode()
    except RecursionError:
        return "It is nested too deeply to be shown."
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
        return ascii(record)


_encoder = msgspec.json.Encoder(decimal_format="number", order="sorted", enc_hook=repr)


def _plain_content(content: Any) -> Any:
    """Binary would be written as base 64, and integers beyond 64 bits not at all."""
    if isinstance(content, bytes):
        return content.decode(errors="replace")
    if isinstance(content, dict):
        return {_plain_content(name): _plain_content(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain_content(value) for value in content]
    if type(content) is int and not -(2**63) <= content < 2**64:
        return Decimal(content)
    return content
