"""Lists of metrics with their numbers: of the whole organization, and of one customer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import text_parameter
from common.numbers import readable_text
from metering.charts import Spark, spark_line
from metering.contexts.first_event import FirstEvent, get_first_event
from metering.contexts.instant import one_instant
from metering.contexts.words import PER_CUSTOMER, aggregation_label, metric_name
from metering.domain import Granularity, Span, local_midnight
from metering.models import Metric
from metering.queries import current_period, get_series, get_usage, list_inbox
from metering.queries.periods import usage_zone

# Each row costs two reads of usage, so a page has few rows and its cost an upper limit.
PAGE_SIZE = 15
SPARK_DAYS = 30
# Beyond this the notice says "100+": counting on would read the whole inbox.
MAX_WAITING_SHOWN = 100


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric with its current period's value and the line of its last days."""

    metric: Metric
    name: str
    aggregation_label: str
    url: str
    value: Decimal
    period: Span
    spark: Spark


@dataclass(frozen=True, slots=True)
class MetricListPage:
    rows: list[MetricRow]
    data_through: datetime
    # Whether a value shown is the customers' own values added up.
    adds_up_customers: bool
    waiting_count: int
    is_waiting_capped: bool
    first_event: FirstEvent | None
    next_url: str
    first_url: str


def get_metric_list(request: HttpRequest, caller: Caller) -> MetricListPage:
    """A page of the organization's metrics, archived ones among them: their history stays readable."""
    now = timezone.now()
    found, next_url, first_url = _metric_page(request, caller.organization)
    with one_instant():
        rows = [_metric_row(caller.organization, metric, None, now) for metric in found]
    waiting_count = list_inbox(organization=caller.organization)[: MAX_WAITING_SHOWN + 1].count()
    has_numbers = any(row.value or row.spark.is_raised for row in rows)
    return MetricListPage(
        rows=rows,
        data_through=now,
        adds_up_customers=any(metric.aggregation in PER_CUSTOMER for metric in found),
        waiting_count=min(waiting_count, MAX_WAITING_SHOWN),
        is_waiting_capped=waiting_count > MAX_WAITING_SHOWN,
        first_event=None if has_numbers else get_first_event(request, found[0] if found else None),
        next_url=next_url,
        first_url=first_url,
    )


@dataclass(frozen=True, slots=True)
class CustomerPage:
    customer: Customer
    title: str
    zone: str
    rows: list[MetricRow]
    events_url: str
    data_through: datetime
    next_url: str
    first_url: str


def get_customer_page(request: HttpRequest, caller: Caller, customer: Customer) -> CustomerPage:
    now = timezone.now()
    organization = caller.organization
    found, next_url, first_url = _metric_page(request, organization)
    with one_instant():
        rows = [_metric_row(organization, metric, customer, now) for metric in found]
    events_url = reverse("metering:event_list", args=[organization.pk])
    return CustomerPage(
        customer=customer,
        title=customer.name or customer.external_id,
        zone=str(usage_zone(organization=organization, customer=customer)),
        rows=rows,
        events_url=f"{events_url}?{urlencode({'customer': customer.external_id})}",
        data_through=now,
        next_url=next_url,
        first_url=first_url,
    )


def _metric_page(request: HttpRequest, organization: Organization) -> tuple[list[Metric], str, str]:
    """Return a page of metrics in the order of their codes, and the addresses of the next and the first page."""
    after = text_parameter(request, "after")
    metrics = Metric.objects.for_organization(organization).filter(code__gt=after).order_by("code")
    found = list(metrics[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    next_url = f"?{urlencode({'after': shown[-1].code})}" if len(found) > PAGE_SIZE else ""
    return shown, next_url, "?" if after else ""


def _metric_row(organization: Organization, metric: Metric, customer: Customer | None, now: datetime) -> MetricRow:
    zone = usage_zone(organization=organization, customer=customer)
    period = current_period(metric=metric, organization=organization, customer=customer, at=now)
    customer_id = customer.pk if customer else None
    usage = get_usage(
        organization=organization, metric=metric, start=period.start, end=period.end, customer_id=customer_id
    )
    url = reverse("metering:metric", args=[organization.pk, metric.code])
    return MetricRow(
        metric=metric,
        name=metric_name(metric),
        aggregation_label=aggregation_label(metric),
        url=f"{url}?{urlencode({'customer': customer.external_id})}" if customer else url,
        value=usage.value,
        period=period,
        spark=_spark(organization, metric, customer_id, zone, now),
    )


def _spark(organization: Organization, metric: Metric, customer_id: int | None, zone: ZoneInfo, now: datetime) -> Spark:
    today = now.astimezone(zone).date()
    series = get_series(
        organization=organization,
        metric=metric,
        start=local_midnight(today - timedelta(days=SPARK_DAYS - 1), zone),
        end=local_midnight(today + timedelta(days=1), zone),
        granularity=Granularity.DAY,
        zone=str(zone),
        now=now,
        customer_id=customer_id,
    )
    points = series.lines[0].points
    greatest = readable_text(max(point.value for point in points))
    return spark_line(
        [point.value for point in points],
        is_last_partial=points[-1].is_partial,
        summary=f"{metric_name(metric)}, last {SPARK_DAYS} days, at most {greatest} a day",
    )
