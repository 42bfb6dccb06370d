"""Reads for reporting usage: who and what is reported, what the ledger says of each window, what has been said.

Quantities come from `metering.queries` alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

from django.db.models import Count, Max, Q

from accounts.models import Customer, Organization
from billing.domain.periods import BillingPeriod
from billing.domain.reporting import (
    LEFT_TO_PEOPLE_AFTER,
    MAX_AGE,
    SUMMARY_LAG,
    UNSETTLED,
    ZERO,
    Entry,
    MinuteTotals,
    Part,
    ReportState,
    Window,
    list_windows,
    minute_of,
    month_name,
    own_spans,
    plan_parts,
    sum_into_windows,
)
from billing.models import StripeCustomer, StripeDrift, StripeMeter, Subscription, UsageReport
from common.errors import ApplicationError
from common.models import TenantQuerySet
from metering import queries
from metering.domain import DAY, EXACT, Granularity, Span, ceil_time, floor_time
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class Target:
    """A subscription whose usage is reported, under which name there, and what its customer's older ones report."""

    subscription: Subscription
    stripe_customer_id: str
    # The lives of the customer's older subscriptions: one moment is reported once, by the oldest that holds it, since
    # Stripe adds up what one customer used of one meter, whoever reports it.
    taken: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class PlannedReport:
    """A row that is lacking."""

    target: Target
    meter: StripeMeter
    window: Window
    month: str
    part: Part


# --- what is reported -----------------------------------------------------------------------------------------


def list_targets(
    *, organization: Organization, from_customer_id: int = 0, only_customer_id: int | None = None
) -> list[Target]:
    """Return the subscriptions of the customers that have a name at Stripe, by customer's id, the oldest first."""
    named = StripeCustomer.objects.for_organization(organization).filter(customer_id__gte=from_customer_id)
    if only_customer_id is not None:
        named = named.filter(customer_id=only_customer_id)
    names = dict(named.values_list("customer_id", "stripe_customer_id"))
    rows = Subscription.objects.for_organization(organization).filter(customer__in=named.values("customer"))
    lives: dict[int, list[Span]] = defaultdict(list)
    targets = []
    for subscription in rows.select_related("organization", "customer").order_by("customer_id", "id"):
        earlier = lives[subscription.customer_id]
        targets.append(Target(subscription, names[subscription.customer_id], tuple(earlier)))
        end = subscription.ends_at or datetime.max.replace(tzinfo=subscription.starts_at.tzinfo)
        if end > subscription.starts_at:
            earlier.append(Span(subscription.starts_at, end))
    return targets


def list_meters(*, organization: Organization) -> list[StripeMeter]:
    """Return the metrics that have a meter, with their names there."""
    return list(list_stripe_meters(organization=organization).order_by("metric__code"))


def list_stripe_meters(*, organization: Organization) -> TenantQuerySet:
    return StripeMeter.objects.for_organization(organization).select_related("metric")


def list_stripe_customers(*, organization: Organization) -> TenantQuerySet:
    return StripeCustomer.objects.for_organization(organization).select_related("customer")


def find_stripe_customer(*, organization: Organization, customer: Customer) -> StripeCustomer | None:
    found: StripeCustomer | None = list_stripe_customers(organization=organization).filter(customer=customer).first()
    return found


def find_stripe_meter(*, organization: Organization, metric: Metric) -> StripeMeter | None:
    found: StripeMeter | None = list_stripe_meters(organization=organization).filter(metric=metric).first()
    return found


def list_unnamed_customers(*, organization: Organization, now: datetime, looks_at: int | None = None) -> list[Customer]:
    """Return who used what is reported under a subscription of late and has no name at Stripe: nothing of it is told.

    By name, of the days of which Stripe still takes usage; `looks_at`: among so many at most. One read for each metric
    that has a meter.
    """
    meters = list(list_meters(organization=organization))
    if not meters:
        return []
    named = StripeCustomer.objects.for_organization(organization).values("customer")
    unnamed = _list_subscribed(organization, now).exclude(pk__in=named).order_by("external_id")
    candidates = {customer.pk: customer for customer in unnamed[:looks_at]}
    found: dict[int, Customer] = {}
    for meter in meters if candidates else ():
        try:
            values = queries.list_customer_values(
                organization=organization,
                metric=meter.metric,
                start=ceil_time(now - MAX_AGE, DAY),
                end=ceil_time(now, DAY),
                customer_ids=candidates.keys(),
            )
        except ApplicationError:
            continue  # usage of so long ago is not kept, and nobody can tell
        found |= {pk: candidates[pk] for pk, value in values.items() if value}
    return sorted(found.values(), key=lambda customer: customer.external_id)


