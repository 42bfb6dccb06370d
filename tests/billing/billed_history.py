"""A random history of billing for tests: customers on several plans, usage of every aggregation, late events, voids,
plan changes, pauses and commitments, invoiced in a few runs. Remembers what it sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from billing.models import BillingSettings, Invoice, InvoiceState, Subscription
from billing.services.commitments import create_commitment
from billing.services.invoice_runs import join_run, work_run
from billing.services.subscriptions import When, pause_subscription
from tests.billing.seller import Seller, written

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
# When everything that is due is invoiced. What lies before is sent between two of them.
RUNS = [datetime(2026, month, 4, tzinfo=UTC) for month in (3, 5, 7, 9, 11)]
REGIONS = ("us", "eu", "ap")
METRICS = ("calls", "hits", "peak", "least", "seats", "level")
BATCH = 1000


@dataclass
class Sent:
    """One event, between which runs it was known: from the run `known_from` on, and until before `void_from`."""

    key: str
    customer: str
    metric: str
    at: datetime
    value: Any
    region: str
    known_from: int
    void_from: int = 99


class BilledHistory:
    def __init__(self, seller: Seller, *, customer_count: int, seed: int, runs: Sequence[datetime]) -> None:
        self.seller = seller
        self.random = Random(seed)
        self.runs = runs
        self.names = [f"c{number}" for number in range(customer_count)]
        self.sent: list[Sent] = []
        self.subscriptions: dict[str, Subscription] = {}

    def play(self) -> list[Invoice]:
        """Make it all, and return the final invoices in the order of their numbers."""
        BillingSettings.objects.create(organization=self.seller.organization, adjustment_days=400)
        self._sell()
        begin = BEGIN
        for number, at in enumerate(self.runs):
            self._use(number, begin, at)
            self._change(number, at)
            self.seller.roll_up(at=at)
            work_run(run=join_run(organization=self.seller.organization, actor="test", now=at), clock=lambda at=at: at)
            begin = at
        rows = Invoice.objects.for_organization(self.seller.organization).filter(state=InvoiceState.FINALISED)
        related = rows.select_related("organization", "customer", "subscription__customer", "period")
        return list(related.order_by("number"))

    def _sell(self) -> None:
        seller = self.seller
        kinds = {"calls": "sum", "hits": "count", "peak": "max", "least": "min", "seats": "count_unique"}
        for metric in METRICS:
            seller.define(metric, kinds.get(metric, "latest"), dimensions=["region"])
        tiers = [(20, "3.5"), (60, "1.25", 40), (None, "0.1")]
        seller.plan(
            "wide",
            written("flat", 1900),
            written("graduated", metric="calls", tiers=tiers, included_quantity=5, filters={"region": ["us", "ap"]}),
            written("volume", metric="calls", tiers=[(30, "2.5"), (None, "1.1")], maximum=90),
            written("per_unit", "0.7", metric="hits", minimum=11),
            written("per_unit", 100, metric="peak", filters={"region": ["eu"]}),
            written("per_unit", "33.3", metric="seats"),
        )
        seller.plan(
            "narrow",
            written("package", 250, metric="calls", package_size=7, filters={"region": ["eu"]}),
            written("per_unit", "12.5", metric="least"),
            written("per_unit", "2.4", metric="level", included_quantity=3),
            written("percent_of_amount", "2.9", metric="hits"),
            written("flat", 999),
            trial_days=20,
        )
        for name in self.names:
            start = BEGIN + timedelta(days=self.random.randrange(0, 28), hours=self.random.choice([0, 0, 9]))
            zone = self.random.choice(["UTC", "Europe/Vienna", "America/New_York"])
            made = seller.subscribe(name, self.random.choice(["wide", "narrow"]), start=start, zone=zone)
            self.subscriptions[name] = made
            if self.random.random() < 0.2:
                create_commitment(
                    subscription=made,
                    amount_minor=self.random.choice([3000, 9000]),
                    period_count=self.random.choice([1, 3]),
                    is_recurring=True,
                    starts_at=None,
                    actor="test",
                    now=start,
                )

    def _use(self, number: int, begin: datetime, end: datetime) -> None:
        """Send what was used since the last run, some of which belongs to earlier times, and take something back."""
        fresh = []
        for name in self.names:
            for _ in range(self.random.randrange(10, 22)):
                fresh.append(self._event(name, number, begin, end))
            if number and self.random.random() < 0.7:
                fresh += [self._event(name, number, BEGIN, begin) for _ in range(3)]
        for start in range(0, len(fresh), BATCH):
            self.seller.send_all(*map(_body, fresh[start : start + BATCH]), at=end)
        for sent in self.random.sample(self.sent, len(self.sent) // 60):
            if sent.void_from == 99:
                self.seller.void(sent.key, at=end)
                sent.void_from = number
        self.sent += fresh

    def _event(self, name: str, number: int, begin: datetime, end: datetime) -> Sent:
        random, metric = self.random, self.random.choice(METRICS)
        seconds = random.randrange(int((end - begin).total_seconds()))
        value: Any = f"member{random.randrange(6)}" if metric == "seats" else random.randrange(1, 400) / 10
        at = begin + timedelta(seconds=seconds)
        return Sent(f"e{random.getrandbits(60)}", name, metric, at, value, random.choice(REGIONS), number)

    def _change(self, number: int, at: datetime) -> None:
        """Change plans and pause, here and there: at the time of the run, so that parts of its periods are cut."""
        for subscription in self.subscriptions.values():
            chance = self.random.random()
            subscription.refresh_from_db()
            if chance < 0.15:
                when = self.random.choice(["now", "period_end"])
                self.seller.change(subscription, self.random.choice(["wide", "narrow"]), when, at=at)
            elif chance < 0.2 and number < 3:
                pause_subscription(
                    subscription=subscription,
                    when=When("now"),
                    resumes_at=at + timedelta(days=self.random.randrange(2, 50)),
                    actor="test",
                    now=at,
                )


def _body(sent: Sent) -> dict[str, Any]:
    return {
        "idempotency_key": sent.key,
        "customer": sent.customer,
        "type": sent.metric,
        "value": sent.value,
        "timestamp": sent.at.isoformat(),
        "properties": {"region": sent.region},
    }
