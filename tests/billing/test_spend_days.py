"""What each day adds to a period's cost: to the minor unit, and together exactly what the period costs so far."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accounts.models import Organization
from billing.models import Subscription
from billing.queries.spend_days import get_spend_days
from metering.domain import local_midnight
from tests import factories
from tests.api.conftest import Api
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db

MICROSECOND = timedelta(microseconds=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


START, END = utc(2026, 11, 1), utc(2026, 12, 1)


def amounts_of(subscription: Subscription, at: datetime) -> dict[str, int]:
    """Return the days that are not free of charge, by month and day."""
    days = get_spend_days(subscription=subscription, now=at).days
    assert [later.day - day.day for day, later in pairwise(days)] == [timedelta(1)] * (len(days) - 1)
    return {f"{day.day:%m-%d}": day.amount_minor for day in days if day.amount_minor}


def test_days_are_those_of_the_zone_also_where_one_has_25_hours(seller: Seller) -> None:
    """Midnight in Berlin is 22:00 UTC up to the 25th of October 2026, whose clocks go back, and 23:00 after it."""
    seller.define("calls", "sum")
    seller.plan(
        "pro",
        written("flat", 4900),
        written("graduated", metric="calls", tiers=[(100, 10), (None, 1)], included_quantity=10),
    )
    seller.customer("acme", zone="Europe/Berlin")
    made = seller.subscribe("acme", "pro", start=utc(2026, 9, 30, 22))
    for value, at in (
        (7, utc(2026, 9, 30, 22)),
        (9, utc(2026, 10, 24, 22) - MICROSECOND),
        (50, utc(2026, 10, 24, 22)),
        (30, utc(2026, 10, 25, 23) - MICROSECOND),
        (40, utc(2026, 10, 25, 23)),
        (8, utc(2026, 10, 31, 23) - MICROSECOND),
        (999, utc(2026, 10, 31, 23)),
    ):
        seller.use("acme", "calls", value, at)

    # 7 and 3 are included; 6, then 80 at 10; of 40 the last 26 at 1, and so the 8.
    expected = {"10-01": 4900, "10-24": 60, "10-25": 800, "10-26": 166, "10-31": 8}
    month_end = utc(2026, 10, 31, 23) - MICROSECOND
    assert amounts_of(made, month_end) == expected
    seller.roll_up()
    found = get_spend_days(subscription=made, now=month_end)
    assert {f"{day.day:%m-%d}": day.amount_minor for day in found.days if day.amount_minor} == expected
    assert (len(found.days), found.total_minor) == (31, seller.spend(made, at=month_end).spend.total_minor)


def test_a_change_of_plan_adds_its_part_of_the_fee_on_its_day(seller: Seller) -> None:
    """Half of 30 days each: 1500 of 3000, 3000 of 6000; tiers and what is included begin again."""
    seller.define("calls", "sum")
    seller.plan("pro", written("flat", 3000), written("per_unit", 10, metric="calls", included_quantity=30))
    seller.plan("max", written("flat", 6000), written("per_unit", 1, metric="calls", minimum=100))
    made = seller.subscribe("acme", "pro", start=START)
    for value, day in ((10, 2), (10, 5), (30, 18), (70, 19)):
        seller.use("acme", "calls", value, utc(2026, 11, day, 12))
    made = seller.change(made, "max", "now", at=utc(2026, 11, 16))

    # 15 included, so 5 at 10; then at least 50, half of 100, of which 30 are reached on the 18th and 100 on the 19th.
    at = utc(2026, 11, 22)
    assert amounts_of(made, at) == {"11-01": 1500, "11-05": 50, "11-16": 3050, "11-19": 50}
    assert seller.spend(made, at=at).spend.total_minor == 1500 + 50 + 3050 + 50


def test_what_does_not_add_up_counts_by_how_far_it_has_come(seller: Seller) -> None:
    for code in ("max", "latest"):
        seller.define(code, code, event_type="level")
    seller.define("seats", "count_unique", value_property="user")
    seller.plan("pro", *(written("per_unit", price, metric=code) for code, price in (("max", 100), ("latest", 1))))
    seller.plan("team", written("per_unit", 7, metric="seats"))
    levels, seats = (seller.subscribe("acme", plan, start=START) for plan in ("pro", "team"))
    for value, day in ((5, 2), (3, 4), (9, 6), (0, 7)):
        seller.use("acme", "level", value, utc(2026, 11, day, 12))
    for day, user, operation in ((2, "ann", "add"), (4, "ann", "add"), (4, "bob", "add"), (6, "ann", "remove")):
        event = {"customer": "acme", "type": "seats", "timestamp": utc(2026, 11, day, 12).isoformat()}
        seller.send_all(event | {"operation": operation, "properties": {"user": user}})

    at = utc(2026, 11, 10)
    assert amounts_of(levels, at) == {"11-02": 505, "11-04": -2, "11-06": 406, "11-07": -9}
    assert amounts_of(seats, at) == {"11-02": 7, "11-04": 7, "11-06": -7}
    for made in (levels, seats):
        assert sum(amounts_of(made, at).values()) == seller.spend(made, at=at).spend.total_minor


def test_a_volume_price_that_falls_takes_back_what_days_before_added(seller: Seller) -> None:
    seller.define("calls", "sum")
    seller.plan("pro", written("volume", metric="calls", tiers=[(10, 100), (None, 10)]))
    made = seller.subscribe("acme", "pro", start=START)
    seller.use("acme", "calls", 10, utc(2026, 11, 2))
    seller.use("acme", "calls", 5, utc(2026, 11, 3))

    assert amounts_of(made, utc(2026, 11, 3)) == {"11-02": 1000, "11-03": -850}


class TestWhereNothingIsUsed:
    @pytest.fixture
    def plan(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 3000), written("per_unit", 1, metric="calls"))
        seller.plan("use", written("per_unit", 1, metric="calls"))
        seller.plan("tried", written("flat", 3000), written("per_unit", 1, metric="calls"), trial_days=400)

    @pytest.mark.usefixtures("plan")
    def test_days_go_up_to_today_and_cost_nothing(self, seller: Seller) -> None:
        made = seller.subscribe("acme", "use", start=START + timedelta(hours=9))
        tried = seller.subscribe("acme", "tried", start=START)
        seller.use("acme", "calls", 5, utc(2026, 11, 1, 8))

        for subscription in (made, tried):
            for at, last in ((utc(2026, 11, 2) - MICROSECOND, 1), (utc(2026, 11, 2), 2), (utc(2026, 11, 30), 30)):
                days = get_spend_days(subscription=subscription, now=at).days
                assert [(day.day, day.amount_minor) for day in days] == [
                    (date(2026, 11, number), 0) for number in range(1, last + 1)
                ]

    @pytest.mark.usefixtures("plan")
    def test_one_that_is_to_come_has_its_fee_alone(self, seller: Seller) -> None:
        fee, free = (seller.subscribe("acme", plan, start=utc(2026, 12, 1)) for plan in ("pro", "use"))

        assert amounts_of(fee, seller.now) == {"12-01": 3000}
        assert get_spend_days(subscription=free, now=seller.now).days == []

    @pytest.mark.usefixtures("plan")
    def test_a_pause_that_ends_has_the_fee_of_what_follows_on_its_first_day(self, seller: Seller) -> None:
        made = seller.subscribe("acme", "pro", start=START)
        seller.pause(made, at=utc(2026, 11, 11), until=utc(2026, 11, 25, 6))
        seller.use("acme", "calls", 5, utc(2026, 11, 12))

        # 10 of 30 days, then 5 and three quarters.
        found = get_spend_days(subscription=made, now=utc(2026, 11, 12))
        assert {day.day.day: day.amount_minor for day in found.days if day.amount_minor} == {1: 1000, 25: 575}
        assert len(found.days) == 25
        assert found.total_minor == seller.spend(made, at=utc(2026, 11, 12)).spend.total_minor


MENU = (
    written("flat", 1001),
    written("graduated", metric="calls", tiers=[(40, 7), (90, "2.5"), (None, 1)], minimum=150),
    written("volume", metric="events", tiers=[(3, 90), (None, 40)]),
    written("package", 30, metric="bytes", package_size=11, filters={"region": ["eu", "uk"]}),
    written("per_unit", "0.7", metric="bytes", included_quantity=31),
    written("per_unit", 11, metric="peak", maximum=500),
)
TYPES = ("calls", "bytes", "peak")
REGIONS = ("eu", "uk", "us")
EVENTS = st.lists(
    st.tuples(st.sampled_from(TYPES), st.integers(-5, 60), st.integers(0, 31 * 48), st.sampled_from(REGIONS)),
    min_size=15,
    max_size=30,
)
CHOICES = st.lists(st.sampled_from(range(len(MENU))), min_size=2, unique=True)


@given(
    st.sampled_from(("UTC", "Europe/Berlin", "America/St_Johns")),
    st.tuples(CHOICES, CHOICES),
    EVENTS,
    st.integers(0, 30),
    st.integers(1, 15),
    st.booleans(),
)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    # A smaller failing history would take minutes.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_days_add_up_to_the_spend_and_the_first_of_them_to_what_was_used_by_then(
    zone: str,
    plans: tuple[list[int], list[int]],
    events: list[tuple[str, int, int, str]],
    day: int,
    changed: int,
    is_rolled_up: bool,
) -> None:
    """Two customers have the same plans; one has all the usage, the other only what came before the end of a day."""
    seller = Seller(factories.make_organization(zone=zone), utc(2026, 11, 20))
    start = local_midnight(date(2026, 10, 15), ZoneInfo(zone))
    stop = local_midnight(date(2026, 10, 16) + timedelta(days=day), ZoneInfo(zone))
    sell(seller, plans)
    both = []
    for customer, until in (("all", END), ("some", stop)):
        made = seller.subscribe(customer, "first", start=start + timedelta(hours=9, minutes=7), anchor_day=15)
        for type, value, half_hours, region in events:
            at = start + timedelta(minutes=half_hours * 30)
            if at < until:
                seller.use(customer, type, value, at, region=region)
        both.append(seller.change(made, "second", "now", at=start + timedelta(days=changed, hours=13, seconds=1)))
    if is_rolled_up:
        seller.roll_up()
    now = local_midnight(date(2026, 11, 15), ZoneInfo(zone)) - MICROSECOND

    found = get_spend_days(subscription=both[0], now=now)
    partial = seller.spend(both[1], at=now).spend.lines

    assert found.total_minor == seller.spend(both[0], at=now).spend.total_minor
    due = [line.rated.amount_minor for line in partial if line.segment.start < stop]
    assert sum(each.amount_minor for each in found.days[: day + 1]) == sum(due)


def sell(seller: Seller, plans: tuple[list[int], list[int]]) -> None:
    seller.define("calls", "sum")
    seller.define("events", "count", event_type="calls")
    seller.define("bytes", "sum", dimensions=["region"])
    seller.define("peak", "max")
    for code, chosen in zip(("first", "second"), plans, strict=True):
        seller.plan(code, *(MENU[place] for place in chosen))


def test_reads_do_not_grow_with_the_days(seller: Seller) -> None:
    seller.define("compute", "sum", dimensions=["region"])
    seller.plan("pro", *(written("per_unit", 1, metric="compute", filters={"region": [f"r{n}"]}) for n in range(9)))
    made = seller.subscribe("acme", "pro", start=START)
    seller.use("acme", "compute", Decimal("1.5"), utc(2026, 11, 10), region="r1")
    seller.spend(made)

    def count(ask: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as seen:
            ask()
        return len(seen)

    spend = count(lambda: seller.spend(made, at=END - MICROSECOND))
    assert count(lambda: get_spend_days(subscription=made, now=END - MICROSECOND)) == spend


def test_the_api_tells_each_day_and_the_sum(live_seller: Seller, api: Api, org: Organization) -> None:
    live_seller.define("calls", "sum")
    live_seller.plan("pro", written("flat", 4900), written("per_unit", 2, metric="calls"))
    made = live_seller.subscribe("acme", "pro", start=live_seller.now - timedelta(days=2))
    live_seller.use("acme", "calls", 15, live_seller.now - timedelta(days=1))

    found = api.get(f"/v1/subscriptions/{made.pk}/spend/days")

    whole = api.get(f"/v1/subscriptions/{made.pk}/spend")
    assert (found["subscription"], found["currency"], found["currency_exponent"], found["zone"]) == (
        str(made.pk),
        "USD",
        2,
        "UTC",
    )
    assert found["period"] == whole["period"]
    assert found["total_minor"] == whole["total_minor"] == "4930"
    first = (live_seller.now - timedelta(days=2)).date()
    assert found["days"][:2] == [
        {"date": first.isoformat(), "amount_minor": "4900"},
        {"date": (first + timedelta(days=1)).isoformat(), "amount_minor": "30"},
    ]
