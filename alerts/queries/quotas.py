"""Reads of quotas: which one applies to a customer, and whether an amount fits beside what is used and held.

Owns no usage number: what is used comes from `metering.queries`, exact now, whether or not the worker has caught up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from django.db import connection, transaction

from accounts.models import Customer, Organization
from alerts.domain import QuotaMode, QuotaVerdict, judge_quota
from alerts.models import Quota, Reservation
from alerts.queries.period_usage import list_period_values
from alerts.sql.quota_terms import QuotaTerms, find_quota_terms
from common.errors import NotFound
from common.models import TenantQuerySet
from common.numbers import WIDE
from metering import queries
from metering.models import Aggregation, Metric

ZERO = Decimal(0)
NO_QUOTA = QuotaTerms(QuotaMode.WARN, limit=None, grace=ZERO, warning_percents=[])


@dataclass(frozen=True, slots=True)
class QuotaCheck:
    """A verdict, and the end of the metric's period, when what is used begins again at zero."""

    verdict: QuotaVerdict
    reset_at: datetime


@dataclass(frozen=True, slots=True)
class QuotaStanding:
    """The quota that applies to a customer (None: there is none), and what is used of it and held."""

    terms: QuotaTerms | None
    metric: Metric
    used: Decimal
    reset_at: datetime

    def check(self, amount: Decimal) -> QuotaCheck:
        """Judge an amount beside what is used; of zero this says how the quota stands."""
        terms = self.terms or NO_QUOTA
        verdict = judge_quota(
            mode=terms.mode,
            limit=terms.limit,
            grace=terms.grace,
            warning_percents=terms.warning_percents,
            used=self.used,
            after=_usage_with(self.metric, self.used, amount),
        )
        return QuotaCheck(verdict, self.reset_at)

    def check_with(self, amount: Decimal) -> QuotaCheck:
        """Say how the quota stands when this much more is held."""
        return replace(self, used=WIDE.add(self.used, amount)).check(ZERO)


def list_quotas(*, organization: Organization) -> TenantQuerySet:
    return Quota.objects.for_organization(organization).select_related("organization", "metric", "customer")


def get_quota(*, organization: Organization, quota_id: int) -> Quota:
    """Return the quota. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_quotas(organization=organization).get_by_id(quota_id, "There is no such quota.")


def get_reservation(
    *,
    organization: Organization,
    reservation_id: str,
    customer_id: int | None = None,
    metric_codes: Collection[str] = (),
) -> Reservation:
    """Return the reservation by its public id. Raises `NotFound`, for a foreign id like for an absent one.

    `customer_id` and `metric_codes` are what a bound key may see; None and empty: all.
    """
    reservations = Reservation.objects.for_organization(organization).select_related("metric", "customer")
    if customer_id is not None:
        reservations = reservations.filter(customer_id=customer_id)
    if metric_codes:
        reservations = reservations.filter(metric__code__in=metric_codes)
    found: Reservation | None = None
    if "\x00" not in reservation_id:
        found = reservations.filter(public_id=reservation_id).first()
    if found is None:
        raise NotFound("There is no such reservation.")
    return found


def list_own_quotas(*, organization: Organization, customer_ids: Collection[int]) -> set[tuple[int, int]]:
    """Return the (metric, customer) ids for which one of the customers has a quota of its own."""
    own = Quota.objects.for_organization(organization).filter(customer_id__in=customer_ids)
    return set(own.values_list("metric_id", "customer_id"))


def find_limit(*, metric: Metric, customer: Customer, now: datetime) -> Decimal | None:
    """Return the limit of the quota that applies to the customer; None without a quota, and without a limit.

    The hook through which reports below this app ask (`settings.QUOTA_LIMIT`). One query.
    """
    _, terms = find_quota_terms(
        organization_id=metric.organization_id, metric_id=metric.pk, customer_id=customer.pk, now=now
    )
    return terms.limit if terms else None


def check_quota(
    *, organization: Organization, metric: Metric, customer: Customer | None, amount: Decimal, now: datetime
) -> QuotaCheck:
    """Say whether the amount fits now. `customer` None: one that has not been seen yet.

    What is used and what is held are of one instant, so a reservation that is committed meanwhile counts once.
    """
    with _one_snapshot():
        standing = read_standing(organization=organization, metric=metric, customer=customer, now=now)
    return standing.check(amount)


def read_standing(
    *, organization: Organization, metric: Metric, customer: Customer | None, now: datetime
) -> QuotaStanding:
    """Read how a customer stands, in three queries. The caller sees to it that nothing moves between them."""
    period = queries.current_period(metric=metric, organization=organization, customer=customer, at=now)
    customer_id = customer.pk if customer else None
    used, terms = find_quota_terms(
        organization_id=organization.pk, metric_id=metric.pk, customer_id=customer_id, now=now
    )
    if customer_id is not None:
        values = list_period_values(organization=organization, metric=metric, period=period, customer_ids=[customer_id])
        used = WIDE.add(used, values[customer_id])
    return QuotaStanding(terms, metric, used, period.end)


def _usage_with(metric: Metric, used: Decimal, amount: Decimal) -> Decimal:
    """Return the usage if the amount is used: as one more event, one more reading, or so many new members."""
    match Aggregation(metric.aggregation):
        case Aggregation.COUNT | Aggregation.SUM | Aggregation.COUNT_UNIQUE:
            return WIDE.add(used, amount)
        case Aggregation.MAX:
            return max(used, amount)
        case Aggregation.LATEST:
            return amount
        case Aggregation.MIN:  # has no quota, see `alerts.services.quotas`
            return used


@contextmanager
def _one_snapshot() -> Iterator[None]:
    """Read quota, reservations and usage of one instant. Within a transaction its owner has seen to that."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
