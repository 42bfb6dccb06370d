"""The page of the quarantine: records that could not be counted, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

import msgspec
from django.http import HttpRequest

from accounts.access import Caller
from accounts.pages import text_parameter
from metering.dialects.weave.access import list_visible_records
from metering.dialects.weave.contexts.forwarding import reason_label
from metering.dialects.weave.models import QuarantinedRecord

PAGE_SIZE = 50
MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RecordRow:
    pk: int
    internal_instance_id: str
    amount_type: str
    unique_key: str
    reason: str
    label: str
    message: str
    peer: str
    received_at: datetime
    text: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class QuarantinePage:
    rows: list[RecordRow]
    instance: str
    next_url: str
    first_url: str


def get_quarantine_page(request: HttpRequest, caller: Caller) -> QuarantinePage:
    """A page of what waits, newest first; `before` is the id of the page before's last row."""
    instance, before = text_parameter(request, "instance"), text_parameter(request, "before")
    filters = {"instance": instance} if instance else {}
    waiting = list_visible_records(caller)
    if instance:
        waiting = waiting.filter(internal_instance_id=instance)
    if before.isascii() and before.isdigit() and int(before) <= MAX_ID:
        waiting = waiting.filter(pk__lt=int(before))
    found = list(waiting[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    has_more = len(found) > PAGE_SIZE
    return QuarantinePage(
        rows=[_record_row(record) for record in shown],
        instance=instance,
        next_url="?" + urlencode({**filters, "before": shown[-1].pk}) if has_more else "",
        first_url="?" + urlencode(filters) if before else "",
    )


def _record_row(record: QuarantinedRecord) -> RecordRow:
    return RecordRow(
        pk=record.pk,
        internal_instance_id=record.internal_instance_id,
        amount_type=record.amount_type,
        unique_key=record.unique_key,
        reason=record.reason,
        label=reason_label(record.reason),
        message=record.message,
        peer=record.peer,
        received_at=record.received_at,
        text=_readable(record.record),
        is_whole=record.is_whole,
    )


def _readable(text: str) -> str:
    """Return JSON with an indent, without parsing it, which would round the numbers; anything else as it came."""
    try:
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text
