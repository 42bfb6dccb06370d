"""Invoices: from a month of usage to rows that never change, and what becomes of what is known later."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing.models import BillingPeriod, InvoiceKind, InvoiceLine, PeriodState
from tests.billing.auditor import audit, audit_charges, settings_of
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db(transaction=True)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def send(seller: Seller, key: str, customer: str, value: int, at: datetime, **properties: str) -> None:
    """Send an event that is to be taken back by its key."""
    event = {"customer": customer, "type": "calls", "value": value, "timestamp": at.isoformat()}
    seller.send_all(event | {"idempotency_key": key, "properties": properties})


class TestMonth:
    def test_becomes_an_invoice_when_its_grace_is_over(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 4900), written("per_unit", "0.5", metric="calls", included_quantity=100))
        seller.subscribe("acme", "pro", start=utc(2026, 10, 1))
        seller.use("acme", "calls", 301, utc(2026, 10, 10))

        [draft] = seller.run(utc(2026, 11, 1, 1))
        assert (draft.state, draft.number, draft.total_minor) == ("draft", "", 5001)
        assert seller.lines(draft) == []

        [final] = seller.run(utc(2026, 11, 2))
        assert (final.pk, final.state, final.number) == (draft.pk, "finalised", "INV-000001")
        assert seller.lines(final) == [("fee", 1, 4900), ("usage", 301, 101)]
        assert (final.subtotal_minor, final.total_minor, final.due_minor) == (5001, 5001, 5001)
        periods = BillingPeriod.objects.for_organization(seller.organization).order_by("starts_at")
        assert [period.state for period in periods] == [PeriodState.FINALISED, PeriodState.OPEN]
        audit(seller.organization)

    def test_of_the_past_are_invoiced_in_order_and_once(self, seller: Seller) -> None:
        seller.plan("pro", written("flat", 100))
        seller.subscribe("acme", "pro", start=utc(2026, 8, 1))

        first = seller.run(utc(2026, 11, 5))
        again = seller.run(utc(2026, 11, 5))

        assert [invoice.number for invoice in first] == ["INV-000001", "INV-000002", "INV-000003"]
        assert [invoice.period.starts_at.month for invoice in first] == [8, 9, 10]
        assert [invoice.pk for invoice in again] == [invoice.pk for invoice in first]
        audit(seller.organization)

    def test_takes_in_what_comes_in_its_grace(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 10, 1))
        send(seller, "a", "acme", 10, utc(2026, 10, 10))
        [draft] = seller.run(utc(2026, 11, 1))
        send(seller, "b", "acme", 5, utc(2026, 10, 31, 23))
        seller.void("a")

        [final] = seller.run(utc(2026, 11, 2))

        assert (draft.total_minor, seller.lines(final)) == (10, [("usage", 5, 5)])
        assert final.total_minor == 5


class TestLateUsage:
    def test_is_the_difference_of_totals_on_the_next_invoice(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        price = written("graduated", metric="calls", tiers=[(100, 10), (None, 1)])
        seller.plan("pro", price)
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        send(seller, "first", "acme", 90, utc(2026, 7, 10))
        assert [invoice.total_minor for invoice in seller.run(utc(2026, 8, 3))] == [900]

        seller.use("acme", "calls", 30, utc(2026, 7, 11))
        seller.use("acme", "calls", 5, utc(2026, 8, 11))
        _, august = seller.run(utc(2026, 9, 3))

        # 120 calls come to 1020.
        assert seller.lines(august) == [("usage", 5, 50), ("adjustment", 1, 120)]
        # Both earlier months at once: 121 come to 1021, 6 to 60.
        seller.use("acme", "calls", 1, utc(2026, 7, 12))
        seller.use("acme", "calls", 1, utc(2026, 8, 12))
        *_, september = seller.run(utc(2026, 10, 3))
        assert seller.lines(september) == [("usage", 0, 0), ("adjustment", 1, 1), ("adjustment", 1, 10)]
        seller.void("first")
        *_, october = seller.run(utc(2026, 11, 3))
        # July ended 94 days before, and is adjusted no more.
        assert seller.lines(october) == [("usage", 0, 0)]
        audit(seller.organization)

    def test_taken_back_becomes_credit_for_the_next_invoice(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 10, metric="calls", minimum=200))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        send(seller, "july", "acme", 90, utc(2026, 7, 10))
        seller.use("acme", "calls", 50, utc(2026, 9, 10))
        seller.run(utc(2026, 8, 3))

        seller.void("july")
        _, august = seller.run(utc(2026, 9, 3))

        # July comes to its minimum of 200, of 900 that were billed; August to its own.
        assert seller.lines(august) == [("usage", 0, 200), ("adjustment", 1, -700)]
        assert (august.total_minor, august.due_minor) == (-500, 0)
        # Fifteen calls more change nothing: they are within the minimum.
        seller.use("acme", "calls", 15, utc(2026, 7, 11))
        *_, september = seller.run(utc(2026, 10, 3))
        assert seller.lines(september) == [("usage", 50, 500)]
        assert (september.credits_minor, september.due_minor) == (500, 0)
        audit(seller.organization)
        assert sorted(audit_charges(seller.organization).values()) == [200, 200, 500]

    def test_is_adjusted_for_so_many_days(self, seller: Seller) -> None:
        settings_of(seller.organization, adjustment_days=32)
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        seller.run(utc(2026, 9, 3))
        seller.use("acme", "calls", 5, utc(2026, 7, 10))
        seller.use("acme", "calls", 7, utc(2026, 8, 10))

        # August ended 32 days before, July 63.
        *_, september = seller.run(utc(2026, 10, 3))

        assert seller.lines(september) == [("usage", 0, 0), ("adjustment", 1, 7)]
        audit(seller.organization)

    def test_of_an_ended_subscription_is_invoiced_by_itself(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
        seller.cancel(made, "period_end", at=utc(2026, 9, 20))
        send(seller, "a", "acme", 10, utc(2026, 9, 10))
        seller.run(utc(2026, 10, 3))

        seller.use("acme", "calls", 5, utc(2026, 9, 12))
        _, second = seller.run(utc(2026, 10, 4))
        assert seller.run(utc(2026, 10, 4, 1))[-1].pk == second.pk
        seller.void("a")
        *_, third = seller.run(utc(2026, 10, 5))

        assert [(each.kind, each.sequence, each.total_minor) for each in (second, third)] == [
            (InvoiceKind.ADJUSTMENT, 0, 5),
            (InvoiceKind.ADJUSTMENT, 1, -10),
        ]
        assert len(seller.run(utc(2026, 10, 6))) == 3
        audit(seller.organization)
        audit_charges(seller.organization)


class TestTerms:
    def test_changed_and_paused_within_a_month_are_charged_part_by_part(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("basic", written("flat", 3000), written("per_unit", 10, metric="calls"))
        seller.plan("pro", written("flat", 9000), written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "basic", start=utc(2026, 9, 1))
        seller.change(made, "pro", "now", at=utc(2026, 9, 11))
        seller.pause(made, at=utc(2026, 9, 16))
        seller.resume(made, at=utc(2026, 9, 21))
        seller.change(made, "basic", "now", at=utc(2026, 9, 26))
        for day, value in ((5, 5), (12, 7), (18, 9), (22, 3), (27, 2)):
            seller.use("acme", "calls", value, utc(2026, 9, day))

        [invoice] = seller.run(utc(2026, 10, 3))

        rows = InvoiceLine.objects.for_organization(seller.organization).order_by("position")
        assert [(row.name, row.starts_at.day, row.quantity, row.amount_minor) for row in rows] == [
            ("Basic: Plan fee", 1, 1, 1000),
            ("Basic: calls", 1, 5, 50),
            ("Pro: Plan fee", 11, 1, 1500),
            ("Pro: calls", 11, 7, 7),
            ("Pro: Plan fee", 21, 1, 1500),
            ("Pro: calls", 21, 3, 3),
            ("Basic: Plan fee", 26, 1, 500),
            ("Basic: calls", 26, 2, 20),
        ]
        assert invoice.total_minor == 4580
        # What comes late falls under the plan of its time, and in the pause under none.
        seller.use("acme", "calls", 4, utc(2026, 9, 13))
        seller.use("acme", "calls", 8, utc(2026, 9, 17))
        *_, october = seller.run(utc(2026, 11, 3))
        assert seller.lines(october) == [("fee", 1, 3000), ("usage", 0, 0), ("adjustment", 1, 4)]
        audit(seller.organization)

    def test_ended_within_a_month_share_it_to_the_cent(self, seller: Seller) -> None:
        seller.plan("pro", written("flat", 1000))
        made = seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
        seller.cancel(made, "now", at=utc(2026, 9, 8))
        seller.subscribe("acme", "pro", start=utc(2026, 9, 8), anchor_day=1)
        other = seller.subscribe("bolt", "pro", start=utc(2026, 9, 1))
        seller.cancel(other, "period_end", at=utc(2026, 9, 8))

        found = seller.run(utc(2026, 10, 3))

        # 7 of 30 days are 233.33; the rest of the month is what is left of the fee.
        amounts = {(each.customer.external_id, each.period.ends_at.day): each.total_minor for each in found}
        assert amounts == {("acme", 8): 233, ("acme", 1): 767, ("bolt", 1): 1000}
        assert len(seller.run(utc(2026, 11, 3))) == 4
        audit(seller.organization)

    def test_of_a_trial_cost_nothing_and_then_are_charged(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 3100), written("per_unit", 1, metric="calls"), trial_days=10)
        seller.subscribe("acme", "pro", start=utc(2026, 8, 1), anchor_day=1)
        seller.use("acme", "calls", 40, utc(2026, 8, 5))
        seller.use("acme", "calls", 3, utc(2026, 8, 12))

        trial, august = seller.run(utc(2026, 9, 3))
        seller.use("acme", "calls", 9, utc(2026, 8, 6))
        *_, september = seller.run(utc(2026, 10, 3))

        assert seller.lines(trial) == [("fee", 1, 0), ("usage", 40, 0)]
        # 21 of 31 days.
        assert seller.lines(august) == [("fee", 1, 2100), ("usage", 3, 3)]
        assert seller.lines(september) == [("fee", 1, 3100), ("usage", 0, 0)]
        audit(seller.organization)

    def test_paused_throughout_have_no_invoice(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        seller.pause(made, at=utc(2026, 8, 1), until=utc(2026, 10, 1))

        seller.run(utc(2026, 9, 3))
        # Nothing of September is charged, but the adjustment of July is.
        seller.use("acme", "calls", 6, utc(2026, 7, 3))
        seller.use("acme", "calls", 6, utc(2026, 9, 3))
        july, september = seller.run(utc(2026, 10, 3))

        assert (july.total_minor, seller.lines(september)) == (0, [("adjustment", 1, 6)])
        assert september.period.starts_at == utc(2026, 9, 1)
        audit(seller.organization)


class TestCalendar:
    def test_of_anchor_zone_and_leap_year(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 100), written("per_unit", 1, metric="calls"))
        seller.subscribe("last", "pro", start=utc(2026, 1, 31))
        leap = seller.subscribe("leap", "pro", start=utc(2024, 1, 31))
        seller.cancel(leap, "period_end", at=utc(2024, 4, 1))
        seller.subscribe("clock", "pro", start=utc(2026, 2, 28, 23), zone="Europe/Berlin")
        # The last microsecond of a period and the first of the next; Berlin goes to summer time on 29 March.
        for at in (utc(2026, 2, 27, 23, 59, 59, 999999), utc(2026, 2, 28)):
            seller.use("last", "calls", 1, at)
        seller.use("leap", "calls", 7, utc(2024, 2, 28, 23, 59))
        for at in (utc(2026, 3, 31, 21, 59), utc(2026, 3, 31, 22)):
            seller.use("clock", "calls", 1, at)

        found = seller.run(utc(2026, 5, 3))

        def spans(customer: str, count: int) -> list[tuple[datetime, int]]:
            own = [each for each in found if each.customer.external_id == customer]
            return [(each.period.ends_at, each.total_minor) for each in own[:count]]

        assert spans("last", 3) == [
            (utc(2026, 2, 28), 101),
            (utc(2026, 3, 31), 101),
            (utc(2026, 4, 30), 100),
        ]
        assert spans("leap", 3) == [(utc(2024, 2, 29), 107), (utc(2024, 3, 31), 100), (utc(2024, 4, 30), 100)]
        assert spans("clock", 2) == [(utc(2026, 3, 31, 22), 101), (utc(2026, 4, 30, 22), 101)]
        audit(seller.organization)


class TestCurrencies:
    def test_are_invoiced_apart(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("usd", written("per_unit", 2, metric="calls"))
        seller.plan("eur", written("per_unit", 3, metric="calls"), currency="EUR")
        made = seller.subscribe("acme", "usd", start=utc(2026, 8, 1))
        seller.subscribe("acme", "eur", start=utc(2026, 8, 1))
        seller.change(made, "eur", "period_end", at=utc(2026, 8, 20))
        seller.use("acme", "calls", 10, utc(2026, 8, 10))
        seller.use("acme", "calls", 1, utc(2026, 9, 10))
        first = seller.run(utc(2026, 9, 3))
        assert sorted((each.currency, each.total_minor) for each in first) == [("EUR", 30), ("USD", 20)]

        seller.use("acme", "calls", 5, utc(2026, 8, 11))
        found = [each for each in seller.run(utc(2026, 10, 3)) if each not in first]

        changed = [each for each in found if each.subscription_id == made.pk]
        assert [(each.kind, each.currency, seller.lines(each)) for each in changed] == [
            ("period", "EUR", [("usage", 1, 3)]),
            ("adjustment", "USD", [("adjustment", 1, 10)]),
        ]
        # It belongs to the period that it adjusts, on paper too.
        assert changed[1].period.starts_at == utc(2026, 8, 1)
        assert changed[1].snapshot["period"]["start"].startswith("2026-08-01")
        assert changed[1].snapshot["plans"] == [{"code": "usd", "name": "Usd", "version": 1}]
        [other] = [each for each in found if each.subscription_id != made.pk]
        assert seller.lines(other) == [("usage", 1, 3), ("adjustment", 1, 15)]
        audit(seller.organization)
        audit_charges(seller.organization)


class TestMetrics:
    def test_that_do_not_add_up_and_prices_of_dimensions(self, seller: Seller) -> None:
        seller.define("calls", "sum", dimensions=["region"])
        seller.define("peak", "max", event_type="calls", dimensions=["region"])
        seller.define("users", "count_unique", event_type="seen")
        seller.plan(
            "pro",
            written("per_unit", 2, metric="calls", filters={"region": ["eu"]}),
            written("per_unit", 1, metric="calls"),
            written("per_unit", 100, metric="peak"),
            written("per_unit", 50, metric="users"),
        )
        seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
        for day, value, region in ((2, 4, "eu"), (3, 6, "us"), (4, 5, "eu")):
            seller.use("acme", "calls", value, utc(2026, 9, day), region=region)
        for day, name in ((2, "ann"), (3, "bob"), (4, "ann")):
            seller.use("acme", "seen", name, utc(2026, 9, day))

        [september] = seller.run(utc(2026, 10, 3))
        assert seller.lines(september) == [("usage", 9, 18), ("usage", 6, 6), ("usage", 6, 600), ("usage", 2, 100)]

        # A new peak in the eu, and a user who was there already.
        seller.use("acme", "calls", 8, utc(2026, 9, 5), region="eu")
        seller.use("acme", "seen", "bob", utc(2026, 9, 9))
        *_, october = seller.run(utc(2026, 11, 3))
        assert seller.lines(october)[-1] == ("adjustment", 1, 16 + 200)
        audit(seller.organization)
        audit_charges(seller.organization)
