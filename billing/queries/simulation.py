"""What customers would have paid under other prices: their past billing periods, rated as they were and under a draft.

Owns who and what is compared. Every amount is the engine's (`billing.queries.spend.rate_terms`), on both sides. Nothing
is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from django.db.models import Q

from accounts.models import Customer, Organization
from billing.domain.periods import BillingPeriod, Cycle, calendar_month, period_at
from billing.domain.proration import Part
from billing.models import PlanVersion, Subscription
from billing.queries.charges import Charge, list_charges
from billing.queries.plans import find_default_version
from billing.queries.spend import rate_terms
from billing.queries.subscriptions import list_subscriptions
from billing.queries.terms import PeriodTerms, SegmentTerms, list_period_terms, whole_terms
from common.errors import FieldError, InvalidInput
from metering.domain import local_date
from metering.queries import usage_zone
from metering.queries.reading import RangeNotKept

MAX_DAYS = 366
MAX_CUSTOMERS = 10_000
# What one request rates in half a minute or so: each customer's months, twice.
MAX_CUSTOMER_DAYS = 40_000 * 30
# So many customers' subscriptions are held at once, and so many of their periods' lines.
CUSTOMERS_AT_ONCE = 1_000
PERIODS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Draft:
    """The prices that are tried: of a stored version, or of one that is stored nowhere."""

    charges: list[Charge]
    currency: str


@dataclass(slots=True)
class Uncompared:
    """Periods of a customer that were charged in another currency than the draft's."""

    currency: str
    before_minor: int = 0
    period_count: int = 0


@dataclass(slots=True)
class SimulatedCustomer:
    """A customer's periods before and after, added up. Whole minor units of the draft's currency."""

    customer: Customer
    before_minor: int = 0
    after_minor: int = 0
    period_count: int = 0
    # Periods whose usage is not kept any more.
    unknown_count: int = 0
    # By currency.
    uncompared: dict[str, Uncompared] = field(default_factory=dict)

    @property
    def difference_minor(self) -> int:
        return self.after_minor - self.before_minor


@dataclass(slots=True)
class SimulationTotals:
    """Of every customer, whichever of them are shown. Who pays more, less or the same: of those that are compared."""

    before_minor: int = 0
    after_minor: int = 0
    period_count: int = 0
    customer_count: int = 0
    more_count: int = 0
    less_count: int = 0
    same_count: int = 0
    unknown_count: int = 0
    uncompared: dict[str, Uncompared] = field(default_factory=dict)

    @property
    def difference_minor(self) -> int:
        return self.after_minor - self.before_minor

    def add(self, row: SimulatedCustomer) -> None:
        self.customer_count += 1
        self.before_minor += row.before_minor
        self.after_minor += row.after_minor
        self.period_count += row.period_count
        self.unknown_count += row.unknown_count
        for each in row.uncompared.values():
            total = self.uncompared.setdefault(each.currency, Uncompared(each.currency))
            total.before_minor += each.before_minor
            total.period_count += each.period_count
        if not row.period_count:
            return
        self.more_count += row.difference_minor > 0
        self.less_count += row.difference_minor < 0
        self.same_count += row.difference_minor == 0


def iterate_simulation(
    *,
    organization: Organization,
    draft: Draft,
    start: datetime,
    end: datetime,
    now: datetime,
    customers: Sequence[str] | None = None,
) -> Iterator[SimulatedCustomer]:
    """Yield the customers who have billing periods that begin in `[start, end)`, and by now, in the order of their ids.

    `customers` are external ids; None: everybody with a subscription and, where a default plan holds, without one: then
    calendar months are the periods. Reads usage once per metric and span of a thousand customers, and holds no more
    of them. Raises `InvalidInput` at once for what is too much.
    """
    _refuse_range(start, end)
    default = find_default_version(organization=organization)
    customer_ids = _list_customer_ids(organization, start, end, customers, has_default=default is not None)
    if len(customer_ids) * (end - start) > timedelta(days=MAX_CUSTOMER_DAYS):
        days = MAX_CUSTOMER_DAYS // len(customer_ids)
        message = f"Of {len(customer_ids)} customers at most {days} days are simulated at once: shorten the range."
        raise InvalidInput.of("to", message, "range_too_long")
    simulation = _Simulation(organization, draft, start, min(end, now + now.resolution), default)
    return simulation.rows(customer_ids)


def _refuse_range(start: datetime, end: datetime) -> None:
    if start >= end:
        raise InvalidInput.of("from", "`from` lies before `to`.", "invalid_range")
    if end - start > timedelta(days=MAX_DAYS):
        raise InvalidInput.of("to", f"A simulation spans at most {MAX_DAYS} days.", "range_too_long")


def _list_customer_ids(
    organization: Organization,
    start: datetime,
    end: datetime,
    external_ids: Sequence[str] | None,
    *,
    has_default: bool,
) -> list[int]:
    """Return who is compared, by id. Raises `InvalidInput` where that is too many."""
    customers = Customer.objects.for_organization(organization)
    if external_ids is not None:
        return sorted(_find_named(organization, external_ids))
    if has_default:
        found = list(customers.order_by("pk").values_list("pk", flat=True)[: MAX_CUSTOMERS + 1])
    else:
        subscriptions = Subscription.objects.for_organization(organization).filter(
            Q(ends_at__isnull=True) | Q(ends_at__gt=start), starts_at__lt=end
        )
        of_those = customers.filter(pk__in=subscriptions.values("customer"))
        found = list(of_those.order_by("pk").values_list("pk", flat=True)[: MAX_CUSTOMERS + 1])
    if len(found) > MAX_CUSTOMERS:
        message = f"There are more than {MAX_CUSTOMERS} customers to compare: name some of them."
        raise InvalidInput.of("customers", message, "too_many_customers")
    return found


