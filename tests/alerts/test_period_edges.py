"""Periods that begin at half past an hour, long after the raw events of that hour were pruned: limits still answer."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from accounts.models import Organization
from alerts.models import Crossing
from alerts.queries.trace import trace_threshold
from metering.services.retention import prune_organization
from tests.alerts.gate import Gate
from tests.metering.meter import utc

# Midnight of the first of November in India is 18:30 of the last of October.
SENT = (
    (utc(2026, 10, 31, 18, 29, 59), 100),  # October's
    (utc(2026, 10, 31, 18, 30), 1),
    (utc(2026, 10, 31, 19), 10),
    (utc(2026, 11, 19, 12), 1000),
)
NOVEMBERS, WITHOUT_THE_FIRST_HALF_HOUR = Decimal(1011), Decimal(1010)


@pytest.fixture
def gate(transactional_db: None, org: Organization, now: datetime) -> Gate:
    org.zone, org.raw_retention_days = "Asia/Kolkata", 7
    org.save()
    gate = Gate(org, now)
    gate.define("m", "sum", dimensions=["plan"])
    for at, value in SENT:
        event = {"customer": "ann", "type": "m", "value": value, "timestamp": at.isoformat()}
        gate.send_all({**event, "properties": {"plan": "free"}}, at=at)
    gate.roll_up()
    return gate


def prune(gate: Gate) -> None:
    """Twice: what the first run moves out of sight, the second deletes."""
    for _ in range(2):
        prune_organization(organization=gate.organization, now=gate.now)


def test_a_quota_leaves_out_less_than_an_hour_and_never_fails(gate: Gate) -> None:
    gate.limit(1011, mode="hard")
    assert (gate.used(), gate.fits(1)) == (NOVEMBERS, False)

    prune(gate)

    assert gate.used() == WITHOUT_THE_FIRST_HALF_HOUR
    assert (gate.fits(2), gate.fits(1)) == (False, True)


def test_what_is_sent_later_still_counts(gate: Gate) -> None:
    prune(gate)

    gate.send_all({"customer": "ann", "type": "m", "value": 5})
    assert gate.used() == WITHOUT_THE_FIRST_HALF_HOUR + 5
    gate.roll_up()
    assert gate.used() == WITHOUT_THE_FIRST_HALF_HOUR + 5


@pytest.mark.parametrize("filters", [{}, {"plan": ["free"]}])
def test_a_threshold_is_still_measured_and_traced(gate: Gate, filters: dict[str, list[str]]) -> None:
    threshold = gate.threshold("m", "cap", 1010, filters=filters)
    prune(gate)

    gate.evaluate()

    [crossing] = Crossing.objects.for_organization(gate.organization)
    assert crossing.value_at_cross == WITHOUT_THE_FIRST_HALF_HOUR
    trace = trace_threshold(threshold=threshold, customer=gate.customer("ann"), now=gate.now)
    assert (trace.usage, trace.outcome) == (WITHOUT_THE_FIRST_HALF_HOUR, "fired")


def test_the_period_before_is_measured_too(gate: Gate) -> None:
    """A late event of October, whose last half hour cannot be told apart from November's first."""
    gate.threshold("m", "cap", 150)
    gate.evaluate()
    prune(gate)

    gate.use("ann", 160, timestamp=utc(2026, 10, 20).isoformat())

    told = Crossing.objects.for_organization(gate.organization).order_by("offset")
    assert [(crossing.period_start, crossing.value_at_cross) for crossing in told] == [
        (utc(2026, 10, 31, 18, 30), NOVEMBERS),
        (utc(2026, 9, 30, 18, 30), Decimal(160)),  # without the 100 of 18:29:59
    ]


def test_members_of_a_dimension_are_kept_by_the_day(gate: Gate) -> None:
    gate.define("seats", "count_unique", dimensions=["plan"])
    for at, member in ((utc(2026, 10, 31, 20), "a"), (utc(2026, 11, 1), "b"), (utc(2026, 11, 19), "c")):
        event = {"customer": "ann", "type": "seats", "value": member, "timestamp": at.isoformat()}
        gate.send_all({**event, "properties": {"plan": "free"}}, at=at)
    threshold = gate.threshold("seats", "cap", 2, filters={"plan": ["free"]})
    gate.roll_up()
    prune(gate)

    trace = trace_threshold(threshold=threshold, customer=gate.customer("ann"), now=gate.now)

    assert trace.usage == 2  # all but the one of the first day in part


def test_a_warning_of_everybodys_quota_is_overruled_by_the_customers_own(gate: Gate) -> None:
    gate.limit(10, warning_percents=[80])
    [warning] = gate.organization.thresholds.filter(origin="quota")
    assert trace_threshold(threshold=warning, customer=gate.customer("ann"), now=gate.now).outcome == "waiting"

    gate.limit(5000, customer="ann", warning_percents=[])

    of_ann = trace_threshold(threshold=warning, customer=gate.customer("ann"), now=gate.now)
    assert (of_ann.outcome, of_ann.explanation) == (
        "overruled",
        "Not measured: the customer's own quota comes before the metric's.",
    )
    assert trace_threshold(threshold=warning, customer=gate.customer("bob"), now=gate.now).outcome == "below"
