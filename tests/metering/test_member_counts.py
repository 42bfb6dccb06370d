"""Distinct counts remembered by the month are those that counting anew gives, whatever happens to the events."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.redis import ONCE_MORE
from metering import queries
from metering.domain import Granularity, Mode
from metering.queries import member_counts
from tests.metering.meter import Meter, utc

BEGIN, END = utc(2026, 1, 1), utc(2026, 6, 1)
NOW = utc(2026, 6, 10)
QUESTIONS: Sequence[dict[str, Any]] = [
    {"mode": mode, "group_by": group_by, "filters": filters, "start": start, "end": end}
    for mode in Mode
    for group_by, filters in (((), {}), (("plan",), {}), (("customer", "region"), {"plan": ["free", None]}))
    for start, end in ((BEGIN, END), (utc(2026, 2, 1), utc(2026, 4, 9, 12)), (utc(2026, 1, 15), utc(2026, 5, 1)))
]


@pytest.fixture
def users(meter: Meter) -> Meter:
    meter.define("users", "count_unique", dimensions=["plan", "region"])
    return meter


def event(key: str, at: datetime, member: str, *, operation: str = "add", **properties: str) -> dict[str, Any]:
    customer = f"customer-{hash_of(member) % 3}"
    return {
        "idempotency_key": key,
        "customer": customer,
        "type": "users",
        "value": member,
        "timestamp": at.isoformat(),
        "operation": operation,
        "properties": properties,
    }


def hash_of(text: str) -> int:
    return sum(text.encode())


def random_event(chance: random.Random, key: str) -> dict[str, Any]:
    properties = {"region": chance.choice(["eu", "us"])}
    if chance.random() < 0.8:
        properties["plan"] = chance.choice(["free", "paid"])
    at = BEGIN + chance.random() * (END - BEGIN)
    return event(key, at, f"member-{chance.randrange(60)}", **properties)


def ask(meter: Meter, question: dict[str, Any], *, as_of: datetime | None = None) -> dict[tuple[str | None, ...], Any]:
    """Return the points of each group. With `as_of` the raw events alone are counted, and nothing is remembered."""
    series = queries.get_series(
        organization=meter.organization,
        metric=meter.metrics["users"],
        granularity=Granularity.DAY,
        zone="UTC",
        now=NOW,
        as_of=as_of,
        **question,
    )
    return {tuple(line.group.values()): [(p.start, p.value) for p in line.points] for line in series.lines}


def sets_read(meter: Meter, question: dict[str, Any]) -> int:
    """Return how many statements of one read looked into the sets."""
    with CaptureQueriesContext(
        connection,
    ) as captured:
        ask(meter, question)
    return sum("FROM metering_member_set" in statement["sql"] for statement in captured)


@pytest.mark.django_db
class TestMemory:
    @pytest.mark.parametrize("seed", range(2))
    def test_every_answer_equals_a_count_over_raw_events_after_every_step(self, users: Meter, seed: int) -> None:
        chance = random.Random(seed)
        keys: list[str] = []
        for step in range(8):
            at = NOW + timedelta(minutes=step)
            match chance.choice(["send", "send", "void", "remove", "late"]) if step else "send":
                case "void":
                    users.void(keys.pop(chance.randrange(len(keys))), at=at)
                case "remove":
                    sent = random_event(chance, f"{step}-removal")
                    users.send_all(sent | {"operation": "remove"}, at=at)
                case act:
                    count = 120 if act == "send" else 1
                    keys += [f"{step}-{number}" for number in range(count)]
                    users.send_all(*(random_event(chance, key) for key in keys[-count:]), at=at)
            if chance.random() < 0.7:
                users.roll_up(at=at)
            for question in QUESTIONS:
                truth = ask(users, question, as_of=at)
                assert ask(users, question) == truth
                assert ask(users, question) == truth

    def test_second_read_of_whole_months_looks_into_no_set(self, users: Meter) -> None:
        users.send_all(*(random_event(random.Random(n), str(n)) for n in range(200)))
        users.roll_up()
        question = QUESTIONS[0] | {"mode": Mode.MONTH_TO_DATE}

        assert [sets_read(users, question) for _ in range(2)] == [1, 0]

    def test_late_event_has_only_its_own_month_counted_anew(self, users: Meter) -> None:
        users.send_all(*(random_event(random.Random(n), str(n)) for n in range(200)))
        users.roll_up()
        april = {"mode": Mode.ROLLING_30D, "start": utc(2026, 4, 1), "end": utc(2026, 5, 1)}
        june_free = {"mode": Mode.ROLLING_30D, "start": utc(2026, 2, 1), "end": utc(2026, 3, 1)}
        for question in (april, june_free):
            ask(users, question)

        users.send_all(event("late", utc(2026, 3, 31, 23, 59), "nobody before", plan="free"))
        pending = [sets_read(users, april), sets_read(users, april), sets_read(users, june_free)]
        users.roll_up()

        assert pending == [1, 1, 0]  # while it is pending nothing of its months is remembered
        assert [sets_read(users, april), sets_read(users, april), sets_read(users, june_free)] == [1, 0, 0]

    def test_group_that_lost_its_only_member_keeps_its_line(self, users: Meter) -> None:
        users.send_all(
            event("1", utc(2026, 2, 3), "ann", plan="free"),
            event("2", utc(2026, 2, 3, 1), "ann", plan="free", operation="remove"),
            event("3", utc(2026, 2, 4), "bea", plan="paid"),
        )
        users.roll_up()
        question = {"mode": Mode.MONTH_TO_DATE, "group_by": ["plan"], "start": utc(2026, 2, 1), "end": utc(2026, 3, 1)}

        assert [set(ask(users, question)) for _ in range(2)] == [{("free",), ("paid",)}] * 2

    def test_removal_that_was_taken_back_at_once_counts_every_customers_members(self, users: Meter) -> None:
        moment = utc(2026, 2, 3)
        users.send_all(
            event("1", moment, "ann", plan="free"),
            event("2", moment + timedelta(hours=1), "ann", plan="free", operation="remove"),
            event("3", moment + timedelta(hours=2), "ann", plan="free"),
            event("4", moment, "bob", plan="free"),
        )
        question = {"mode": Mode.MONTH_TO_DATE, "group_by": ["plan"], "start": utc(2026, 2, 1), "end": utc(2026, 3, 1)}

        for act in (lambda: None, users.roll_up):
            act()
            [line] = ask(users, question).values()
            assert [int(value) for _, value in line] == [0, 0] + [2] * 26

    def test_without_redis_everything_is_counted(self, users: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
        users.send_all(*(random_event(random.Random(n), str(n)) for n in range(50)))
        users.roll_up()
        nowhere = redis.Redis(host="127.0.0.1", port=1, retry=ONCE_MORE)
        monkeypatch.setattr(member_counts, "redis_client", lambda: nowhere)

        for question in QUESTIONS:
            assert ask(users, question) == ask(users, question, as_of=users.now)

    def test_month_with_very_many_groups_is_not_remembered(self, users: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(member_counts, "MAX_KEPT_NUMBERS", 61)
        users.send_all(*(random_event(random.Random(n), str(n)) for n in range(200)))
        users.roll_up()
        by_two = {"mode": Mode.INCREMENTAL, "group_by": ["region"], "start": utc(2026, 3, 1), "end": utc(2026, 4, 1)}

        assert [sets_read(users, by_two) for _ in range(2)] == [1, 1]  # twice 31 numbers
        one = by_two | {"group_by": []}
        assert [sets_read(users, one) for _ in range(2)] == [1, 0]