def _find_named(organization: Organization, external_ids: Sequence[str]) -> set[int]:
    if len(external_ids) > MAX_CUSTOMERS:
        raise InvalidInput.of("customers", f"At most {MAX_CUSTOMERS} customers.", "too_many_customers")
    rows = Customer.objects.for_organization(organization).filter(external_id__in=external_ids)
    known = dict(rows.values_list("external_id", "pk"))
    problems = [
        FieldError(f"customers[{place}]", "unknown_customer", "There is no such customer.")
        for place, external_id in enumerate(external_ids)
        if external_id not in known
    ]
    if problems:
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", errors=problems[:100])
    return set(known.values())


@dataclass(frozen=True, slots=True)
class _Simulation:
    organization: Organization
    draft: Draft
    start: datetime
    # Nothing that has not begun is compared.
    end: datetime
    default: PlanVersion | None

    def rows(self, customer_ids: Sequence[int]) -> Iterator[SimulatedCustomer]:
        if self.start >= self.end:
            return
        default_charges = [] if self.default is None else list_charges(self.default)
        for place in range(0, len(customer_ids), CUSTOMERS_AT_ONCE):
            customers = Customer.objects.for_organization(self.organization).in_bulk(
                customer_ids[place : place + CUSTOMERS_AT_ONCE]
            )
            rows = {pk: SimulatedCustomer(customers[pk]) for pk in sorted(customers)}
            self._compare(self._list_terms(customers, default_charges), rows)
            yield from (row for row in rows.values() if row.period_count or row.uncompared or row.unknown_count)

    def _list_terms(self, customers: dict[int, Customer], default_charges: list[Charge]) -> list[PeriodTerms]:
        """Return the real terms of the customers' periods, those of one span side by side."""
        subscriptions = list(list_subscriptions(organization=self.organization).filter(customer__in=customers))
        placed = [
            (subscription, period)
            for subscription in subscriptions
            for period in _list_periods(subscription.cycle, self.start, self.end)
        ]
        terms = list_period_terms(placed, organization=self.organization)
        if self.default is not None:
            for customer_id in customers.keys() - {subscription.customer_id for subscription in subscriptions}:
                zone = usage_zone(organization=self.organization, customer=customers[customer_id])
                terms += [
                    whole_terms(
                        customer_id=customer_id,
                        period=month,
                        charges=default_charges,
                        currency=self.default.currency,
                        version=self.default,
                    )
                    for month in _list_months(zone, self.start, self.end)
                ]
        return sorted(terms, key=lambda each: (each.period.start, each.period.end, each.customer_id))

    def _compare(self, terms: Sequence[PeriodTerms], rows: dict[int, SimulatedCustomer]) -> None:
        """Add up every period's amounts in its customer's row."""
        remaining = iter(terms)
        while some := list(islice(remaining, PERIODS_AT_ONCE)):
            self._rate(some, rows)

    def _rate(self, terms: Sequence[PeriodTerms], rows: dict[int, SimulatedCustomer]) -> None:
        """Rate some periods twice. Halves find those whose usage is not kept any more in few steps."""
        comparable = [each for each in terms if each.currency == self.draft.currency]
        after = [under_draft(each, self.draft) for each in comparable]
        try:
            rated = rate_terms([*terms, *after], organization=self.organization)
        except RangeNotKept:
            if len(terms) == 1:
                rows[terms[0].customer_id].unknown_count += 1
                return
            middle = len(terms) // 2
            self._rate(terms[:middle], rows)
            self._rate(terms[middle:], rows)
            return
        for each in rated[: len(terms)]:
            _add_before(rows[each.terms.customer_id], each.terms.currency, each.total_minor, self.draft)
        for each in rated[len(terms) :]:
            rows[each.terms.customer_id].after_minor += each.total_minor


def _add_before(row: SimulatedCustomer, currency: str, amount_minor: int, draft: Draft) -> None:
    if currency == draft.currency:
        row.before_minor += amount_minor
        row.period_count += 1
        return
    uncompared = row.uncompared.setdefault(currency, Uncompared(currency))
    uncompared.before_minor += amount_minor
    uncompared.period_count += 1


def under_draft(terms: PeriodTerms, draft: Draft) -> PeriodTerms:
    """Return the same period under the draft alone: prorated and paused as it was, and cut by no change of the plan."""
    joined: list[SegmentTerms] = []
    for segment in terms.segments:
        before = joined[-1] if joined else None
        if before is not None and before.end == segment.start and before.part.end == segment.part.start:
            part = Part(before.part.start, segment.part.end)
            joined[-1] = SegmentTerms(before.start, segment.end, part, None, draft.charges)
        else:
            joined.append(replace(segment, version=None, charges=draft.charges))
    return PeriodTerms(terms.customer_id, terms.period, draft.currency, joined)


def _list_periods(cycle: Cycle, start: datetime, end: datetime) -> Iterator[BillingPeriod]:
    """Yield the periods of a cycle that begin in `[start, end)`, in order."""
    period = period_at(cycle, max(start, cycle.starts_at))
    while period is not None and period.start < end:
        if period.start >= start:
            yield period
        period = period_at(cycle, period.end)


def _list_months(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[BillingPeriod]:
    """Yield the calendar months that begin in `[start, end)`, in order."""
    day = local_date(start, zone)
    month = calendar_month(year=day.year, month=day.month, zone=zone)
    while month.start < end:
        if month.start >= start:
            yield month
        day = local_date(month.end, zone)
        month = calendar_month(year=day.year, month=day.month, zone=zone)
