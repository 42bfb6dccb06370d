"""Reports of an organization: their numbers become events, and the server's row says what else it told.

A report is a reading at the moment it came in. There is no key by which a repetition would be known: two reports are
two readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from accounts.models import Customer, Organization
from common.errors import FieldError, InvalidInput
from metering.admission import EventError
from metering.catalogs.usage_client import REPORTED_VALUE, USAGE_CLIENT
from metering.dialects.influx.domain import (
    BEAT,
    UNKNOWN_CLUSTER,
    Report,
    append_gap,
    merge_facts,
    patience_with,
)
from metering.dialects.influx.models import Server
from metering.domain import MAX_BATCH_EVENTS
from metering.feeds import get_feed_book
from metering.incoming import IncomingEvent
from metering.services.ingest import IngestLimits, ingest_events
from metering.services.metrics import install_catalog

# What an event calls what the client calls otherwise.
FIELDS_OF_EVENTS = {"customer": "cluster_id"}


def store_reports(
    *, organization: Organization, actor: str, reports: Sequence[Report], limits: IngestLimits, now: datetime
) -> None:
    """Store what the reports count, then what they say of their servers; returns after the commit of both.

    The numbers are the customer's to whom the sender is bound, else of the cluster. Installs the catalog where the
    organization does not have it. Raises `InvalidInput` where a value was refused; all else is stored.
    """
    customers = {id(report): limits.only_customer or report.server.cluster_id or UNKNOWN_CLUSTER for report in reports}
    events = [event for report in reports for event in _list_events(report, customers[id(report)])]
    errors: list[EventError] = []
    if events:
        _ensure_metrics(organization, actor)
        errors = _ingest(organization, events, limits, now)
    for report in reports:
        record_server(organization=organization, report=report, customer=customers[id(report)], now=now)
    if errors:
        raise _refusal(errors, len(events))


def _list_events(report: Report, customer: str) -> list[IncomingEvent]:
    server = report.server
    names = {"product": server.product, "cluster": server.cluster_id, "server": server.server_id}
    return [
        IncomingEvent(
            customer=customer,
            type=REPORTED_VALUE,
            value=value.quantity,
            properties={**names, "series": value.series, "field": value.field},
        )
        for value in report.values
    ]


def _ensure_metrics(organization: Organization, actor: str) -> None:
    if REPORTED_VALUE not in get_feed_book(organization).metrics:
        install_catalog(organization=organization, name=USAGE_CLIENT.name, actor=actor)
        # Where a racing report installed it a moment before, this one would be examined without the metric.
        organization.refresh_from_db(fields=["metrics_version"])


def _ingest(
    organization: Organization, events: Sequence[IncomingEvent], limits: IngestLimits, now: datetime
) -> list[EventError]:
    """Store the events, and return why some were refused."""
    errors: list[EventError] = []
    for first in range(0, len(events), MAX_BATCH_EVENTS):
        batch = events[first : first + MAX_BATCH_EVENTS]
        errors += ingest_events(organization=organization, events=batch, limits=limits, now=now).errors
    return errors


def _refusal(errors: Sequence[EventError], event_count: int) -> InvalidInput:
    # Usually all for one reason: each is told once.
    told = {(error.field, error.message): error for error in errors}.values()
    return InvalidInput(
        f"{len(errors)} of {event_count} values were refused: {errors[0].message}",
        code=errors[0].code,
        errors=[FieldError(FIELDS_OF_EVENTS.get(error.field, "values"), error.code, error.message) for error in told],
    )


@transaction.atomic
def record_server(*, organization: Organization, report: Report, customer: str, now: datetime) -> Server:
    """Create or update the row of the report's server. Safe against a racing twin; the later of two reports stays."""
    own, names = Server.objects.for_organization(organization), report.server
    found, is_new = own.select_for_update().get_or_create(
        organization=organization,
        product=names.product,
        cluster_id=names.cluster_id,
        server_id=names.server_id,
        defaults={
            "first_seen_at": now,
            "last_seen_at": now,
            "beat_at": now,
            "silent_at": now + patience_with([]),
        },
    )
    server: Server = found
    if not is_new:
        _note_life(server, now)
    if report.host is not None:
        server.host = report.host
    if report.version is not None:
        server.version = report.version
    server.facts = merge_facts(server.facts, report.facts)
    if report.values:
        found_customer = Customer.objects.for_organization(organization).filter(external_id=customer).first()
        # Of a customer that there is not, no value was stored.
        server.customer = found_customer or server.customer
    server.save()
    return server


def _note_life(server: Server, now: datetime) -> None:
    """Note that the server was heard of at `now`, which with several web processes may be before its last report."""
    gap = now - server.beat_at
    if gap >= BEAT:
        server.beat_at = now
        server.gap_seconds = append_gap(server.gap_seconds, gap)
    server.last_seen_at = max(server.last_seen_at, now)
    server.silent_at = server.last_seen_at + patience_with(server.gap_seconds)
