"""Comparing the ledger with what Stripe counts: planted differences are found, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.domain.reporting import ReportState
from billing.models import StripeDrift
from billing.services.reconciling import Comparison, reconcile_usage
from tests.billing.reporter import Clock, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import METERS, FakeStripe, Fault
from tests.metering.meter import utc

DAY = utc(2026, 11, 18)


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def acme(seller: Seller, clock: Clock) -> Iterator[Reporter]:
    """Three days of `acme`'s usage, reported; a customer's two subscriptions among them."""
    with FakeStripe(now=clock.read) as server:
        reporter = Reporter(seller, server, clock)
        old = reporter.subscribe("acme", start=utc(2026, 9, 1))
        reporter.subscribe("acme", start=utc(2026, 11, 2, 6), idempotency_key="another")
        seller.cancel(old, "now", at=utc(2026, 11, 17, 9))
        reporter.use("acme", 5, utc(2026, 11, 17, 8))
        reporter.use("acme", 6, utc(2026, 11, 17, 10))
        reporter.use("acme", "7.25", utc(2026, 11, 18, 10))
        reporter.report()
        clock.now += timedelta(hours=2)
        yield reporter


def compare(reporter: Reporter) -> Comparison:
    return reconcile_usage(organization=reporter.organization, sink=reporter.sink, pace=reporter.clock.pace)


def drifts(reporter: Reporter) -> list[tuple[datetime, Decimal, Decimal, bool]]:
    rows = StripeDrift.objects.for_organization(reporter.organization).order_by("day")
    return [(row.day, row.ledger_quantity, row.stripe_quantity, row.resolved_at is None) for row in rows]


def test_what_was_reported_agrees(acme: Reporter) -> None:
    assert compare(acme) == Comparison(days=34), "17 October to 19 November"
    assert drifts(acme) == []


def test_what_stripe_dropped_afterwards_is_found_once(acme: Reporter) -> None:
    """As when it takes an event at first and rejects it later."""
    acme.stripe.events = [event for event in acme.stripe.events if event.value != Decimal("7.25")]

    assert (compare(acme).drifts, compare(acme).drifts) == (1, 1)

    assert drifts(acme) == [(DAY, Decimal("7.25"), Decimal(0), True)]
    assert len(acme.stripe.events) == 2, "nothing is sent to make up for it"


def test_what_somebody_else_reported_is_found(acme: Reporter) -> None:
    acme.stripe.events.append(acme.stripe.events[-1].__class__(**{**vars(acme.stripe.events[-1]), "identifier": "x"}))

    compare(acme)

    assert drifts(acme) == [(DAY, Decimal("7.25"), Decimal("14.5"), True)]


def test_a_difference_that_is_gone_is_resolved_and_may_come_back(acme: Reporter) -> None:
    whole = list(acme.stripe.events)
    for events, is_open in (([], True), (whole, False), ([], True)):
        acme.stripe.events = list(events)
        compare(acme)

        assert {is_unresolved for *_, is_unresolved in drifts(acme)} == {is_open}
    assert len(drifts(acme)) == 2


def test_late_usage_that_is_not_reported_yet_differs_until_it_is(acme: Reporter) -> None:
    acme.use("acme", 1, utc(2026, 11, 18, 11))

    compare(acme)
    assert drifts(acme) == [(DAY, Decimal("8.25"), Decimal("7.25"), True)]
    acme.report()
    assert compare(acme).days == 33, "the summary may be behind"
    acme.clock.now += timedelta(hours=2)
    compare(acme)

    assert drifts(acme) == [(DAY, Decimal("8.25"), Decimal("8.25"), False)]


def test_days_with_reports_on_their_way_are_left_alone(acme: Reporter) -> None:
    acme.use("acme", 1, utc(2026, 11, 18, 11))
    acme.stripe.faults = [Fault.DROP_BEFORE]
    acme.report()
    acme.clock.now += timedelta(hours=2)

    assert compare(acme) == Comparison(days=33)


def test_a_report_that_is_left_to_people_hides_no_difference(acme: Reporter) -> None:
    """Nobody knows whether 1 arrived, and somebody else reports in its minute."""
    acme.use("acme", 1, utc(2026, 11, 18, 11))
    acme.stripe.faults = [Fault.DROP_BEFORE]
    acme.report()
    acme.stripe.events.append(replace(acme.stripe.events[-1], identifier="foreign", value=Decimal(4)))
    acme.clock.now += timedelta(hours=47)
    acme.report()
    assert (acme.states()[-1], compare(acme).drifts) == (ReportState.UNKNOWN, 0)

    acme.clock.now += timedelta(hours=1)

    assert compare(acme).drifts == 1
    assert drifts(acme) == [(DAY, Decimal("8.25"), Decimal("11.25"), True)]


def test_a_meter_that_is_gone_stops_nobody_else(acme: Reporter) -> None:
    acme.stripe.meters.clear()

    assert compare(acme) == Comparison(failures=1)


@pytest.mark.parametrize(("refusals", "expected"), [(5, Comparison(days=34)), (6, Comparison(failures=1))])
def test_a_stripe_that_asks_for_patience_is_asked_some_times_more(
    acme: Reporter, refusals: int, expected: Comparison
) -> None:
    acme.stripe.fault_paths, acme.stripe.are_reads_met = METERS, True
    acme.stripe.faults = [Fault.THROTTLE] * refusals
    began = acme.clock.now

    assert compare(acme) == expected

    # 1 + 2 + 4 + 8 + 8 seconds, of which chance (here: one half) takes a quarter.
    assert timedelta(seconds=17.25) <= acme.clock.now - began < timedelta(seconds=18.5)


def test_a_comparison_that_runs_out_of_time_says_where_to_go_on(acme: Reporter) -> None:
    comparison = reconcile_usage(
        organization=acme.organization, sink=acme.sink, pace=acme.clock.pace, until=acme.clock.now
    )

    assert (comparison.days, comparison.resume_from) == (0, acme.seller.customer_id("acme"))
