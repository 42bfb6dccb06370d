"""The Stripe pages as a person sees them: they fit wide and narrow screens, and the browser does not complain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone
from playwright.sync_api import Page

from accounts.models import Organization, User
from billing.models import StripeDrift, StripeEvent
from tests.billing.invoices import FEE
from tests.billing.pusher import Pusher
from tests.billing.reporter import Clock, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import INVOICES, FakeStripe, Fault
from tests.browser.looks import look_at

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def told(org: Organization) -> Iterator[Seller]:
    """Reports, invoices, events and a difference, in several states each."""
    seller = Seller(org, timezone.now())
    clock = Clock(seller.now)
    with FakeStripe(now=clock.read) as server:
        server.fault_paths = INVOICES
        reporter, pusher = Reporter(seller, server, clock), Pusher(seller, server, clock)
        for customer in ("a-customer-with-a-name-as-long-as-names-get-in-practice", "gone"):
            reporter.subscribe(customer, start=clock.now - timedelta(days=3), is_at_stripe=customer != "gone")
            for days in (1, 2):
                reporter.use(customer, "1234567.25", clock.now - timedelta(days=days))
        reporter.report()
        pusher.issue()
        pusher.issue(pusher.subscribe("lost", is_at_stripe=False), FEE)
        pusher.push()
        pusher.issue()
        server.faults = [Fault.DROP_AFTER]
        pusher.push()
        StripeDrift.objects.create(
            organization=org,
            customer=seller.customer("gone"),
            metric=reporter.metric,
            day=clock.now.replace(hour=0, minute=0, second=0, microsecond=0),
            ledger_quantity=Decimal("1234567.25"),
            stripe_quantity=0,
            found_at=clock.now,
            checked_at=clock.now,
        )
        for place, state in enumerate(("done", "failed", "done")):
            StripeEvent.objects.create(
                organization=org,
                stripe_event_id=f"evt_1Sx{place}Abcdefghijklmnopqr",
                type=("invoice.paid", "v1.billing.meter.error_report_triggered", "customer.deleted")[place],
                payload={},
                state=state,
                attempts=place + 1,
                error="No answer from Stripe: APIConnectionError." if state == "failed" else "",
            )
        yield seller


def test_pages_fit_and_do_not_complain(
    new_page: Callable[..., Page],
    alice: User,
    org: Organization,
    told: Seller,
    complaints: list[str],
) -> None:
    page = new_page(alice)
    for path in ("", "reports", "invoices", "events", "report-now"):
        page.goto(f"/o/{org.pk}/stripe/{path}")
        look_at(page, f"stripe-{path}")
    assert complaints == []
