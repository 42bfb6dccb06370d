"""What a period costs so far: exact over the period's edges, shared between prices, projected to the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.queries import find_included_quantity
from tests.alerts.watch import Watch
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db

MICROSECOND = timedelta(microseconds=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


START, END = utc(2026, 11, 1), utc(2026, 12, 1)


def test_only_the_periods_own_usage_counts_to_the_microsecond(seller: Seller) -> None:
    seller.define("calls", "sum")
    seller.plan("pro", written("per_unit", 1, metric="calls"))
    made = seller.subscribe("acme", "pro", start=START)
    for value, at in ((1, START - MICROSECOND), (10, START), (100, END - MICROSECOND), (1000, END)):
        seller.send_all({"customer": "acme", "type": "calls", "value": value, "timestamp": at.isoformat()}, at=END)
    seller.use("bolt", "calls", 10_000, utc(2026, 11, 10))

    assert seller.amounts(made, at=END - MICROSECOND) == [110]
    seller.roll_up(at=END)
    assert seller.amounts(made, at=END - MICROSECOND) == [110]


def test_compute_is_priced_by_region_and_the_rest_apart(seller: Seller) -> None:
    seller.define("compute", "sum", dimensions=["region"])
    seller.plan(
        "pro",
        written("flat", 4900, name="Base fee"),
        written("per_unit", "0.5", metric="compute", filters={"region": ["us"]}, included_quantity=100),
        written("graduated", metric="compute", filters={"region": ["eu", "uk"]}, tiers=[(10, 10), (None, 1)]),
        written("per_unit", 3, metric="compute"),
    )
    made = seller.subscribe("acme", "pro", start=START)
    at = utc(2026, 11, 10)
    for region, value in (("us", "301.5"), ("eu", 8), ("uk", 7), ("ap", 2)):
        seller.use("acme", "compute", Decimal(value), at, region=region)
    seller.use("acme", "compute", 1, at)

    found = seller.spend(made).spend

    assert [line.rated.quantity for line in found.lines] == [1, Decimal("301.5"), 15, 3]
    # 201.5 at 0.5 are 100.75; 10 at 10 and 5 at 1; 3 at 3.
    assert [line.rated.amount_minor for line in found.lines] == [4900, 101, 105, 9]
    assert found.total_minor == 5115
    assert found.unpriced == []


def test_usage_that_no_price_charges_is_told(seller: Seller) -> None:
    metric = seller.define("compute", "sum", dimensions=["region"])
    seller.plan("pro", written("per_unit", 1, metric="compute", filters={"region": ["us"]}))
    made = seller.subscribe("acme", "pro", start=START)
    seller.use("acme", "compute", 5, utc(2026, 11, 10), region="us")
    seller.use("acme", "compute", 7, utc(2026, 11, 10), region="eu")

    found = seller.spend(made).spend

    assert [line.rated.quantity for line in found.lines] == [5]
    assert [(rest.metric, rest.quantity) for rest in found.unpriced] == [(metric, 7)]


def test_distinct_members_of_parts_are_counted_apart(seller: Seller) -> None:
    seller.define("seats", "count_unique", value_property="user", dimensions=["team"])
    seller.plan(
        "pro",
        *(written("per_unit", 100, metric="seats", filters={"team": teams}) for teams in (["a", "b"], ["c"])),
    )
    made = seller.subscribe("acme", "pro", start=START)
    for user, team in (("ann", "a"), ("ann", "b"), ("bob", "b"), ("ann", "c")):
        seller.send_all(
            {
                "customer": "acme",
                "type": "seats",
                "timestamp": utc(2026, 11, 10).isoformat(),
                "properties": {"user": user, "team": team},
            }
        )

    assert seller.amounts(made) == [200, 100]


def test_trial_costs_nothing_and_shows_what_it_would(seller: Seller) -> None:
    seller.define("calls", "sum")
    seller.plan("pro", written("flat", 100), written("per_unit", 2, metric="calls"), trial_days=14)
    made = seller.subscribe("acme", "pro", start=START)
    seller.use("acme", "calls", 5, utc(2026, 11, 14, 23))
    seller.use("acme", "calls", 7, utc(2026, 11, 15))

    trial, charged = (seller.spend(made, at=at).spend for at in (utc(2026, 11, 14), utc(2026, 11, 16)))

    assert (trial.total_minor, trial.period.is_trial) == (0, True)
    assert [line.rated.model_amount for line in trial.lines] == [100, 10]
    assert ([line.rated.amount_minor for line in charged.lines], charged.period.is_trial) == ([100, 14], False)
    assert (charged.period.start, charged.period.end) == (utc(2026, 11, 15), utc(2026, 12, 15))


class TestProjection:
    @pytest.fixture
    def made(self, seller: Seller) -> Any:
        seller.define("calls", "sum")
        seller.define("events", "count")
        seller.define("peak", "max")
        seller.plan(
            "pro",
            written("flat", 4900),
            written("per_unit", 1, metric="calls", included_quantity=10),
            written("per_unit", 1, metric="peak"),
            written("per_unit", 1, metric="events"),
        )
        made = seller.subscribe("acme", "pro", start=START)
        seller.use("acme", "calls", 20, utc(2026, 11, 2))
        seller.use("acme", "peak", 7, utc(2026, 11, 2))
        seller.use("acme", "events", 1, utc(2026, 11, 2))
        return made

    def test_follows_the_pace_of_what_adds_up_and_keeps_the_rest(self, seller: Seller, made: Any) -> None:
        """After 12 of 30 days: 20 calls make 50, one event 2.5, cut to 2."""
        found = seller.spend(made, at=utc(2026, 11, 13)).spend

        projected = [line.projected for line in found.lines]
        assert [(line.quantity, line.amount_minor) for line in projected if line] == [
            (1, 4900), (50, 40), (7, 7), (2, 2)
        ]  # fmt: skip
        assert (found.total_minor, found.projected_total_minor) == (4918, 4949)

    def test_is_not_told_in_the_first_twentieth(self, seller: Seller, made: Any) -> None:
        found = seller.spend(made, at=utc(2026, 11, 2)).spend

        assert [line.projected is None for line in found.lines] == [False, True, False, True]
        assert found.projected_total_minor is None

    def test_of_an_ended_period_is_what_was_used(self, seller: Seller, made: Any) -> None:
        ended = seller.cancel(made, "now", at=utc(2026, 11, 19))

        found = seller.spend(ended).spend

        # 18 of 30 days: 2940 of the fee, 6 of 10 calls included.
        assert [line.rated.amount_minor for line in found.lines] == [2940, 14, 7, 1]
        assert found.projected_total_minor == found.total_minor == 2962


def test_currencies_round_to_their_own_minor_unit(seller: Seller) -> None:
    seller.define("volume", "sum")
    for currency in ("JPY", "USD", "KWD"):
        seller.plan(currency.lower(), written("percent_of_amount", "2.9", metric="volume"), currency=currency)
    made = [seller.subscribe("acme", code, start=START) for code in ("jpy", "usd", "kwd")]
    seller.use("acme", "volume", Decimal("1000.55"), utc(2026, 11, 10))

    # 29.01595 of the major unit, each.
    assert [seller.amounts(one) for one in made] == [[29], [2902], [29016]]


def test_reads_grow_with_the_metrics_and_not_with_the_prices_or_the_usage(seller: Seller) -> None:
    seller.define("compute", "sum", dimensions=["region"])
    for code, regions in (("few", 1), ("many", 9)):
        seller.plan(
            code,
            *(written("per_unit", 1, metric="compute", filters={"region": [f"r{n}"]}) for n in range(regions)),
        )
    few, many = (seller.subscribe("acme", code, start=START) for code in ("few", "many"))

    def count(made: Any) -> int:
        seller.spend(made)
        with CaptureQueriesContext(connection) as seen:
            seller.spend(made)
        return len(seen)

    before = count(few)
    for n in range(9):
        seller.use("acme", "compute", 1, utc(2026, 11, 10), region=f"r{n}")
    assert count(many) == before


def test_alerts_know_what_plans_include(seller: Seller) -> None:
    metric = seller.define("calls", "sum")
    other = seller.define("other", "sum")
    seller.plan("pro", written("per_unit", 1, metric="calls", included_quantity=1000))
    made = seller.subscribe("acme", "pro", start=START)
    seller.subscribe("acme", "pro", start=START, idempotency_key="another")

    ask: Callable[..., Any] = find_included_quantity
    assert ask(metric=metric, customer=made.customer, at=seller.now) == 2000
    assert ask(metric=metric, customer=made.customer, at=START - MICROSECOND) is None
    assert ask(metric=other, customer=made.customer, at=seller.now) is None


def test_alerts_know_what_the_default_plan_includes(seller: Seller) -> None:
    metric = seller.define("calls", "sum")
    seller.plan("free", written("per_unit", 1, metric="calls", included_quantity=50), is_default=True)
    seller.plan("pro", written("per_unit", 1, metric="calls", included_quantity=1000))
    made = seller.subscribe("acme", "pro", start=START)

    ask: Callable[..., Any] = find_included_quantity
    assert ask(metric=metric, customer=seller.customer("bolt"), at=seller.now) == 50
    assert ask(metric=metric, customer=made.customer, at=START - MICROSECOND) == 50
    assert ask(metric=metric, customer=made.customer, at=START) == 1000


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("subscribes", [True, False])
def test_percent_alerts_fire_on_what_a_plan_includes(seller: Seller, subscribes: bool) -> None:
    seller.define("calls", "sum")
    price = written("per_unit", 1, metric="calls", included_quantity=100)
    seller.plan("pro", price, is_default=not subscribes)
    if subscribes:
        seller.subscribe("acme", "pro", start=START)
    seller.use("acme", "calls", 80, seller.now)
    watch = Watch(seller.organization, seller.now)
    watch.metrics = seller.metrics
    watch.threshold("calls", "most", 80, kind="percent_of_included")

    watch.evaluate()

    assert watch.told() == [("acme", "most", 80, 80)]
