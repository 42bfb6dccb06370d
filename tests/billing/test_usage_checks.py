"""The daily comparison of events, rollups, invoiced and reported usage; each fault is planted in one of the four."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from accounts.models import User
from billing.models import BillingPeriod, Notice, StripeCustomer, StripeMeter, UsageCheck, UsageReport
from billing.queries.usage_checks import list_checked_periods
from billing.services import usage_checks
from billing.services.invoice_runs import join_run, work_run
from billing.services.usage_checks import CheckRun, check_usage
from tests.api.conftest import Api
from tests.billing.auditor import settings_of
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

NOVEMBER = datetime(2026, 11, 3, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def check(seller: Seller, **more: Any) -> CheckRun:
    return check_usage(organization=seller.organization, now=more.pop("now", seller.now), **more)


def differing(seller: Seller) -> list[tuple[str, str]]:
    rows = UsageCheck.objects.for_organization(seller.organization).filter(agrees=False)
    named = rows.values_list("period__subscription__customer__external_id", "metric__code")
    return sorted(named)


def row(seller: Seller, customer: str, metric: str) -> list[Decimal | None]:
    found = UsageCheck.objects.for_organization(seller.organization).get(
        period__subscription__customer__external_id=customer, metric__code=metric
    )
    return [found.events_quantity, found.rollups_quantity, found.invoiced_quantity, found.reported_quantity]


def execute(statement: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        assert cursor.rowcount > 0


def invoice(seller: Seller, at: datetime) -> None:
    work_run(run=join_run(organization=seller.organization, actor="test", now=at), clock=lambda: at)


@pytest.fixture
def billed(seller: Seller) -> Seller:
    """October of two customers, invoiced; calls have a price for a region and one for the rest."""
    seller.define("calls", "sum", dimensions=["region"])
    seller.define("peak", "max")
    us = written("per_unit", 2, metric="calls", filters={"region": ["us"]})
    seller.plan("pro", us, written("per_unit", 1, metric="calls"), written("per_unit", 5, metric="peak"))
    for customer in ("acme", "zeta"):
        seller.subscribe(customer, "pro", start=utc(2026, 10, 1))
        seller.use(customer, "calls", 10, utc(2026, 10, 5), region="us")
        seller.use(customer, "calls", 5, utc(2026, 10, 6), region="eu")
        seller.use(customer, "peak", 7, utc(2026, 10, 7))
    seller.roll_up()
    invoice(seller, NOVEMBER)
    return seller


class TestAgreement:
    def test_what_nobody_touched_agrees(self, billed: Seller) -> None:
        run = check(billed)

        assert (run.periods, run.compared, run.differing) == (2, 4, 0)
        assert row(billed, "acme", "calls") == [15, 15, 15, None]
        assert row(billed, "acme", "peak") == [7, 7, 7, None]
        assert not Notice.objects.for_organization(billed.organization).filter(type="usage.mismatch").exists()

    def test_late_event_is_no_difference_while_an_adjustment_is_to_come(self, billed: Seller) -> None:
        billed.use("acme", "calls", 3, utc(2026, 10, 8), region="us")

        assert check(billed).differing == 0
        assert row(billed, "acme", "calls") == [18, 18, 15, None]
        invoice(billed, utc(2026, 12, 3))
        assert check(billed, now=utc(2026, 12, 4)).differing == 0
        periods = BillingPeriod.objects.for_organization(billed.organization).order_by("starts_at")
        rows = UsageCheck.objects.for_organization(billed.organization).filter(metric__code="calls")
        assert rows.get(period=periods.filter(subscription__customer__external_id="acme")[0]).invoiced_quantity == 18

    def test_goes_on_where_the_time_was_up_and_forgets_what_is_waived(
        self, billed: Seller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage_checks, "CHUNK", 1)
        times = iter([billed.now, billed.now + timedelta(minutes=9)])
        first = check(billed, until=billed.now + timedelta(minutes=8), clock=lambda: next(times))
        assert (first.periods, first.compared) == (1, 2)
        assert first.resume_from is not None
        rest = check(billed, from_period_id=first.resume_from)
        assert (rest.periods, rest.compared, rest.resume_from) == (1, 2, None)

        BillingPeriod.objects.for_organization(billed.organization).filter(
            subscription__customer__external_id="acme"
        ).update(is_waived=True)
        assert check(billed).periods == 1
        checks = UsageCheck.objects.for_organization(billed.organization)
        assert checks.exclude(period__subscription__customer__external_id="zeta").count() == 0

    def test_many_periods_take_as_many_reads_as_one(self, billed: Seller) -> None:
        def count_reads() -> int:
            with connection.execute_wrapper(lambda execute, *call: (reads.append(1), execute(*call))[1]):
                check(billed)
            return len(reads)

        reads: list[int] = []
        two = count_reads()
        for number in range(6):
            billed.subscribe(f"more{number}", "pro", start=utc(2026, 10, 1))
            billed.use(f"more{number}", "calls", 1, utc(2026, 10, 5))
        invoice(billed, NOVEMBER)
        reads.clear()

        assert count_reads() == two
        assert len(list_checked_periods(organization=billed.organization, now=NOVEMBER, limit=99)) == 8


class TestTooLate:
    """October is adjusted until 1 February, 92 days after its end."""

    def test_for_any_invoice_is_told_whenever_it_changes_and_stays(self, billed: Seller) -> None:
        organization = billed.organization
        invoice(billed, utc(2026, 12, 3))
        # In time, but no run comes before the time is over.
        billed.use("zeta", "peak", 9, utc(2026, 10, 8))
        assert check(billed, now=utc(2027, 1, 31)).differing == 0
        assert check(billed, now=utc(2027, 2, 2)).differing == 1
        billed.use("acme", "calls", 3, utc(2026, 10, 8), region="us")
        for day in (3, 4):
            invoice(billed, utc(2027, 2, day))
            assert check(billed, now=utc(2027, 2, day)).differing == 2
        billed.use("acme", "calls", 4, utc(2026, 10, 9), region="eu")
        check(billed, now=utc(2027, 2, 5))

        notices = Notice.objects.for_organization(organization).filter(type="usage.unbilled").order_by("pk")
        told = [notice.payload for notice in notices]
        assert [(each["customer"], each["metric"], each["quantity"], each["invoiced_quantity"]) for each in told] == [
            ("zeta", "peak", "2", "7"),
            ("acme", "calls", "3", "15"),
            ("acme", "calls", "7", "15"),
        ]
        assert told[0]["period"] == {"start": "2026-10-01T00:00:00Z", "end": "2026-11-01T00:00:00Z"}
        assert not Notice.objects.for_organization(organization).filter(type="usage.mismatch").exists()
        october = UsageCheck.objects.for_organization(organization).filter(period__starts_at=utc(2026, 10, 1))
        assert differing(billed) == [("acme", "calls"), ("zeta", "peak")]
        # Of periods that nobody adjusts any more nothing else is kept.
        assert [(found.rollups_quantity, found.agrees) for found in october.order_by("metric__code")] == [
            (22, False),
            (9, False),
        ]
        # They stay where they cannot be told any more, as after a void.
        BillingPeriod.objects.for_organization(organization).filter(pk__in=october.values("period")).update(
            billed_quantities=None
        )
        check(billed, now=utc(2027, 2, 6))
        assert differing(billed) == [("acme", "calls"), ("zeta", "peak")]
        # With more time the next invoice charges it, and nothing differs any more.
        settings_of(organization, adjustment_days=366)
        invoice(billed, utc(2027, 3, 3))
        assert check(billed, now=utc(2027, 3, 4)).differing == 0

    def test_is_told_of_what_differed_before(self, billed: Seller) -> None:
        invoice(billed, utc(2026, 12, 3))
        october = BillingPeriod.objects.for_organization(billed.organization).filter(starts_at=utc(2026, 10, 1))
        october.filter(subscription__customer__external_id="acme").update(billed_quantities=["10", "6", "7"])
        for now in (utc(2027, 1, 31), utc(2027, 2, 2), utc(2027, 2, 3)):
            assert check(billed, now=now).differing == 1

        notices = Notice.objects.for_organization(billed.organization).order_by("pk")
        told = notices.filter(type__startswith="usage.").values_list("type", "payload__customer", "payload__quantity")
        assert list(told) == [("usage.mismatch", "acme", None), ("usage.unbilled", "acme", "-1")]

    def test_is_shown(self, billed: Seller, api: Api, client_for: Any, alice: User) -> None:
        invoice(billed, utc(2026, 12, 3))
        billed.use("zeta", "peak", 9, utc(2026, 10, 8))
        check(billed, now=utc(2027, 3, 1))
        # Long ago by any clock.
        october = BillingPeriod.objects.for_organization(billed.organization).filter(starts_at=utc(2026, 10, 1))
        october.update(starts_at=utc(2016, 10, 1), ends_at=utc(2016, 11, 1))

        [found] = api.get("/v1/billing/checks?agrees=false")["data"]
        assert (found["metric"], found["unbilled_quantity"], found["events_quantity"]) == ("peak", "2", None)
        page = client_for(alice).get(f"/o/{billed.organization.pk}/billing-checks")
        assert [row.unbilled for row in page_of(page).rows] == [2]
        assert "too late for any invoice" in text_of(page)


class TestPlantedFaults:
    def test_changed_rollup_is_found_and_only_that(self, billed: Seller) -> None:
        customer, metric = billed.customer_id("acme"), billed.metrics["calls"].pk
        # Minutes of then are not kept any more.
        for size in ("day", "hour"):
            execute(
                f"UPDATE metering_rollup_{size} AS kept SET value_sum = value_sum + 1 FROM metering_series AS series "
                "WHERE kept.series_id = series.id AND series.customer_id = %s AND series.metric_id = %s "
                "AND kept.value_sum = 10",
                customer,
                metric,
            )
        run = check(billed)

        assert (run.differing, run.new_differing) == (1, 1)
        assert differing(billed) == [("acme", "calls")]
        assert row(billed, "acme", "calls") == [15, 16, 15, None]

    def test_changed_event_is_found_told_once_and_forgotten_when_it_agrees_again(self, billed: Seller) -> None:
        plant = "UPDATE metering_event SET value = %s WHERE customer_id = %s AND value = %s"
        execute(plant, 8, billed.customer_id("zeta"), 7)

        check(billed)
        later = billed.now + timedelta(days=1)
        check(billed, now=later)

        assert differing(billed) == [("zeta", "peak")]
        assert row(billed, "zeta", "peak") == [8, 7, 7, None]
        [notice] = Notice.objects.for_organization(billed.organization).filter(type="usage.mismatch")
        assert notice.payload["customer"] == "zeta"
        assert (notice.payload["metric"], notice.payload["events_quantity"]) == ("peak", "8")
        found = UsageCheck.objects.for_organization(billed.organization).get(agrees=False)
        assert (found.differs_since, found.checked_at) == (billed.now, later)

        execute(plant, 7, billed.customer_id("zeta"), 8)
        assert check(billed, now=later).differing == 0
        assert UsageCheck.objects.for_organization(billed.organization).filter(differs_since__isnull=False).count() == 0

    def test_wrongly_noted_invoice_is_found(self, billed: Seller) -> None:
        rows = BillingPeriod.objects.for_organization(billed.organization)
        rows.filter(subscription__customer__external_id="acme", state="finalised").update(
            billed_quantities=["10", "6", "7"]
        )
        check(billed)

        assert differing(billed) == [("acme", "calls")]
        assert row(billed, "acme", "calls") == [15, 15, 16, None]

    def test_changed_report_is_found_and_only_when_all_are_settled(self, billed: Seller) -> None:
        organization, meter = billed.organization, billed.metrics["calls"]
        StripeMeter.objects.create(organization=organization, metric=meter, event_name="calls", created_at=NOVEMBER)
        for number, period in enumerate(
            BillingPeriod.objects.for_organization(organization).filter(state="finalised").order_by("pk")
        ):
            customer = period.subscription.customer
            StripeCustomer.objects.create(
                organization=organization,
                customer=customer,
                stripe_customer_id=f"cus_{number}",
                created_at=period.starts_at,
            )
            UsageReport.objects.create(
                organization=organization,
                subscription=period.subscription,
                metric=meter,
                window_start=period.starts_at,
                window_end=period.ends_at,
                sequence=0,
                month="2026-10",
                period_start=period.starts_at,
                quantity=15,
                stripe_customer_id=f"cus_{number}",
                event_name="calls",
                event_time=period.starts_at,
                identifier=f"report-{number}",
                state="delivered",
            )
        later = billed.now + timedelta(hours=3)
        assert check(billed, now=later).differing == 0
        assert row(billed, "acme", "calls") == row(billed, "zeta", "calls") == [15, 15, 15, 15]

        reports = UsageReport.objects.for_organization(organization).filter(stripe_customer_id="cus_0")
        reports.update(quantity=14)
        check(billed, now=later)
        assert differing(billed) == [("acme", "calls")]

        reports.update(state="pending", next_attempt_at=later)
        assert check(billed, now=later).differing == 0
        assert row(billed, "acme", "calls") == [15, 15, 15, None]
        # One that has been unknown for two days is on its way no more.
        reports.update(state="unknown", first_sent_at=later - timedelta(days=2))
        check(billed, now=later)
        assert row(billed, "acme", "calls") == [15, 15, 15, 14]


class TestShown:
    def test_api_page_and_command_show_what_differs(
        self, billed: Seller, api: Api, client_for: Any, alice: User, capsys: pytest.CaptureFixture[str]
    ) -> None:
        browser: Client = client_for(alice)
        here = f"/o/{billed.organization.pk}/billing-checks"
        assert "Nothing was compared yet" in text_of(browser.get(here))
        check(billed)
        assert "Everything agrees" in text_of(browser.get(here))
        execute("UPDATE metering_event SET value = 9 WHERE customer_id = %s AND value = 7", billed.customer_id("acme"))
        check(billed)

        [found] = api.get("/v1/billing/checks?agrees=false")["data"]
        assert (found["customer"], found["metric"], found["agrees"]) == ("acme", "peak", False)
        assert found["unbilled_quantity"] is None
        assert (found["events_quantity"], found["rollups_quantity"], found["reported_quantity"]) == ("9", "7", None)
        assert len(api.get("/v1/billing/checks")["data"]) == 4
        page = page_of(browser.get(here))
        assert (page.agreeing_count, [shown.customer for shown in page.rows]) == (3, ["acme"])
        with pytest.raises(CommandError, match="1 differ"):
            call_command("check_billing", "--organization", str(billed.organization.pk))
        assert "events 9, rollups 7, invoiced 7, reported -" in capsys.readouterr().err