def list_idle_customers(*, organization: Organization, now: datetime) -> TenantQuerySet:
    """Return the names at Stripe of which nothing is reported, because their customers have no subscription."""
    rows = list_stripe_customers(organization=organization)
    return rows.exclude(customer__in=_list_subscribed(organization, now)).order_by("customer__external_id")


def _list_subscribed(organization: Organization, now: datetime) -> TenantQuerySet:
    """Return whose usage there is something to report of: with a subscription that has begun and not ended long ago."""
    lives = Subscription.objects.for_organization(organization).filter(
        Q(ends_at=None) | Q(ends_at__gt=now - MAX_AGE), starts_at__lte=now
    )
    return Customer.objects.for_organization(organization).filter(pk__in=lives.values("customer"))


# --- what is still to be said ---------------------------------------------------------------------------------


def list_lacking(*, target: Target, meter: StripeMeter, period: BillingPeriod, now: datetime) -> list[PlannedReport]:
    """Return the rows that are lacking for the ledger of a period to be reported, up to now.

    One read of usage and one of the rows. A window that is no longer one (the subscription ended before it) is taken
    back to nothing. Raises metering's `RangeNotKept`.
    """
    month = month_name(period, target.subscription.cycle)
    said = _list_entries(target.subscription, meter.metric, period)
    lacking: list[PlannedReport] = []
    for window, ledger in read_ledger(target, meter.metric, period):
        if window.start <= now:
            parts = plan_parts([_entry(row) for row in said.pop(window.start, [])], ledger)
            lacking += [PlannedReport(target, meter, window, month, part) for part in parts]
    for gone in said.values():
        window = Window(period, gone[-1].window_start, gone[-1].window_end)
        parts = plan_parts([_entry(row) for row in gone], ZERO)
        lacking += [PlannedReport(target, meter, window, month, part) for part in parts]
    return lacking


def read_ledger(target: Target, metric: Metric, period: BillingPeriod) -> list[tuple[Window, Decimal]]:
    """Return the windows of a period that are the subscription's to report, and what was used in each. One read."""
    subscription = target.subscription
    ledger: list[tuple[Window, Decimal]] = []
    for span in own_spans(period, target.taken):
        series = queries.get_series(
            organization=subscription.organization,
            metric=metric,
            start=span.start,
            end=span.end,
            granularity=Granularity.DAY,
            zone="UTC",
            now=span.end,
            customer_id=subscription.customer_id,
        )
        daily = [(point.start, point.value) for line in series.lines for point in line.points]
        ledger += sum_into_windows(list_windows(period, span), daily)
    return ledger


def _list_entries(
    subscription: Subscription, metric: Metric, period: BillingPeriod
) -> dict[datetime, list[UsageReport]]:
    rows = UsageReport.objects.for_organization(subscription.organization_id).filter(
        subscription=subscription, metric=metric, period_start=period.start
    )
    entries: dict[datetime, list[UsageReport]] = defaultdict(list)
    for row in rows.order_by("window_start", "sequence"):
        entries[row.window_start].append(row)
    return entries


def _entry(row: UsageReport) -> Entry:
    return Entry(row.sequence, row.quantity, ReportState(row.state))


# --- rows -----------------------------------------------------------------------------------------------------


def list_reports(*, organization: Organization) -> TenantQuerySet:
    rows = UsageReport.objects.for_organization(organization)
    return rows.select_related("organization", "subscription__customer", "metric")


def get_report(*, organization: Organization, report_id: int) -> UsageReport:
    """Return one row. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_reports(organization=organization).get_by_id(report_id, "There is no such usage report.")


def list_entries(report: UsageReport) -> list[Entry]:
    """Return all rows of a row's window, in order."""
    rows = UsageReport.objects.for_organization(report.organization_id).filter(
        subscription=report.subscription_id, metric=report.metric_id, window_start=report.window_start
    )
    return [_entry(row) for row in rows.order_by("sequence")]


