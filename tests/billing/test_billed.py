"""Until when usage is billed, and that nothing later is let go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.queries import find_billed_until
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.services.cleanup import clean_up_by_settings
from metering.queries.reading import RangeNotKept
from metering.services.metrics import install_catalog
from tests.billing.seller import Seller

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
