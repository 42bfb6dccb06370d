"""Records as they arrive: find whose they are, count them through the one ingest, quarantine what cannot be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from accounts.models import Organization
from metering.catalogs import CATALOGS, MetricDefinition
from metering.dialects.weave.domain import (
    Arrival,
    Refused,
    UnreadableRecord,
    code_of,
    distinct_code_of,
    read_record,
    to_event,
)
from metering.dialects.weave.models import QuarantineReason
from metering.dialects.weave.queries.instances import Owner, find_owners, get_weave_settings
from metering.dialects.weave.services.quarantine import keep_refused, keep_unknown
from metering.dialects.weave.telemetry import CATALOG, count_records
from metering.dialects.weave.wire import Unreadable
from metering.feeds import get_feed_book
from metering.models import Aggregation
from metering.services.ingest import ingest_events
from metering.services.metrics import MetricExists, create_metric

# Whoever can reach the port can make up amount types: beyond so many an organization's admins decide.
MAX_METRICS_CREATED = 200
ACTOR = "forward listener"

_definitions = {metric.event_type or metric.code: metric for metric in CATALOGS[CATALOG].metrics}


class StoreResult(NamedTuple):
    """What became of records: counted (now, or before), or waiting in the quarantine."""

    accepted: int
    quarantined: int


def store_records(*, arrivals: Sequence[Arrival], now: datetime) -> StoreResult:
    """Count or quarantine every record; returns after the commit. At most `MAX_BATCH_EVENTS` of them.

    Safe to repeat, also after it failed half-way: what was counted is a duplicate then, and what was quarantined
    stays one row.
    """
    unreadable = read_arrivals(arrivals)
    if unreadable:
        keep_refused(refused=unreadable)
        count_records("quarantined", (refusal.arrival for refusal in unreadable))
    pending = [arrival for arrival in arrivals if arrival.amount is not None]
    quarantined = len(unreadable)
    while pending:
        owners = find_owners({arrival.instance_id for arrival in pending})
        unknown = [arrival for arrival in pending if arrival.instance_id not in owners]
        refused = _count_known([arrival for arrival in pending if arrival.instance_id in owners], owners, now)
        # Those whose instance was mapped in this moment are counted in the next round.
        kept, pending = keep_unknown(arrivals=unknown) if unknown else ([], [])
        quarantined += refused + len(kept)
        count_records("quarantined", kept)
    return StoreResult(len(arrivals) - quarantined, quarantined)


def read_arrivals(arrivals: Iterable[Arrival]) -> list[Refused]:
    """Read every record into its arrival's `amount`; return those that are none of the billing-client's."""
    refused: list[Refused] = []
    for arrival in arrivals:
        record = arrival.record
        if isinstance(record, Unreadable):
            reason = QuarantineReason.OVERSIZED if record.is_oversized else QuarantineReason.MALFORMED
            refused.append(Refused(arrival, reason, record.message))
            continue
        try:
            amount = read_record(record)
        except UnreadableRecord as error:
            refused.append(Refused(arrival, QuarantineReason.MALFORMED, str(error)))
        else:
            arrival.amount, arrival.instance_id = amount, amount.internal_instance_id
    return refused


def _count_known(arrivals: Sequence[Arrival], owners: Mapping[str, Owner], now: datetime) -> int:
    """Count or quarantine the records of mapped instances, organization by organization; return how many wait."""
    groups: dict[int, list[Arrival]] = {}
    for arrival in arrivals:
        groups.setdefault(owners[arrival.instance_id].organization_id, []).append(arrival)
    organizations: dict[int, Organization] = Organization.objects.in_bulk(list(groups))
    quarantined = 0
    for organization_id, group in groups.items():
        organization = organizations[organization_id]
        refused = count_amounts(organization=organization, arrivals=group, owners=owners, now=now)
        if refused:
            keep_refused(refused=refused, organization=organization)
        quarantined += len(refused)
    return quarantined


def count_amounts(
    *, organization: Organization, arrivals: Sequence[Arrival], owners: Mapping[str, Owner], now: datetime
) -> list[Refused]:
    """Ingest the amounts of the organization's instances; return those that are refused, with the reason."""
    _create_missing_metrics(organization, {arrival.amount.amount_type for arrival in arrivals if arrival.amount})
    plans = get_feed_book(organization).plans
    refused: list[Refused] = []
    counted: list[Arrival] = []
    for arrival in arrivals:
        assert arrival.amount is not None  # the caller read it
        if arrival.amount.amount_type in plans:
            counted.append(arrival)
        else:
            # Not left to the ingest: the organization's inbox must not hold what waits here.
            message = f"No active metric listens to amounts of type {arrival.amount.amount_type[:100]!r}."
            refused.append(Refused(arrival, QuarantineReason.UNKNOWN_AMOUNT_TYPE, message))
    if counted:
        events = [to_event(arrival, customer=owners[arrival.instance_id].customer) for arrival in counted]
        result = ingest_events(organization=organization, events=events, now=now)
        if result.errors:
            refused += [Refused(counted[error.index], error.code, error.message) for error in result.errors]
            indexes = {error.index for error in result.errors}
            counted = [arrival for place, arrival in enumerate(counted) if place not in indexes]
    count_records("accepted", counted)
    count_records("quarantined", (refusal.arrival for refusal in refused))
    return refused


def _create_missing_metrics(organization: Organization, amount_types: set[str]) -> None:
    """Make a sum metric of every amount type that is new to the organization, if it allows that.

    A type whose metric was archived is not new: its organization no longer counts it.
    """
    book = get_feed_book(organization)
    missing = amount_types - book.plans.keys()
    if not missing or not get_weave_settings(organization).is_metric_auto_created:
        return
    missing -= {metric.event_type for metric in book.metrics.values()}
    room = MAX_METRICS_CREATED - sum(metric.catalog == CATALOG for metric in book.metrics.values())
    for amount_type in sorted(missing)[: max(0, room)]:
        _create_metric(organization, amount_type)


def _create_metric(organization: Organization, amount_type: str) -> None:
    known = _definitions.get(amount_type)
    codes = (known.code if known else code_of(amount_type), distinct_code_of(amount_type))
    for code in codes:
        definition = known or MetricDefinition(code, Aggregation.SUM, name=amount_type[:200], event_type=amount_type)
        try:
            create_metric(organization=organization, definition=definition, actor=ACTOR, catalog=CATALOG)
        except MetricExists as exists:
            organization.refresh_from_db(fields=["metrics_version"])
            if exists.metric.event_type == amount_type:
                return  # another writer was a moment faster
            known = None  # the code is taken by a metric of something else
        else:
            return
