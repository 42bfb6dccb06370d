"""Writes to the quarantine: keep what cannot be counted, and discard it. Letting go is in `release`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection, transaction

from accounts.models import Organization
from accounts.services import record_audit
from metering.dialects.weave.domain import MAX_WORD_CHARACTERS, Arrival, Refused, encode_record
from metering.dialects.weave.models import QuarantineReason
from metering.dialects.weave.queries.instances import find_owners
from metering.dialects.weave.queries.quarantine import list_quarantined
from metering.dialects.weave.wire import MAX_RECORD_BYTES, Unreadable

# Shared by whoever quarantines records of unknown instances, taken alone by a change of the mappings: a record
# that is quarantined as unknown is of an instance that is unknown.
MAPPING_LOCK = 0x4D42_0010
_UNKNOWN = "No organization has mapped the instance."
_MAX_MESSAGE = 500

# One row per record that does not wait already, in the order of digests, so that two writers cannot deadlock.
_KEEP = """
INSERT INTO weave_quarantinedrecord (
    organization_id, internal_instance_id, unique_key, amount_type, reason, message, record, is_whole, digest, peer,
    received_at
)
SELECT *
FROM unnest(
    %(organizations)s::bigint[], %(instances)s::text[], %(keys)s::text[], %(types)s::text[], %(reasons)s::text[],
    %(messages)s::text[], %(records)s::text[], %(whole)s::boolean[], %(digests)s::bytea[], %(peers)s::text[],
    %(times)s::timestamptz[]
) AS kept (
    organization_id, internal_instance_id, unique_key, amount_type, reason, message, record, is_whole, digest, peer,
    received_at
)
ORDER BY digest
ON CONFLICT DO NOTHING
"""
_COLUMNS = (
    *("organizations", "instances", "keys", "types", "reasons", "messages", "records", "whole", "digests", "peers"),
    "times",
)


def keep_refused(*, refused: Sequence[Refused], organization: Organization | None = None) -> None:
    """Keep records that were refused. A record that waits already stays one row.

    Without an organization they are of whoever has mapped the instance that they name, if it can be told.
    """
    if organization is None:
        names = [_storable(_words(refusal.arrival.record)[0], MAX_WORD_CHARACTERS) for refusal in refused]
        owners = find_owners({name for name in names if name})
        whose = {name: owner.organization_id for name, owner in owners.items()}
        rows = [_to_row(refusal, whose.get(name)) for refusal, name in zip(refused, names, strict=True)]
    else:
        rows = [_to_row(refusal, organization.pk) for refusal in refused]
    _insert(rows)


@transaction.atomic
def keep_unknown(*, arrivals: Sequence[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
    """Keep records of unknown instances; return those, and those that are not: their instance was mapped just now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [MAPPING_LOCK])
    owners = find_owners({arrival.instance_id for arrival in arrivals})
    kept = [arrival for arrival in arrivals if arrival.instance_id not in owners]
    _insert([_to_row(Refused(arrival, QuarantineReason.UNKNOWN_INSTANCE, _UNKNOWN), None) for arrival in kept])
    return kept, [arrival for arrival in arrivals if arrival.instance_id in owners]


@transaction.atomic
def discard_quarantined(*, organization: Organization, ids: Sequence[int], actor: str) -> int:
    """Drop waiting records that the organization sees (`queries.list_quarantined`); return how many."""
    seen = list_quarantined(organization).filter(pk__in=ids).order_by()
    discarded, _ = seen.delete()
    if discarded:
        record_audit(
            organization=organization, actor=actor, action="weave_quarantine.discarded", target=f"{discarded} records"
        )
    return discarded


def _insert(rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        columns: Mapping[str, list[Any]] = {
            name: list(values) for name, values in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
        }
        with connection.cursor() as cursor:
            cursor.execute(_KEEP, columns)


def _to_row(refusal: Refused, organization_id: int | None) -> tuple[Any, ...]:
    arrival = refusal.arrival
    text, is_whole = _text_of(arrival.record)
    instance, key, amount_type = _words(arrival.record)
    return (
        organization_id,
        _storable(instance, MAX_WORD_CHARACTERS),
        _storable(key, MAX_WORD_CHARACTERS),
        _storable(amount_type, MAX_WORD_CHARACTERS),
        refusal.reason,
        _storable(refusal.message, _MAX_MESSAGE),
        _storable(text, MAX_RECORD_BYTES),
        is_whole and len(text) <= MAX_RECORD_BYTES,
        hashlib.sha256(text.encode(errors="replace")).digest(),
        arrival.peer,
        arrival.received_at,
    )


def _text_of(record: Any) -> tuple[str, bool]:
    """Return the record as text, and whether the text is all of it and can be read again."""
    if isinstance(record, Unreadable):
        content = record.content
        return (content.decode(errors="replace") if isinstance(content, bytes) else content), False
    text = encode_record(record)
    return text, text.startswith("{")


def _words(record: Any) -> tuple[str, str, str]:
    """Return instance, key and amount type as far as the record tells them."""
    if not isinstance(record, dict):
        return "", "", ""
    instance, key, amount_type = (
        value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
        for name in ("internal_instance_id", "unique_key", "amount_type")
        for value in [record.get(name, record.get(name.encode()))]
    )
    return instance, key, amount_type


def _storable(text: str, limit: int) -> str:
    """Return the text, or its beginning, without what PostgreSQL's text cannot hold."""
    return text[:limit].replace("\x00", "\ufffd").encode(errors="replace").decode()