def count_states(*, organization: Organization, months: Sequence[str] | None) -> dict[str, int]:
    """Return how many rows of some months (None: of all) are in each state; every state has a number."""
    rows = UsageReport.objects.for_organization(organization)
    rows = rows if months is None else rows.filter(month__in=months)
    counts: dict[str, int] = dict.fromkeys((state.value for state in ReportState), 0)
    counts.update(rows.values_list("state").annotate(rows=Count("id")))
    return counts


def list_due(*, organization: Organization, now: datetime, months: Sequence[str] | None = None) -> TenantQuerySet:
    """Return the rows to be looked at, the longest waiting first."""
    due = UsageReport.objects.for_organization(organization).filter(state__in=UNSETTLED, next_attempt_at__lte=now)
    return (due if months is None else due.filter(month__in=months)).order_by("next_attempt_at", "id")


def left_to_people(now: datetime) -> Q:
    """Select the rows of which people have to say what became of them, as `is_left_to_people` tells it of one."""
    return Q(state=ReportState.UNKNOWN, first_sent_at__lte=now - LEFT_TO_PEOPLE_AFTER)


def on_their_way(now: datetime) -> Q:
    """Select the rows that will settle by themselves."""
    return Q(state__in=UNSETTLED) & ~left_to_people(now)


def count_left_to_people(*, organization: Organization, now: datetime) -> int:
    return UsageReport.objects.for_organization(organization).filter(left_to_people(now)).count()


def list_organizations_that_report() -> list[Organization]:
    """Return the organizations with somebody and something to report, or with reports that are not settled."""
    mapped: Any = Q(pk__in=StripeCustomer.objects.all_tenants().values("organization"))
    mapped &= Q(pk__in=StripeMeter.objects.all_tenants().values("organization"))
    waiting = UsageReport.objects.all_tenants().filter(state__in=UNSETTLED).values("organization")
    return list(Organization.objects.filter(mapped | Q(pk__in=waiting)).order_by("pk"))


def list_organizations_with_meters() -> list[Organization]:
    named = StripeMeter.objects.all_tenants().values("organization")
    return list(Organization.objects.filter(pk__in=named).order_by("pk"))


def total_minute(report: UsageReport, *, now: datetime) -> MinuteTotals | None:
    """Return what was said about the row's customer, meter and minute, by whichever row; None while Stripe's summary
    of it may still be behind."""
    minute = minute_of(report.event_time)
    rows = UsageReport.objects.for_organization(report.organization_id).filter(
        stripe_customer_id=report.stripe_customer_id,
        event_name=report.event_name,
        event_time__gte=minute.start,
        event_time__lt=minute.end,
    )
    moved = rows.aggregate(claimed=Max("claimed_at"), delivered=Max("delivered_at"))
    last = max((at for at in moved.values() if at is not None), default=now)
    if now - last < SUMMARY_LAG:
        return None
    quantities = list(rows.exclude(pk=report.pk).values_list("state", "quantity"))
    delivered = (quantity for state, quantity in quantities if state == ReportState.DELIVERED)
    uncertain = (quantity for state, quantity in quantities if state in {ReportState.UNKNOWN, ReportState.SENDING})
    return MinuteTotals(reduce(EXACT.add, delivered, ZERO), (report.quantity, *uncertain))


def oldest_unsettled(*, organization: Organization, now: datetime) -> timedelta | None:
    """Return for how long the oldest row that settles by itself has not; None where all have."""
    rows = UsageReport.objects.for_organization(organization).filter(on_their_way(now))
    created = rows.order_by("created_at").values_list("created_at", flat=True).first()
    return None if created is None else now - created


# --- reconciling ----------------------------------------------------------------------------------------------


def list_restless_days(target: Target, meter: StripeMeter, *, now: datetime) -> set[datetime]:
    """Return the days of a customer and meter with rows on their way, or that the summaries may not show yet.

    A row that is left to people is on no way any more: what it may have changed shows as a difference.
    """
    rows = UsageReport.objects.for_organization(target.subscription.organization_id).filter(
        subscription__customer=target.subscription.customer_id, metric=meter.metric_id
    )
    recent = Q(delivered_at__gt=now - SUMMARY_LAG)
    times = rows.filter(on_their_way(now) | recent).values_list("event_time", flat=True)
    return {floor_time(at, DAY) for at in times}


def list_drifts(*, organization: Organization) -> TenantQuerySet:
    """Return the days that do not agree."""
    rows = StripeDrift.objects.for_organization(organization).filter(resolved_at__isnull=True)
    return rows.select_related("customer", "metric")
