"""Subscriptions: what they begin with, changes of the plan at the edges of periods, and their end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import AuditEntry
from billing.domain.periods import BillingPeriod
from billing.queries.subscriptions import NeverCharged
from billing.services.plans import PlanIsArchived, archive_plan
from billing.services.subscriptions import SubscriptionEnded
from common.errors import InvalidInput
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


class TestBeginning:
    def test_takes_the_customers_zone_and_day(self, seller: Seller) -> None:
        seller.plan("pro")
        seller.customer("acme", zone="Asia/Tokyo", billing_cycle_day=15)

        made = seller.subscribe("acme", "pro", start=utc(2026, 11, 1))

        assert (made.zone, made.anchor_day, made.starts_at) == ("Asia/Tokyo", 15, utc(2026, 11, 1))

    def test_takes_the_organizations_zone_and_its_own_first_day(self, seller: Seller) -> None:
        seller.organization.zone = "Europe/Berlin"
        seller.organization.save()
        seller.plan("pro", trial_days=10)

        made = seller.subscribe("acme", "pro", start=utc(2026, 10, 20, 22))  # in Berlin the 21st

        assert (made.zone, made.anchor_day) == ("Europe/Berlin", 31)
        # Midnight in Berlin again, after its clocks were set back on the 25th.
        assert made.trial_ends_at == utc(2026, 10, 30, 23)

    def test_keeps_its_zone_when_the_customers_changes(self, seller: Seller) -> None:
        seller.plan("pro")
        made = seller.subscribe("acme", "pro", start=utc(2026, 11, 1))
        customer = made.customer
        customer.zone = "Asia/Tokyo"
        customer.save()

        assert seller.spend(made).spend.period == BillingPeriod(utc(2026, 11, 1), utc(2026, 12, 1))

    @pytest.mark.parametrize(
        ("fields", "field"),
        [({"zone": "Mars/Olympus"}, "zone"), ({"start": utc(2037, 1, 1)}, "start")],
    )
    def test_refuses_what_has_no_meaning(self, seller: Seller, fields: dict[str, object], field: str) -> None:
        seller.plan("pro")

        with pytest.raises(InvalidInput) as refused:
            seller.subscribe("acme", "pro", **fields)  # type: ignore[arg-type]
        assert [error.field for error in refused.value.errors] == [field]

    def test_nobody_subscribes_to_a_draft_or_an_archived_plan(self, seller: Seller) -> None:
        draft, old = seller.plan("draft", is_active=False), seller.plan("old")
        archive_plan(plan=old, actor="test", now=seller.now)

        with pytest.raises(InvalidInput):
            seller.subscribe("acme", draft.code)
        with pytest.raises(InvalidInput):
            seller.subscribe("acme", draft.code, version=1)
        with pytest.raises(PlanIsArchived):
            seller.subscribe("acme", old.code)

    def test_customer_may_have_several(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))

        both = [seller.subscribe("acme", code, start=utc(2026, 11, 1)) for code in ("one", "two")]

        assert [seller.amounts(made) for made in both] == [[100], [200]]


class TestChange:
    def test_at_the_periods_end_leaves_the_period_as_it_is(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))
        made = seller.subscribe("acme", "one", start=utc(2026, 10, 10))

        seller.change(made, "two", "period_end", at=utc(2026, 10, 20))

        assert seller.amounts(made, at=utc(2026, 11, 10) - timedelta(microseconds=1)) == [100]
        assert seller.amounts(made, at=utc(2026, 11, 10)) == [200]

    def test_now_charges_the_whole_period_under_the_new_plan(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))
        made = seller.subscribe("acme", "one", start=utc(2026, 9, 10))

        seller.change(made, "two", "now", at=utc(2026, 10, 20))

        assert seller.amounts(made, at=utc(2026, 10, 20)) == [200]
        # The period before stays what it was.
        assert seller.amounts(made, at=utc(2026, 10, 9)) == [100]

    def test_takes_the_place_of_one_still_to_come(self, seller: Seller) -> None:
        for code, amount in (("one", 100), ("two", 200), ("three", 300)):
            seller.plan(code, written("flat", amount))
        made = seller.subscribe("acme", "one", start=utc(2026, 10, 1))
        seller.change(made, "two", "period_end", at=utc(2026, 10, 5))

        seller.change(made, "three", "period_end", at=utc(2026, 10, 6))

        assert seller.amounts(made, at=utc(2026, 10, 31)) == [100]
        assert seller.amounts(made, at=utc(2026, 11, 1)) == [300]
        entries = AuditEntry.objects.for_organization(seller.organization).filter(action="subscription.plan_changed")
        assert [entry.details["to"]["plan"] for entry in entries.order_by("pk")] == ["two", "three"]

    def test_before_it_begins_changes_what_it_begins_with(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))
        made = seller.subscribe("acme", "one", start=utc(2026, 12, 1))

        seller.change(made, "two", "period_end", at=utc(2026, 11, 20))

        assert seller.amounts(made) == [200]

    def test_new_version_reaches_only_who_changes_to_it(self, seller: Seller) -> None:
        plan = seller.plan("one", written("flat", 100))
        stays, moves = (seller.subscribe(name, "one", start=utc(2026, 11, 1)) for name in ("acme", "bolt"))
        seller.version(plan, written("flat", 150))

        seller.change(moves, "one", "now", at=seller.now)

        assert (seller.amounts(stays), seller.amounts(moves)) == ([100], [150])


class TestEnd:
    def test_with_the_period(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        made = seller.subscribe("acme", "one", start=utc(2026, 11, 1))

        ended = seller.cancel(made, "period_end", at=utc(2026, 11, 20))

        assert (ended.ends_at, ended.canceled_at) == (utc(2026, 12, 1), utc(2026, 11, 20))
        assert [ended.status_at(at) for at in (utc(2026, 11, 25), utc(2026, 12, 1))] == ["canceling", "ended"]
        with pytest.raises(SubscriptionEnded):
            seller.change(ended, "one", "period_end", at=utc(2026, 11, 21))

    def test_now_cuts_the_period_and_later_usage_costs_nothing(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("one", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "one", start=utc(2026, 11, 1))
        seller.use("acme", "calls", 5, utc(2026, 11, 9, 23, 59))
        seller.use("acme", "calls", 7, utc(2026, 11, 10))

        ended = seller.cancel(made, "now", at=utc(2026, 11, 10))

        assert seller.amounts(ended) == [5]
        assert seller.spend(ended).spend.period == BillingPeriod(utc(2026, 11, 1), utc(2026, 11, 10))
        with pytest.raises(SubscriptionEnded):
            seller.cancel(ended, "now", at=utc(2026, 11, 11))

    def test_may_be_brought_nearer_but_not_put_off(self, seller: Seller) -> None:
        seller.plan("one")
        made = seller.subscribe("acme", "one", start=utc(2026, 11, 1))
        seller.cancel(made, "period_end", at=utc(2026, 11, 10))

        assert seller.cancel(made, "now", at=utc(2026, 11, 12)).ends_at == utc(2026, 11, 12)

    def test_before_the_beginning_leaves_nothing_to_charge(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        made = seller.subscribe("acme", "one", start=utc(2026, 12, 1))

        ended = seller.cancel(made, "now", at=seller.now)

        assert ended.status_at(seller.now) == "ended"
        with pytest.raises(NeverCharged):
            seller.spend(ended)
