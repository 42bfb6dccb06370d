"""Subscriptions: what they begin with, changes of the plan at the edges of periods, and their end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from accounts.models import AuditEntry
from billing.domain.periods import BillingPeriod
from billing.models import Subscription, SubscriptionPause
from billing.queries.subscriptions import NeverCharged
from billing.services.plans import PlanIsArchived, archive_plan
from billing.services.subscriptions import (
    AlreadyPaused,
    CurrencyChanges,
    NotPaused,
    SubscriptionEnded,
    When,
    pause_subscription,
    resume_subscription,
)
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

    def test_now_charges_both_plans_in_proportion(self, seller: Seller) -> None:
        """Ten of 31 days under the first: 32.26 of 100, and of 200 what is left after 64.52."""
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))
        made = seller.subscribe("acme", "one", start=utc(2026, 9, 10))

        seller.change(made, "two", "now", at=utc(2026, 10, 20))

        assert seller.amounts(made, at=utc(2026, 10, 20)) == [32, 135]
        assert seller.amounts(made, at=utc(2026, 10, 9)) == [100]
        assert seller.amounts(made, at=utc(2026, 11, 10)) == [200]

    def test_without_proration_now_charges_the_whole_period_under_the_new_plan(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("two", written("flat", 200))
        made = seller.subscribe("acme", "one", start=utc(2026, 9, 10), is_prorated=False)

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

        # Noon of the 20th: 19.5 of 30 days.
        assert (seller.amounts(stays), seller.amounts(moves)) == ([100], [65, 52])

    def test_one_period_is_not_charged_in_two_currencies(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 100))
        seller.plan("yen", written("flat", 100), currency="JPY")
        made = seller.subscribe("acme", "one", start=utc(2026, 11, 1))

        with pytest.raises(CurrencyChanges):
            seller.change(made, "yen", "now", at=seller.now)
        seller.change(made, "yen", "period_end", at=seller.now)

        assert seller.spend(made, at=utc(2026, 12, 1)).spend.currency == "JPY"


class TestPause:
    def test_charges_neither_fees_nor_usage_of_the_pause(self, seller: Seller) -> None:
        """Ten of 30 days are paused: from the 6th to the 16th."""
        seller.define("calls", "sum")
        seller.plan("one", written("flat", 3000), written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "one", start=utc(2026, 11, 1))
        pause = partial(pause_subscription, subscription=made, when=When.NOW, resumes_at=None, actor="test")
        pause(now=utc(2026, 11, 6))
        with pytest.raises(AlreadyPaused):
            pause(now=utc(2026, 11, 7))
        resume_subscription(subscription=made, actor="test", now=utc(2026, 11, 16))
        with pytest.raises(NotPaused):
            resume_subscription(subscription=made, actor="test", now=utc(2026, 11, 17))
        for value, at in (
            (1, utc(2026, 11, 6) - timedelta(microseconds=1)),
            (10, utc(2026, 11, 6)),
            (100, utc(2026, 11, 16) - timedelta(microseconds=1)),
            (1000, utc(2026, 11, 16)),
        ):
            seller.use("acme", "calls", value, at)

        assert seller.amounts(made, at=utc(2026, 11, 20)) == [500, 1, 1500, 1000]

    def test_over_whole_periods_leaves_nothing_to_charge(self, seller: Seller) -> None:
        seller.plan("one", written("flat", 3000))
        made = seller.subscribe("acme", "one", start=utc(2026, 9, 1))
        pause_subscription(
            subscription=made,
            when=When.PERIOD_END,
            resumes_at=utc(2026, 11, 1),
            actor="test",
            now=utc(2026, 9, 10),
        )

        assert [seller.amounts(made, at=utc(2026, month, 2)) for month in (9, 10, 11)] == [[3000], [], [3000]]

    def test_is_its_status_unless_it_has_not_begun_or_has_ended(self) -> None:
        """Be it in a trial, or going to end; half-open, as every span."""
        made = Subscription(starts_at=utc(2026, 11, 1), trial_ends_at=utc(2026, 11, 4), ends_at=utc(2026, 12, 1))
        paused = SubscriptionPause(starts_at=utc(2026, 11, 2), ends_at=utc(2026, 11, 10))
        lasting, tick = SubscriptionPause(starts_at=utc(2026, 10, 1)), timedelta(microseconds=1)

        moments = [utc(2026, 11, 2) - tick, utc(2026, 11, 2), utc(2026, 11, 10) - tick, utc(2026, 11, 10)]
        assert [made.status_at(at, paused) for at in moments] == ["canceling", "paused", "paused", "canceling"]
        moments = [utc(2026, 11, 1) - tick, utc(2026, 11, 1), utc(2026, 12, 1)]
        assert [made.status_at(at, lasting) for at in moments] == ["scheduled", "paused", "ended"]
        assert made.status_at(utc(2026, 11, 2)) == "canceling"


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
