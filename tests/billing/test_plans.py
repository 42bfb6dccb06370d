"""Plans: what may be sold together, versions, and that what was sold never changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import AuditEntry
from billing.models import Plan, PlanVersion, Price, Subscription, SubscriptionPhase
from billing.queries import find_current_version, find_default_version
from billing.queries.charges import list_charges
from billing.services.plans import (
    PlanExists,
    PlanIsArchived,
    VersionDefinition,
    VersionIsActive,
    activate_version,
    archive_plan,
    replace_draft,
    update_plan,
)
from common.errors import InvalidInput
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db


def actions(seller: Seller) -> list[str]:
    entries = AuditEntry.objects.for_organization(seller.organization).filter(action__startswith="plan.")
    return list(entries.order_by("pk").values_list("action", flat=True))


class TestVersions:
    def test_prices_come_back_as_they_were_written(self, seller: Seller) -> None:
        seller.define("compute", "sum", dimensions=["region"])
        prices = [
            written("flat", 4900, name="Base fee"),
            written("per_unit", "0.1", metric="compute", filters={"region": ["us", "eu"]}, included_quantity=100_000),
            written("graduated", metric="compute", tiers=[("10.5", "3"), (None, "0.0001", "20")], maximum="7.5"),
        ]

        plan = seller.plan("pro", *prices, trial_days=14)

        version = find_current_version(plan=plan)
        assert version is not None
        assert (version.number, version.currency, version.trial_days, version.state) == (1, "USD", 14, "active")
        charges = list_charges(version)
        assert [charge.price.amount for charge in charges] == [4900, Decimal("0.1"), None]
        assert [charge.filters for charge in charges] == [{}, {"region": ["us", "eu"]}, {}]
        assert [charge.label for charge in charges] == ["Base fee", "compute", "compute"]
        for charge, wanted in zip(charges, prices, strict=True):
            assert charge.price.tiers == wanted.price.tiers
            assert (charge.price.included_quantity, charge.price.maximum) == (
                wanted.price.included_quantity,
                wanted.price.maximum,
            )
            assert charge.price.currency == "USD"

    def test_drafts_are_replaced_and_then_activated_for_good(self, seller: Seller) -> None:
        plan = seller.plan("pro", written("flat", 100), is_active=False)
        [draft] = plan.versions.all()
        assert find_current_version(plan=plan) is None

        replace_draft(version=draft, definition=VersionDefinition("EUR", [written("flat", 200)]), actor="test")
        activate_version(version=draft, actor="test", now=seller.now)

        current = find_current_version(plan=plan)
        assert current == draft
        charges = list_charges(PlanVersion.objects.for_organization(seller.organization).get())
        assert [(charge.price.currency, charge.price.amount) for charge in charges] == [("EUR", 200)]
        with pytest.raises(VersionIsActive):
            replace_draft(version=draft, definition=VersionDefinition("EUR", []), actor="test")
        with pytest.raises(VersionIsActive):
            activate_version(version=draft, actor="test", now=seller.now)
        assert actions(seller) == [
            "plan.created",
            "plan.version_created",
            "plan.version_changed",
            "plan.version_activated",
        ]

    def test_next_version_leaves_the_one_before_alone(self, seller: Seller) -> None:
        plan = seller.plan("pro", written("flat", 100))

        second = seller.version(plan, written("flat", 200))

        assert second.number == 2
        assert find_current_version(plan=plan) == second
        charges = [charge for version in plan.versions.order_by("number") for charge in list_charges(version)]
        assert [charge.price.amount for charge in charges] == [100, 200]

    def test_code_is_taken_once(self, seller: Seller) -> None:
        seller.plan("pro")

        with pytest.raises(PlanExists):
            seller.plan("pro")


class TestDatabase:
    """Even what goes past the services cannot change what was sold."""

    @pytest.fixture
    def version(self, seller: Seller) -> PlanVersion:
        seller.plan("pro", written("flat", 100))
        seller.subscribe("acme", "pro")
        return PlanVersion.objects.for_organization(seller.organization).get()

    def refuse(self, write: Any) -> None:
        with pytest.raises(IntegrityError):
            self.write(write)

    @transaction.atomic
    def write(self, write: Any) -> None:
        write()
        connection.check_constraints()  # what is judged as a transaction ends

    def test_refuses_another_amount(self, version: PlanVersion) -> None:
        self.refuse(lambda: Price.objects.for_organization(version.organization_id).update(amount=1))

    def test_refuses_another_currency(self, version: PlanVersion) -> None:
        self.refuse(lambda: PlanVersion.objects.for_organization(version.organization_id).update(currency="EUR"))

    def test_refuses_to_make_it_a_draft_again(self, version: PlanVersion) -> None:
        self.refuse(lambda: PlanVersion.objects.for_organization(version.organization_id).update(state="draft"))

    def test_refuses_one_price_less(self, version: PlanVersion) -> None:
        self.refuse(lambda: Price.objects.for_organization(version.organization_id).delete())

    def test_lets_a_whole_organization_go(self, version: PlanVersion) -> None:
        self.write(version.organization.delete)

        for model in (Plan, PlanVersion, Price, Subscription, SubscriptionPhase):
            assert not model.objects.all_tenants().exists()

    def test_refuses_one_price_more(self, version: PlanVersion) -> None:
        row = Price(organization_id=version.organization_id, version=version, position=9, model="flat", amount=1)
        self.refuse(row.save)

    def test_refuses_two_default_plans(self, seller: Seller) -> None:
        seller.plan("one", is_default=True)
        other = seller.plan("two")
        other.is_default = True
        self.refuse(other.save)


class TestMeaning:
    def problems(self, seller: Seller, *prices: Any, currency: str = "USD", **more: Any) -> list[tuple[str, str]]:
        with pytest.raises(InvalidInput) as refused:
            seller.plan("pro", *prices, currency=currency, **more)
        return [(error.field, error.code) for error in refused.value.errors]

    def test_every_problem_is_named_at_its_place(self, seller: Seller) -> None:
        seller.define("compute", "sum", dimensions=["region"])

        problems = self.problems(
            seller,
            written("per_unit", 1),
            written("per_unit", -1, metric="compute", filters={"place": ["us"]}),
            written("per_unit", 1, metric="nothing"),
            written("flat", 1, included_quantity=5),
            currency="usd",
            trial_days=-1,
        )

        assert problems == [
            ("currency", "unknown_currency"),
            ("trial_days", "invalid_value"),
            ("prices[0].metric", "required"),
            ("prices[1].amount", "invalid_value"),
            ("prices[1].filters.place", "unknown_dimension"),
            ("prices[2].metric", "unknown_metric"),
            ("prices[3].included_quantity", "invalid_combination"),
        ]

    def test_two_prices_of_the_same_usage_are_refused(self, seller: Seller) -> None:
        seller.define("compute", "sum", dimensions=["region"])
        regions = [["us", "eu"], ["eu"]]

        problems = self.problems(
            seller, *(written("per_unit", 1, metric="compute", filters={"region": region}) for region in regions)
        )

        assert problems == [("prices[1].filters", "overlapping_prices")]

    def test_the_rest_of_a_distinct_count_has_no_price(self, seller: Seller) -> None:
        seller.define("seats", "count_unique", dimensions=["region"])
        parts = [written("per_unit", 1, metric="seats", filters=filters) for filters in ({"region": ["us"]}, {})]

        assert self.problems(seller, *parts) == [("prices[1].filters", "invalid_combination")]

    def test_metric_of_another_organization_is_unknown(self, seller: Seller, other_org: Any) -> None:
        Seller(other_org, seller.now).define("theirs", "sum")

        problems = self.problems(seller, written("per_unit", 1, metric="theirs"))

        assert problems == [("prices[0].metric", "unknown_metric")]


class TestDefault:
    def test_is_one_at_a_time(self, seller: Seller) -> None:
        free = seller.plan("free", is_default=True)
        paid = seller.plan("paid", written("flat", 1))

        update_plan(plan=paid, changes={"is_default": True, "name": "Paid"}, actor="test")

        found = find_default_version(organization=seller.organization)
        assert found is not None
        assert found.plan.name == "Paid"
        free.refresh_from_db()
        assert not free.is_default

    def test_ends_with_the_plan(self, seller: Seller) -> None:
        plan = seller.plan("free", is_default=True)

        archive_plan(plan=plan, actor="test", now=seller.now)

        assert find_default_version(organization=seller.organization) is None
        with pytest.raises(PlanIsArchived):
            seller.subscribe("acme", "free")
        with pytest.raises(PlanIsArchived):
            update_plan(plan=plan, changes={"is_default": True}, actor="test")
