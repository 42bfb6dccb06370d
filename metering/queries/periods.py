"""Which span is a metric's current, previous or named period, for one customer or for all.

A customer's own zone and cycle day come before the organization's zone and the metric's cycle day.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from accounts.models import Customer, Organization
from metering.domain import Span, calendar_period, day_period, fixed_period, month_start, week_period
from metering.models import Metric, PeriodType


def usage_zone(*, organization: Organization, customer: Customer | None) -> ZoneInfo:
    return ZoneInfo((customer and customer.zone) or organization.zone)


def current_period(*, metric: Metric, organization: Organization, customer: Customer | None, at: datetime) -> Span:
    """Return the metric's period that holds `at`, in the customer's (else organization's) zone and cycle."""
    zone = usage_zone(organization=organization, customer=customer)
    match PeriodType(metric.period_type):
        case PeriodType.CALENDAR:
            return calendar_period(at, cycle_day=_cycle_day(metric, customer), zone=zone)
        case PeriodType.FIXED:
            return fixed_period(at, days=metric.period_days)
        case PeriodType.DAY:
            return day_period(at, zone=zone)
        case PeriodType.WEEK:
            return week_period(at, zone=zone)


def previous_period(*, metric: Metric, organization: Organization, customer: Customer | None, at: datetime) -> Span:
    current = current_period(metric=metric, organization=organization, customer=customer, at=at)
    before = current.start - timedelta(microseconds=1)
    return current_period(metric=metric, organization=organization, customer=customer, at=before)


def period_of_month(
    *, metric: Metric, organization: Organization, customer: Customer | None, year: int, month: int
) -> Span:
    """Return the cycle that begins in a month; for metrics without a monthly cycle, the calendar month."""
    zone = usage_zone(organization=organization, customer=customer)
    day = _cycle_day(metric, customer) if metric.period_type == PeriodType.CALENDAR else 1
    return Span(month_start(year, month, day, zone), month_start(year, month + 1, day, zone))


def _cycle_day(metric: Metric, customer: Customer | None) -> int:
    return (customer and customer.billing_cycle_day) or metric.billing_cycle_day
