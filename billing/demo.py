"""The demo's prices: what New York's airports would charge the airlines, and the invoices of the last months.

Fictional prices on real flights (`metering.demo`). Made by the ordinary services, once; safe to repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer, Organization
from billing.domain.periods import calendar_month
from billing.domain.prices import Price, PriceModel, Tier
from billing.models import GrantKind, Plan
from billing.services.budgets import set_budget
from billing.services.credits import grant_credits
from billing.services.invoice_runs import join_run, work_run
from billing.services.plans import PriceDefinition, VersionDefinition, create_plan
from billing.services.profiles import ProfileDefinition, replace_profile
from billing.services.settings import update_settings
from billing.services.subscriptions import SubscriptionDefinition, create_subscription
from billing.services.tax_rates import TaxRateDefinition, create_tax_rate
from metering import demo
from metering.domain import local_date
from metering.queries import usage_zone

# So many whole months before the current one are invoiced.
MONTHS = 3
HUB_CARRIERS = frozenset({"B6", "DL", "EV", "UA"})
SELLER = {"seller_name": "New York Airports", "seller_address": "Fictional prices on real flights", "grace_hours": 24}


def bill_demo(*, now: datetime) -> int | None:
    """Price the demo's usage and invoice it; return how many airlines have a subscription.

    None where there is no demo, or where it has plans already: people may have changed them.
    """
    organization = Organization.objects.filter(name=demo.ORGANIZATION_NAME).order_by("pk").first()
    if organization is None or Plan.objects.for_organization(organization).exists():
        return None
    update_settings(organization=organization, changes=SELLER, actor=demo.ACTOR)
    tax = TaxRateDefinition(code="ny-sales", name="New York sales tax", percent=Decimal("8.875"), country="US")
    create_tax_rate(organization=organization, definition=tax, actor=demo.ACTOR, now=now)
    plans = {plan.code: plan for plan in _create_plans(organization, now)}
    customers = list(Customer.objects.for_organization(organization).order_by("external_id"))
    for customer in customers:
        _subscribe(organization, customer, plans["hub" if customer.external_id in HUB_CARRIERS else "gate"], now)
    work_run(run=join_run(organization=organization, actor=demo.ACTOR, now=now))
    return len(customers)


def _create_plans(organization: Organization, now: datetime) -> Iterator[Plan]:
    yield _create_plan(
        organization,
        now,
        "gate",
        "Gate",
        [
            _price(PriceModel.FLAT, 250_000, name="Gate lease"),
            _price(PriceModel.PER_UNIT, 9_500, "flights", name="Departures from JFK", filters={"origin": ["JFK"]}),
            _price(
                PriceModel.GRADUATED,
                None,
                "flights",
                name="Other departures",
                tiers=(
                    Tier(Decimal(200), Decimal(9_000)),
                    Tier(Decimal(1000), Decimal(7_500)),
                    Tier(None, Decimal(6_000)),
                ),
            ),
            _price(PriceModel.PER_UNIT, "0.15", "air_miles", name="Air miles", included_quantity=Decimal(10_000)),
        ],
    )
    yield _create_plan(
        organization,
        now,
        "hub",
        "Hub",
        [
            _price(PriceModel.FLAT, 4_000_000, name="Terminal lease"),
            _price(
                PriceModel.VOLUME,
                None,
                "flights",
                name="Departures",
                tiers=_tiers((3000, 6_000), (None, 5_200)),
            ),
            _price(PriceModel.PACKAGE, 25_000, "air_miles", name="Air miles", package_size=Decimal(100_000)),
            _price(PriceModel.PER_UNIT, 15_000, "tail_numbers", name="Aircraft", included_quantity=Decimal(100)),
        ],
    )


def _create_plan(
    organization: Organization, now: datetime, code: str, name: str, prices: list[PriceDefinition]
) -> Plan:
    return create_plan(
        organization=organization,
        code=code,
        name=name,
        definition=VersionDefinition("USD", prices),
        actor=demo.ACTOR,
        now=now,
    )


def _price(
    model: PriceModel,
    amount: int | str | None,
    metric: str | None = None,
    *,
    name: str,
    filters: dict[str, list[str]] | None = None,
    **more: Any,
) -> PriceDefinition:
    price = Price(model, "", None if amount is None else Decimal(amount), **more)
    return PriceDefinition(price, metric, filters or {}, name)


def _tiers(*steps: tuple[int | None, int]) -> tuple[Tier, ...]:
    return tuple(Tier(None if up_to is None else Decimal(up_to), Decimal(amount)) for up_to, amount in steps)


def _subscribe(organization: Organization, customer: Customer, plan: Plan, now: datetime) -> None:
    profile = ProfileDefinition(name=customer.name, country="US")
    replace_profile(customer=customer, definition=profile, actor=demo.ACTOR)
    zone = usage_zone(organization=organization, customer=customer)
    today = local_date(now, zone)
    years, month = divmod(today.year * 12 + today.month - 1 - MONTHS, 12)
    start = calendar_month(year=years, month=month + 1, zone=zone).start
    definition = SubscriptionDefinition(customer=customer, plan=plan, starts_at=start.astimezone(UTC), anchor_day=1)
    made = create_subscription(organization=organization, definition=definition, actor=demo.ACTOR, now=now)
    if customer.external_id == "AA":
        set_budget(
            subscription=made.subscription,
            amount_minor=2_500_000_00,
            actor=demo.ACTOR,
            now=now,
        )
    if customer.external_id == "B6":
        grant_credits(
            organization=organization,
            customer=customer,
            currency="USD",
            amount_minor=50_000_00,
            kind=GrantKind.PROMOTIONAL,
            name="Welcome",
            effective_at=start,
            actor=demo.ACTOR,
            now=now,
        )
