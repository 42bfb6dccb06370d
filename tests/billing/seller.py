"""A hand on billing for tests: plans, subscriptions, usage at a time, spend. Adds no rules of its own."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from billing.domain.prices import Price, PriceModel, Tier
from billing.models import Invoice, InvoiceLine, Plan, PlanVersion, Subscription
from billing.queries import SubscriptionSpend, get_current_spend, get_plan, list_versions
from billing.services.invoice_runs import join_run, work_run
from billing.services.plans import PriceDefinition, VersionDefinition, create_plan, create_version
from billing.services.subscriptions import (
    SubscriptionDefinition,
    When,
    cancel_subscription,
    change_plan,
    create_subscription,
    pause_subscription,
    resume_subscription,
)
from tests import factories
from tests.metering.meter import Meter


def written(model: str, amount: Any = None, *, metric: str | None = None, **more: Any) -> PriceDefinition:
    """Write a price; a tier is (up_to, unit_amount) or (up_to, unit_amount, flat_amount)."""
    tiers = tuple(
        Tier(None if up_to is None else Decimal(up_to), *(Decimal(str(part)) for part in amounts))
        for up_to, *amounts in more.pop("tiers", ())
    )
    filters, name = more.pop("filters", {}), more.pop("name", "")
    numbers = {field: Decimal(str(value)) for field, value in more.items()}
    price = Price(PriceModel(model), "", None if amount is None else Decimal(str(amount)), tiers=tiers, **numbers)
    return PriceDefinition(price, metric, filters, name)


class Seller(Meter):
    def plan(
        self, code: str, *prices: PriceDefinition, currency: str = "USD", trial_days: int = 0, **more: Any
    ) -> Plan:
        return create_plan(
            organization=self.organization,
            code=code,
            name=more.pop("name", code.title()),
            definition=VersionDefinition(currency, prices, trial_days),
            actor="test",
            now=self.now,
            **more,
        )

    def version(
        self, plan: Plan, *prices: PriceDefinition, currency: str = "USD", is_active: bool = True
    ) -> PlanVersion:
        definition = VersionDefinition(currency, prices)
        return create_version(plan=plan, definition=definition, actor="test", now=self.now, is_active=is_active)

    def customer(self, external_id: str, **fields: Any) -> Customer:
        found = Customer.objects.for_organization(self.organization).filter(external_id=external_id).first()
        return found or factories.make_customer(organization=self.organization, external_id=external_id, **fields)

    def subscribe(self, customer: str, plan: str, *, start: datetime | None = None, **more: Any) -> Subscription:
        version = more.pop("version", None)
        found = get_plan(organization=self.organization, code=plan)
        definition = SubscriptionDefinition(
            customer=self.customer(customer),
            plan=found,
            version=None if version is None else list_versions(plan=found).get(number=version),
            starts_at=start,
            **more,
        )
        made = create_subscription(organization=self.organization, definition=definition, actor="test", now=self.now)
        return made.subscription

    def change(self, subscription: Subscription, plan: str, when: str, *, at: datetime) -> Subscription:
        found = get_plan(organization=self.organization, code=plan)
        return change_plan(subscription=subscription, plan=found, version=None, when=When(when), actor="test", now=at)

    def cancel(self, subscription: Subscription, when: str, *, at: datetime) -> Subscription:
        return cancel_subscription(subscription=subscription, when=When(when), actor="test", now=at)

    def pause(self, subscription: Subscription, *, at: datetime, until: datetime | None = None) -> None:
        pause_subscription(subscription=subscription, when=When.NOW, resumes_at=until, actor="test", now=at)

    def resume(self, subscription: Subscription, *, at: datetime) -> None:
        resume_subscription(subscription=subscription, actor="test", now=at)

    def run(self, at: datetime) -> list[Invoice]:
        """Have everything invoiced that is due; return all invoices there are, in the order of their numbers."""
        work_run(run=join_run(organization=self.organization, actor="test", now=at), clock=lambda: at)
        return list(Invoice.objects.for_organization(self.organization).order_by("number", "pk"))

    def lines(self, invoice: Invoice) -> list[tuple[str, Decimal, int]]:
        """Return kind, quantity and amount of each line of an invoice."""
        rows = InvoiceLine.objects.for_organization(self.organization).filter(invoice=invoice).order_by("position")
        return [(line.kind, line.quantity, line.amount_minor) for line in rows]

    def use(self, customer: str, type: str, value: Any, at: datetime, **properties: str) -> None:
        """Send one event that happened at a time."""
        event = {"customer": customer, "type": type, "value": value, "timestamp": at.isoformat()}
        self.send_all(event | {"properties": properties})

    def spend(self, subscription: Subscription, *, at: datetime | None = None) -> SubscriptionSpend:
        return get_current_spend(subscription=subscription, now=at or self.now)

    def amounts(self, subscription: Subscription, *, at: datetime | None = None) -> list[int]:
        """Return the amount of each line."""
        return [line.rated.amount_minor for line in self.spend(subscription, at=at).spend.lines]
