"""Whatever happens, in whatever order: once everything is invoiced, exactly what was used is charged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.models import GrantKind, Invoice, InvoiceState, Subscription
from billing.services.corrections import issue_credit_note, void_invoice
from billing.services.credits import grant_credits
from common.errors import ApplicationError
from tests import factories
from tests.billing.auditor import audit, audit_charges, settings_of
from tests.billing.seller import Seller, written
from tests.billing.test_invoicing import send, utc

pytestmark = pytest.mark.django_db(transaction=True)
ACTS = ("use", "use", "void event", "change", "change later", "pause", "resume", "cancel", "void", "reissue", "credit")
PLANS = ("basic", "pro", "volume")
START = utc(2026, 3, 1)
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 999), st.integers(1, 60), st.integers(0, 9)),
    min_size=12,
    max_size=24,
)


@dataclass
class Year:
    """Three subscriptions and a clock that goes on with everything that happens."""

    seller: Seller
    at: datetime = START
    subscriptions: list[Subscription] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def begin(self) -> None:
        settings_of(self.seller.organization, adjustment_days=900)
        self.seller.define("calls", "sum")
        self.seller.define("peak", "max", event_type="calls")
        tiers = [(40, 7), (90, "2.5"), (None, 1)]
        usage = written("graduated", metric="calls", tiers=tiers, minimum=150)
        self.seller.plan("basic", written("flat", 1000), usage)
        self.seller.plan("pro", written("flat", 3333), written("per_unit", "0.7", metric="calls", included_quantity=31))
        volume = written("volume", metric="calls", tiers=[(50, 9), (None, 4)])
        self.seller.plan("volume", volume, written("per_unit", 11, metric="peak", maximum=500), trial_days=9)
        for name, plan, is_prorated in (("ann", "basic", True), ("ann", "volume", True), ("bob", "pro", False)):
            self.subscriptions.append(self.seller.subscribe(name, plan, start=START, is_prorated=is_prorated))
        grant_credits(
            organization=self.seller.organization,
            customer=self.seller.customer("ann"),
            currency="USD",
            amount_minor=2500,
            kind=GrantKind.PREPAID,
            effective_at=START,
            actor="test",
            now=START,
        )

    def happen(self, act: str, chosen: int, value: int, days: int) -> None:
        self.at += timedelta(days=days, hours=7)
        subscription = self.subscriptions[chosen % len(self.subscriptions)]
        final = Invoice.objects.for_organization(self.seller.organization).filter(state=InvoiceState.FINALISED)
        invoice = final.order_by("number")[chosen % (final.count() or 1) :].first()
        acts: dict[str, Callable[[], object]] = {
            "use": lambda: self.use(chosen, value),
            "void event": lambda: self.keys and self.seller.void(self.keys.pop(chosen % len(self.keys))),
            "change": lambda: self.seller.change(subscription, PLANS[value % 3], "now", at=self.at),
            "change later": lambda: self.seller.change(subscription, PLANS[value % 3], "period_end", at=self.at),
            "pause": lambda: self.seller.pause(subscription, at=self.at),
            "resume": lambda: self.seller.resume(subscription, at=self.at),
            "cancel": lambda: self.seller.cancel(subscription, "now" if value % 2 else "period_end", at=self.at),
            "void": lambda: invoice and self.void(invoice, is_reissued=False),
            "reissue": lambda: invoice and self.void(invoice, is_reissued=True),
            "credit": lambda: invoice and self.credit(invoice),
        }
        # What is not possible, as the subscription has ended or the credit is spent, is refused, and nothing happens.
        with suppress(ApplicationError):
            acts[act]()
        if value % 3 == 0:
            self.seller.run(self.at)

    def use(self, chosen: int, value: int) -> None:
        self.keys.append(f"{len(self.keys)} {self.at}")
        at = max(START, self.at - timedelta(hours=chosen * 2))
        send(self.seller, self.keys[-1], ("ann", "bob")[value % 2], value, at)

    def void(self, invoice: Invoice, *, is_reissued: bool) -> None:
        void_invoice(invoice=invoice, reason="wrong", is_reissued=is_reissued, actor="test", now=self.at)

    def credit(self, invoice: Invoice) -> None:
        issue_credit_note(invoice=invoice, amounts=None, reason="sorry", actor="test", now=self.at)

    def end(self) -> None:
        """Invoice everything, and in two more months what that left to adjust."""
        for days in (3, 40, 75):
            self.seller.run(self.at + timedelta(days=days))


@given(STEPS)
@settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_what_is_charged_in_the_end_is_what_it_costs(steps: list[tuple[str, int, int, int]]) -> None:
    year = Year(Seller(factories.make_organization(), utc(2026, 11, 20)))
    year.begin()
    for step in steps:
        year.happen(*step)
    audit(year.seller.organization)

    year.end()

    audit(year.seller.organization)
    audit_charges(year.seller.organization)
