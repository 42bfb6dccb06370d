"""Two people at the same plan or subscription at once, on database connections of their own."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import pytest

from accounts.models import AuditEntry, Organization
from billing.models import Plan, Subscription
from billing.services.plans import VersionIsActive, activate_version, update_plan
from billing.services.subscriptions import AlreadySubscribed, KeyReused, SubscriptionEnded
from tests.billing.seller import Seller, written
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def seller(org: Organization, now: datetime) -> Seller:
    return Seller(org, now)


def test_versions_made_at_once_get_numbers_of_their_own(seller: Seller) -> None:
    plan = seller.plan("pro")

    made = race([partial(seller.version, plan, written("flat", amount)) for amount in range(4)])

    assert sorted(version.number for version in made) == [2, 3, 4, 5]


def test_one_of_many_plans_is_the_default_in_the_end(seller: Seller) -> None:
    plans = [seller.plan(f"p{number}") for number in range(4)]

    race([partial(update_plan, plan=plan, changes={"is_default": True}, actor="test") for plan in plans])

    assert Plan.objects.for_organization(seller.organization).filter(is_default=True).count() == 1


def test_draft_is_activated_once(seller: Seller) -> None:
    [version] = seller.plan("pro", is_active=False).versions.all()

    def activate() -> bool:
        try:
            activate_version(version=version, actor="test", now=seller.now)
        except VersionIsActive:
            return False
        return True

    assert sorted(race([activate, activate, activate])) == [False, False, True]


def test_subscription_is_ended_once(seller: Seller) -> None:
    seller.plan("pro")
    made = seller.subscribe("acme", "pro", start=seller.now.replace(day=1))

    def cancel() -> bool:
        try:
            seller.cancel(made, "now", at=seller.now)
        except SubscriptionEnded:
            return False
        return True

    assert sorted(race([cancel, cancel, cancel])) == [False, False, True]
    assert Subscription.objects.for_organization(seller.organization).get().ends_at == seller.now
    entries = AuditEntry.objects.for_organization(seller.organization).filter(action="subscription.canceled")
    assert entries.count() == 1


def test_retries_at_once_make_one_subscription(seller: Seller) -> None:
    seller.plan("pro")
    seller.customer("acme")

    made = race([partial(seller.subscribe, "acme", "pro", idempotency_key="order 7") for _ in range(4)])

    assert len({subscription.pk for subscription in made}) == 1
    assert Subscription.objects.for_organization(seller.organization).count() == 1


def test_one_of_several_without_a_key_is_made(seller: Seller) -> None:
    seller.plan("pro")
    seller.customer("acme")

    def subscribe() -> bool:
        try:
            seller.subscribe("acme", "pro")
        except AlreadySubscribed:
            return False
        return True

    assert sorted(race([subscribe, subscribe, subscribe])) == [False, False, True]


def test_one_of_two_customers_gets_a_key(seller: Seller) -> None:
    seller.plan("pro")

    def subscribe(name: str) -> bool:
        try:
            seller.subscribe(name, "pro", idempotency_key="order 7")
        except KeyReused:
            return False
        return True

    for name in ("acme", "bolt"):
        seller.customer(name)
    assert sorted(race([partial(subscribe, name) for name in ("acme", "bolt")])) == [False, True]
