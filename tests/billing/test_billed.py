"""Until when usage is billed, and that nothing later is let go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.models import BillingPeriod, PeriodState
from billing.queries import find_billed_until, find_unbilled_from
from billing.services.invoice_runs import join_run, work_run
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.services.cleanup import clean_up_by_settings
from metering.queries.reading import RangeNotKept
from metering.services.metrics import install_catalog
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month and day


def test_is_when_the_first_subscription_begins(seller: Seller) -> None:
    assert find_billed_until(seller.organization) is None
    seller.plan("pro")
    never = seller.subscribe("acme", "pro", start=seller.now + timedelta(days=1))
    seller.cancel(never, "now", at=seller.now)
    assert find_billed_until(seller.organization) is None

    ended = seller.subscribe("acme", "pro", start=utc(2026, 2, 1))
    seller.cancel(ended, "now", at=utc(2026, 3, 1))
    seller.subscribe("bolt", "pro", start=utc(2026, 5, 1))

    assert find_billed_until(seller.organization) == utc(2026, 2, 1)


@pytest.mark.django_db(transaction=True)
def test_moves_on_with_final_invoices_that_are_not_adjusted_any_more(live_seller: Seller) -> None:
    """The window of adjustments is 92 days by default."""
    seller, now = live_seller, live_seller.now
    seller.plan("pro", written("flat", 100))
    made = seller.subscribe("acme", "pro", start=now - timedelta(days=400), zone="UTC")
    assert find_billed_until(seller.organization) == made.starts_at

    work_run(run=join_run(organization=seller.organization, actor="test", now=now))

    periods = BillingPeriod.objects.for_organization(seller.organization).filter(ends_at__gt=now - timedelta(days=92))
    assert find_billed_until(seller.organization) == periods.order_by("starts_at").first().starts_at
    # What has no final invoice at all: the current period, and one whose grace goes on.
    unbilled = BillingPeriod.objects.for_organization(seller.organization).exclude(state=PeriodState.FINALISED)
    assert find_unbilled_from(seller.organization) == unbilled.order_by("starts_at").first().starts_at
    assert find_unbilled_from(seller.organization) > now - timedelta(days=33)


def test_requests_and_totals_of_unbilled_periods_are_kept(seller: Seller) -> None:
    """Requests go after 30 days by default and totals after 365, but not since the subscription began."""
    for metric in install_catalog(organization=seller.organization, name="api-gateway", actor="test"):
        seller.metrics[metric.code] = metric
    for day in (utc(2025, 1, 31), utc(2025, 2, 1), utc(2026, 6, 1)):
        request = {"customer": "acme", "type": EVENT_TYPE, "timestamp": day.isoformat()}
        seller.send_all(request | {"properties": {"metered_units": 2, "status": "200", "method": "GET"}}, at=day)
    seller.roll_up()
    seller.plan("pro")
    seller.subscribe("acme", "pro", start=utc(2025, 2, 1))

    for hours in range(3):
        clean_up_by_settings(organization=seller.organization, now=seller.now + timedelta(hours=hours))

    assert seller.value("api_units", utc(2025, 2, 1), utc(2026, 12, 1)) == 4
    with pytest.raises(RangeNotKept):
        seller.value("api_units", utc(2025, 1, 1), utc(2026, 12, 1))
