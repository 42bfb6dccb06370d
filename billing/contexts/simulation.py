"""The simulator: what customers would have paid under another version of a plan, as figures, a histogram, a table."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.pages import text_parameter
from billing.domain.currencies import EXPONENTS, major_text, money_text
from billing.models import PlanVersion, VersionState
from billing.queries.charges import list_charges
from billing.queries.plans import list_offered_versions
from billing.queries.simulation import Draft, SimulatedCustomer, SimulationTotals, Uncompared, iterate_simulation
from common.errors import ApplicationError
from common.numbers import THIN_SPACE, readable_text
from metering.charts import Bucket, Chart, ChartLine, stacked_bars
from metering.domain import local_date, local_midnight
from metering.queries.exports import Cell, Column, ColumnKind, UsageTable

MAX_VERSIONS = 200
# How far back the months go that are offered, and how many of them may be compared at once.
MONTHS_OFFERED = 25
MAX_MONTHS = 12
SHOWN_CUSTOMERS = 100
# Of the histogram, on either side of nothing.
MAX_BINS = 8
CSV_COLUMNS = [
    Column("customer", ColumnKind.TEXT),
    Column("name", ColumnKind.TEXT),
    Column("currency", ColumnKind.TEXT),
    Column("periods", ColumnKind.COUNT),
    Column("before_minor", ColumnKind.COUNT),
    Column("after_minor", ColumnKind.COUNT),
    Column("difference_minor", ColumnKind.COUNT),
    Column("not_compared", ColumnKind.TEXT),
    Column("periods_not_kept", ColumnKind.COUNT),
]


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class CustomerRow:
    url: str
    external_id: str
    name: str
    period_count: int
    before: str
    after: str
    difference: str
    # more, less, same, or other: nothing of it is compared.
    direction: str
    note: str


@dataclass(frozen=True, slots=True)
class SimulationResults:
    version: str
    version_url: str
    before: str
    after: str
    difference: str
    # Of what was paid before; empty: nothing was.
    percent: str
    totals: SimulationTotals
    uncompared: list[str]
    chart: Chart | None
    rows: list[CustomerRow]
    hidden_count: int
    csv_url: str


@dataclass(frozen=True, slots=True)
class SimulationPage:
    versions: list[Option]
    first_months: list[Option]
    last_months: list[Option]
    plans_url: str
    # None: nothing was asked for yet, or `problem` says why there is nothing.
    results: SimulationResults | None
    problem: str


@dataclass(frozen=True, slots=True)
class SimulationQuestion:
    """What the address asks for: a version, and months from the first to the last, both included."""

    version: PlanVersion
    first: date
    last: date
    zone: ZoneInfo

    @property
    def start(self) -> datetime:
        return local_midnight(self.first, self.zone)

    @property
    def end(self) -> datetime:
        return local_midnight(_following_month(self.last), self.zone)

    def rows(self, caller: Caller, now: datetime) -> Iterator[SimulatedCustomer]:
        draft = Draft(list_charges(self.version), self.version.currency)
        return iterate_simulation(
            organization=caller.organization, draft=draft, start=self.start, end=self.end, now=now
        )


def get_simulation_page(request: HttpRequest, caller: Caller, now: datetime) -> SimulationPage:
    zone = ZoneInfo(caller.organization.zone)
    versions = _list_versions(caller)
    months = _list_months(local_date(now, zone))
    question = read_question(request, versions, months, zone)
    results, problem = None, ""
    if text_parameter(request, "version"):
        try:
            results = None if question is None else _results(caller, question, now)
            problem = "" if question else "Choose a version of a plan and up to twelve months in order."
        except ApplicationError as error:
            problem = error.message
    chosen = question.version.pk if question else None
    # The last month that is over, unless another one is asked for.
    first = question.first if question else months[min(1, len(months) - 1)]
    last = question.last if question else first
    return SimulationPage(
        versions=[Option(str(each.pk), version_label(each), each.pk == chosen) for each in versions],
        first_months=[_month_option(month, first) for month in months],
        last_months=[_month_option(month, last) for month in months],
        plans_url=reverse("billing:plan_list", args=[caller.organization.pk]),
        results=results,
        problem=problem,
    )


def find_question(request: HttpRequest, caller: Caller, now: datetime) -> SimulationQuestion | None:
    """Return what the address asks for; None where that is not clear."""
    zone = ZoneInfo(caller.organization.zone)
    return read_question(request, _list_versions(caller), _list_months(local_date(now, zone)), zone)


def read_question(
    request: HttpRequest, versions: Sequence[PlanVersion], months: Sequence[date], zone: ZoneInfo
) -> SimulationQuestion | None:
    named = text_parameter(request, "version")
    version = next((each for each in versions if str(each.pk) == named), None)
    known = {f"{month:%Y-%m}": month for month in months}
    default = months[min(1, len(months) - 1)]
    first = known.get(text_parameter(request, "first") or f"{default:%Y-%m}")
    last = known.get(text_parameter(request, "last") or f"{default:%Y-%m}")
    if version is None or first is None or last is None or not _is_in_order(first, last):
        return None
    return SimulationQuestion(version, first, last, zone)


def simulation_table(caller: Caller, question: SimulationQuestion, now: datetime) -> UsageTable:
    """Return everybody as a table that is read a few rows at a time."""
    currency = question.version.currency
    return UsageTable(CSV_COLUMNS, lambda: (_cells(row, currency) for row in question.rows(caller, now)))


def version_label(version: PlanVersion) -> str:
    draft = ", a draft" if version.state == VersionState.DRAFT else ""
    return f"{version.plan.name} v{version.number}, {version.currency}{draft}"


def _list_versions(caller: Caller) -> list[PlanVersion]:
    return list(list_offered_versions(organization=caller.organization)[:MAX_VERSIONS])


def _cells(row: SimulatedCustomer, currency: str) -> tuple[Cell, ...]:
    others = [
        f"{each.period_count} of {each.before_minor} {each.currency}" for _, each in sorted(row.uncompared.items())
    ]
    return (
        row.customer.external_id,
        row.customer.name or None,
        currency,
        row.period_count,
        row.before_minor,
        row.after_minor,
        row.difference_minor,
        "; ".join(others) or None,
        row.unknown_count,
    )


# --- months ---------------------------------------------------------------------------------------------------


def _list_months(today: date) -> list[date]:
    """Return the first days of this month and those before it, the latest first."""
    places = range(today.year * 12 + today.month - 1, today.year * 12 + today.month - 1 - MONTHS_OFFERED, -1)
    return [date(place // 12, place % 12 + 1, 1) for place in places]


def _following_month(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _is_in_order(first: date, last: date) -> bool:
    count = (last.year - first.year) * 12 + last.month - first.month + 1
    return 1 <= count <= MAX_MONTHS


def _month_option(month: date, chosen: date) -> Option:
    return Option(f"{month:%Y-%m}", f"{month:%B %Y}", month == chosen)


# --- results --------------------------------------------------------------------------------------------------


def _results(caller: Caller, question: SimulationQuestion, now: datetime) -> SimulationResults:
    """Read everybody once, and keep those who differ most: a number for each of the others."""
    totals, differences = SimulationTotals(), list[int]()
    kept: list[tuple[int, int, SimulatedCustomer]] = []
    for row in question.rows(caller, now):
        totals.add(row)
        if row.period_count:
            differences.append(row.difference_minor)
        # Of equals the one with the lower id; so no two rows are ever compared themselves.
        entry = (abs(row.difference_minor), -row.customer.pk, row)
        if len(kept) < SHOWN_CUSTOMERS:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    version, currency = question.version, question.version.currency
    organization_id = caller.organization.pk
    query = f"version={version.pk}&first={question.first:%Y-%m}&last={question.last:%Y-%m}"
    return SimulationResults(
        version=version_label(version),
        version_url=reverse("billing:plan", args=[organization_id, version.plan.code]) + f"?version={version.number}",
        before=money_text(totals.before_minor, currency),
        after=money_text(totals.after_minor, currency),
        difference=_signed(totals.difference_minor, currency),
        percent=_percent(totals),
        totals=totals,
        uncompared=[_uncompared_text(each) for _, each in sorted(totals.uncompared.items())],
        chart=_histogram(differences, currency) if any(differences) else None,
        rows=[_row(row, currency, organization_id) for _, _, row in sorted(kept, reverse=True)],
        hidden_count=totals.customer_count - len(kept),
        csv_url=f"{reverse('billing:simulation_csv', args=[organization_id])}?{query}",
    )


def _row(row: SimulatedCustomer, currency: str, organization_id: int) -> CustomerRow:
    difference = row.difference_minor
    direction = "more" if difference > 0 else "less" if difference < 0 else "same" if row.period_count else "other"
    return CustomerRow(
        url=reverse("billing:customer_billing", args=[organization_id, row.customer.pk]),
        external_id=row.customer.external_id,
        name=row.customer.name,
        period_count=row.period_count,
        before=money_text(row.before_minor, currency) if row.period_count else "",
        after=money_text(row.after_minor, currency) if row.period_count else "",
        difference=_signed(difference, currency) if row.period_count else "",
        direction=direction,
        note="; ".join(_uncompared_text(each) for _, each in sorted(row.uncompared.items())),
    )


def _uncompared_text(each: Uncompared) -> str:
    noun = "period" if each.period_count == 1 else "periods"
    return f"{each.period_count} {noun} in {each.currency}, {money_text(each.before_minor, each.currency)}"


def _signed(minor: int, currency: str) -> str:
    return f"{'+' if minor > 0 else ''}{money_text(minor, currency)}"


def _percent(totals: SimulationTotals) -> str:
    if not totals.before_minor:
        return ""
    share = Decimal(totals.difference_minor * 1_000 // totals.before_minor) / 10
    return f"{'+' if share > 0 else ''}{readable_text(share)}\u202f%"


# --- the histogram --------------------------------------------------------------------------------------------


def _histogram(differences: Sequence[int], currency: str) -> Chart:
    """Count the customers by how much their amounts differ; those of whom they do not stand in a bar of their own."""
    step = _bin_step(max(map(abs, differences)), currency)
    counts: dict[int, int] = {}
    for difference in differences:
        place = _bin_of(difference, step)
        counts[place] = counts.get(place, 0) + 1
    places = range(min(0, *counts), max(0, *counts) + 1)
    return stacked_bars(
        title="Customers by difference",
        summary="How many customers would have paid how much less, the same, or more; the table has the largest",
        buckets=[_bucket(place, step, currency) for place in places],
        lines=[
            _line("pay less", "2", [counts.get(place, 0) if place < 0 else 0 for place in places]),
            _line("pay the same", "rest", [counts.get(place, 0) if place == 0 else 0 for place in places]),
            _line("pay more", "3", [counts.get(place, 0) if place > 0 else 0 for place in places]),
        ],
    )


def _line(label: str, colour: str, counts: Sequence[int]) -> ChartLine:
    return ChartLine(label, colour, [Decimal(count) for count in counts])


def _bin_step(most: int, currency: str) -> int:
    """Return a round step of minor units, of which `MAX_BINS` reach the largest difference: at least one major unit,
    where that is enough for a picture."""
    rough = -(-most // MAX_BINS)
    power = 10 ** (len(str(rough)) - 1)
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough)
    major: int = 10 ** EXPONENTS[currency]
    return max(step, major) if most >= 2 * major else step


def _bin_of(difference: int, step: int) -> int:
    """Return 0 for none, 1 for up to one step more, -1 for up to one step less, and so on."""
    place = -(-abs(difference) // step)
    return place if difference > 0 else -place


def _bucket(place: int, step: int, currency: str) -> Bucket:
    if place == 0:
        return Bucket("0", "the same")
    sign = "+" if place > 0 else "\u2212"
    near, far = (abs(place) - 1) * step, abs(place) * step
    title = f"{money_text(near, currency)} to {money_text(far, currency)} {'more' if place > 0 else 'less'}"
    return Bucket(f"{sign}{_short(far, currency)}", title)


def _short(minor: int, currency: str) -> str:
    """Write an amount for an axis: whole major units without their decimals."""
    text: str = major_text(minor, currency)
    whole, _, fraction = text.partition(".")
    grouped = f"{int(whole):,}".replace(",", THIN_SPACE)
    return f"{grouped}.{fraction}" if fraction.strip("0") else grouped
