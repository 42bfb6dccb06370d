"""The page of the quarantine: records that could not be counted, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.http import HttpRequest

from accounts.access import Caller
from accounts.pages import page_before, text_parameter
from metering.dialects.weave.access import list_visible_records
from metering.dialects.weave.contexts.forwarding import reason_label
from metering.dialects.weave.models import QuarantinedRecord

PAGE_SIZE = 50


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
    """A page of what waits, newest first."""
    instance = text_parameter(request, "instance")
    waiting = list_visible_records(caller)
    if instance:
        waiting = waiting.filter(internal_instance_id=instance)
    page = page_before(request, waiting, size=PAGE_SIZE, parameters={"instance": instance} if instance else {})
    return QuarantinePage(
        rows=[_record_row(record) for record in page.rows],
        instance=instance,
        next_url=page.next_url,
        first_url=page.first_url,
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
