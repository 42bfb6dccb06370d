"""A hand on usage reporting for tests: one organization, a fake Stripe, and a clock that both go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from billing.clients.meters import MeterEvent, MeterSink
from billing.clients.stripe import StripeMeters
from billing.domain.reporting import UNSETTLED, Outcome, ReportState
from billing.models import Subscription, UsageReport
from billing.services.reporting import PlanRun, SendRun, plan_reports, send_reports
from billing.services.stripe_names import name_customer, name_meter
from billing.services.stripe_pace import Pace
from tests.billing.seller import Seller, written
from tests.billing.stripe_fake import FakeStripe


class Clock:
    """Stands still but for who waits; safe to read from other threads. Its runs share Stripe's tokens."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.account = uuid4().hex

    def read(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def pace(self) -> Pace:
        return Pace(now=self.read, wait=self.wait, jitter=lambda: 0.5, account=self.account)


class Killed(BaseException):
    """What a killed process does: nothing more, at once."""


@dataclass
class Hooked:
    """A sink that does something before and after it sends through the real one."""

    sink: MeterSink
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def send(self, event: MeterEvent) -> Outcome:
        self.before()
        outcome = self.sink.send(event)
        self.after()
        return outcome

    def total(self, **selection: Any) -> Decimal:
        return self.sink.total(**selection)


class Reporter:
    """`acme` and its subscription from 1 November 2026, whose `requests` are reported as `api_requests`."""

    def __init__(self, seller: Seller, stripe: FakeStripe, clock: Clock) -> None:
        self.seller, self.stripe, self.clock = seller, stripe, clock
        self.organization = seller.organization
        self.metric = seller.define("requests", "sum", event_type="request")
        seller.plan("basic", written("per_unit", "0.1", metric="requests"))
        name_meter(
            organization=self.organization,
            metric=self.metric,
            event_name="api_requests",
            actor="test",
            now=clock.now,
        )
        stripe.add_meter("api_requests")
        self.sink = StripeMeters(api_key=stripe.key, api_base=stripe.url)

    def subscribe(self, customer: str, *, start: datetime, is_at_stripe: bool = True, **more: Any) -> Subscription:
        subscription = self.seller.subscribe(customer, "basic", start=start, **more)
        name_customer(
            organization=self.organization,
            customer=subscription.customer,
            stripe_customer_id=f"cus_{customer}",
            actor="test",
            now=self.clock.now,
        )
        if is_at_stripe:
            self.stripe.add_customer(f"cus_{customer}")
        return subscription

    def use(self, customer: str, value: Any, at: datetime) -> None:
        self.seller.use(customer, "request", value, at)

    def plan(self, months: list[str] | None = None, **options: Any) -> PlanRun:
        return plan_reports(organization=self.organization, months=months, now=self.clock.now, **options)

    def send(self, sink: MeterSink | None = None) -> SendRun:
        return send_reports(organization=self.organization, sink=sink or self.sink, pace=self.clock.pace)

    def report(self, sink: MeterSink | None = None) -> SendRun:
        self.plan()
        return self.send(sink)

    def come_to_rest(self, sink: MeterSink | None = None) -> None:
        """Report every hour until everything is settled."""
        for _ in range(60):
            self.report(sink)
            if not UsageReport.objects.for_organization(self.organization).filter(state__in=UNSETTLED).exists():
                return
            self.clock.now += timedelta(hours=1)
        raise AssertionError([(row.identifier, row.state, row.last_error) for row in self.rows()])

    def rows(self) -> list[UsageReport]:
        return list(UsageReport.objects.for_organization(self.organization).order_by("id"))

    def states(self) -> list[ReportState]:
        return [ReportState(row.state) for row in self.rows()]

    def arrived(self, customer: str = "acme") -> Decimal:
        return self.stripe.total(f"cus_{customer}", "api_requests")
