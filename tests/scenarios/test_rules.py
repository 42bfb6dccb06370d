"""The eight rules that everything rests on, one test each, in the order of the design.

Each shows its rule in the small; the larger proofs have files of their own (random histories, races, kills).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import OperationalError, connection, models
from django.test import Client

from accounts.models import AuditEntry, Organization
from config.env import BASE_DIR
from metering.models import BatchState, Event, EventVoid, IngestBatch
from metering.queries import current_period
from metering.services.retention import prune_organization
from tests import factories
from tests.metering.meter import Meter, utc

NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    return Meter(org, now)


def event(key: str, value: Any = None, at: datetime | None = None, **fields: Any) -> dict[str, Any]:
    moment = None if at is None else at.isoformat()
    sent = {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": moment, **fields}
    return {name: content for name, content in sent.items() if content is not None}


@pytest.mark.django_db
def test_rule_1_identity_is_organization_and_key_for_as_long_as_the_event_is_kept(
    meter: Meter, other_org: Organization
) -> None:
    meter.define("m", "sum")
    other = Meter(other_org, meter.now)
    other.define("m", "sum")
    long_ago = meter.now - timedelta(days=100)
    meter.send_all(event("k", "1", long_ago))

    # Whatever its timestamp, the key is taken: same content repeats, other content conflicts.
    assert meter.send(event("k", "1", long_ago)).duplicates == 1
    assert [error.code for error in meter.send(event("k", "1", meter.now)).errors] == ["conflict"]
    # Another organization's keys are its own.
    assert other.send(event("k", "1", long_ago)).stored == 1
    # Every event of a request has a verdict.
    mixed = meter.send(event("k", "1", long_ago), event("k", "2"), event("new", "3"), event("bad", "three"))
    assert (mixed.stored, mixed.duplicates) == (1, 1)
    assert [(error.index, error.code) for error in mixed.errors] == [(1, "conflict"), (3, "invalid_value")]

    # Once the raw event is gone, so is the claim on its key.
    meter.roll_up()
    meter.organization.raw_retention_days = 30
    later = meter.now + timedelta(days=31)
    for _ in range(2):
        prune_organization(organization=meter.organization, now=later)
    assert meter.send(event("k", "5", later), at=later).stored == 1


@pytest.mark.django_db
def test_rule_2_every_range_and_every_subset_of_filters_equals_the_count_of_raw_events(meter: Meter) -> None:
    """All of 21 ranges between odd instants, 9 subsets of filters, 4 states of the rollups, by hand-made loops."""
    meter.define("m", "sum", dimensions=["region", "tier"])
    instants = [utc(2026, 11, 18), utc(2026, 11, 19, 23, 59, 59, 999_999), utc(2026, 11, 20), utc(2026, 11, 20, 10, 30)]
    edges = [*instants, utc(2026, 11, 19, 23, 59), utc(2026, 11, 20, 10, 30) + MICROSECOND, utc(2026, 11, 20, 11)]
    sent = [
        (at, region, tier, 3**place)
        for place, (at, region, tier) in enumerate(product(instants, ["us", "eu"], ["free", "pro"]))
    ]
    half = len(sent) // 2

    def send(part: slice) -> None:
        for at, region, tier, value in sent[part]:
            meter.send_all(event(str(value), value, at, properties={"region": region, "tier": tier}))

    def check(known: slice) -> None:
        for start, end in combinations(sorted(edges), 2):
            for regions, tiers in product(([], ["us"], ["us", "eu"]), ([], ["free"], ["pro"])):
                filters = {key: names for key, names in (("region", regions), ("tier", tiers)) if names}
                expected = sum(
                    value
                    for at, region, tier, value in sent[known]
                    if start <= at < end and region in (regions or [region]) and tier in (tiers or [tier])
                )
                assert meter.value("m", start, end, filters=filters) == expected

    send(slice(0, half))
    check(slice(0, half))
    meter.roll_up()
    check(slice(0, half))
    send(slice(half, None))
    check(slice(None))
    meter.roll_up()
    check(slice(None))


@pytest.mark.django_db(transaction=True)
def test_rule_3_a_worker_that_dies_counts_nothing_twice_and_loses_nothing(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends the worker's connection at the worst moment: all is counted, nothing is marked yet."""
    meter.define("m", "sum")
    meter.send_all(event("1", "1"), event("2", "10"))

    def die_instead(**_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr("metering.sql.roll_up.mark_rolled", die_instead)
        with pytest.raises(OperationalError):
            meter.roll_up()
    connection.close()

    states = IngestBatch.objects.for_organization(meter.organization).values_list("state", flat=True)
    assert list(states) == [BatchState.PENDING]
    assert meter.value("m", *NOVEMBER) == 11
    assert meter.roll_up().events == 2
    assert meter.roll_up().events == 0
    assert meter.value("m", *NOVEMBER) == 11
    assert meter.send(event("1", "1")).duplicates == 1


@pytest.mark.django_db
def test_rule_4_events_are_never_edited_and_what_was_known_can_be_asked(meter: Meter) -> None:
    meter.define("m", "sum")
    hour = timedelta(hours=1)
    first, second, third = meter.now, meter.now + hour, meter.now + 2 * hour
    meter.send_all(event("1", "1", first), event("2", "10", first), at=first)
    meter.roll_up(at=first)
    before = list(Event.objects.for_organization(meter.organization).order_by("offset").values())

    meter.void("1", at=second)
    meter.replace("2", event("2b", "20", first), at=third)

    after = list(Event.objects.for_organization(meter.organization).order_by("offset").values())
    assert after[:2] == before
    voids = EventVoid.objects.for_organization(meter.organization).order_by("idempotency_key")
    assert list(voids.values_list("idempotency_key", "reason", "actor", "replacement_key", "voided_at")) == [
        ("1", "sent by mistake", "test", "", second),
        ("2", "sent with a wrong value", "test", "2b", third),
    ]
    audited = AuditEntry.objects.for_organization(meter.organization).filter(action="event.voided")
    assert sorted(audited.values_list("target", flat=True)) == ["1", "2"]

    assert meter.value("m", *NOVEMBER) == 20
    for as_of, expected in [
        (first - MICROSECOND, 0),
        (first, 11),
        (second - MICROSECOND, 11),
        (second, 10),
        (third - MICROSECOND, 10),
        (third, 20),
    ]:
        assert meter.value("m", *NOVEMBER, as_of=as_of) == expected


# Who may name a table of totals: those who keep them and THE usage query's own statements.
KEEPERS = (
    "metering/sql/",
    "metering/migrations/",
    "metering/models.py",
    "metering/services/rebuild.py",
    "metering/services/retention.py",
)
TOTALS = re.compile(r"metering_rollup|metering_member_set|\bRollup(Minute|Hour|Day)\b|\bMemberSet\b")


def _application_files() -> Iterator[Path]:
    for app in ("common", "accounts", "config", "metering", "usage_reports", "alerts", "billing"):
        yield from (BASE_DIR / app).rglob("*.py")


@pytest.mark.django_db
def test_rule_5_every_number_has_one_home(meter: Meter, api_client: Client) -> None:
    strangers = [
        str(path.relative_to(BASE_DIR))
        for path in _application_files()
        if TOTALS.search(path.read_text()) and not str(path.relative_to(BASE_DIR)).startswith(KEEPERS)
    ]
    assert strangers == []

    # And so all reads agree, with half of the events rolled up and half in the tail.
    meter.define("m", "sum", dimensions=["region"])
    for place in range(8):
        region = "us" if place % 3 else "eu"
        meter.send_all(event(str(place), 2**place, utc(2026, 11, 1 + place), properties={"region": region}))
        if place == 4:
            meter.roll_up()
    window = "metric=m&customer=ann&from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z"

    def ask(path: str) -> dict[str, Any]:
        answer: dict[str, Any] = api_client.get(path).json()
        return answer

    numbers = {
        "range": Decimal(ask(f"/v1/usage?{window}")["value"]),
        "month": Decimal(ask("/v1/usage?metric=m&customer=ann&period=2026-11")["value"]),
        "breakdown": sum(Decimal(row["value"]) for row in ask(f"/v1/usage/breakdown?{window}&group_by=region")["rows"]),
        "series": sum(
            Decimal(value) for _, value in ask(f"/v1/usage/series?{window}&granularity=day")["series"][0]["points"]
        ),
        "month to date": Decimal(
            ask(f"/v1/usage/series?{window}&granularity=day&mode=month_to_date")["series"][0]["points"][-1][1]
        ),
    }
    assert set(numbers.values()) == {Decimal(255)}, numbers


@pytest.mark.django_db
def test_rule_6_a_foreign_id_answers_like_an_absent_one(
    meter: Meter, api_client: Client, outsider_client: Client, other_org: Organization
) -> None:
    meter.define("m", "sum")
    meter.send_all(event("k", "1"))
    Meter(other_org, meter.now).define("theirs", "sum")

    for method, foreign, absent, body in [
        ("get", "/v1/metrics/m", "/v1/metrics/none", None),
        ("patch", "/v1/metrics/m", "/v1/metrics/none", {"name": "x"}),
        ("delete", "/v1/metrics/m", "/v1/metrics/none", None),
        ("get", "/v1/events/k", "/v1/events/none", None),
        ("post", "/v1/events/k/void", "/v1/events/none/void", {"reason": "x"}),
        ("post", "/v1/events/k/replace", "/v1/events/none/replace", {**event("k2", "1", type="theirs"), "reason": "x"}),
        ("get", "/v1/usage?metric=m", "/v1/usage?metric=none", None),
        ("get", "/v1/usage?metric=theirs&customer=ann", "/v1/usage?metric=theirs&customer=none", None),
        ("get", "/v1/usage/realtime?metric=m", "/v1/usage/realtime?metric=none", None),
        ("get", "/v1/usage/breakdown?metric=m&group_by=customer", "/v1/usage/breakdown?metric=none&group_by=x", None),
        ("get", "/v1/usage/series?metric=m", "/v1/usage/series?metric=none", None),
        ("get", "/v1/events?metric=m", "/v1/events?metric=none", None),
        ("get", "/v1/events?customer=ann", "/v1/events?customer=none", None),
    ]:
        answers = [
            getattr(outsider_client, method)(
                path, **({"data": body, "content_type": "application/json"} if body else {})
            )
            for path in (foreign, absent)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], foreign
        assert answers[0].content == answers[1].content, foreign
    assert outsider_client.get("/v1/events").json()["data"] == []
    assert [metric["code"] for metric in outsider_client.get("/v1/metrics").json()["data"]] == ["theirs"]
    # Nothing of it touched what is ours.
    assert meter.value("m", *NOVEMBER) == 1
    assert api_client.get("/v1/metrics/m").json()["name"] == ""


@pytest.mark.django_db
def test_rule_7_quantities_are_decimals_from_end_to_end(meter: Meter, api_client: Client) -> None:
    floats = [
        f"{model.__name__}.{column.name}"
        for model in apps.get_models()
        if model.__module__.split(".")[0] in {"common", "accounts", "metering"}
        for column in model._meta.get_fields()
        if isinstance(column, models.FloatField)
    ]
    assert floats == []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name || '.' || column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name LIKE 'metering_%' "
            "AND data_type IN ('real', 'double precision', 'money')"
        )
        assert cursor.fetchall() == []

    digits = "123456789012345678901234567890.123456789012345678"
    meter.define("m", "sum")
    body = '[{"customer":"ann","type":"m","value":%s},{"customer":"ann","type":"m","value":"-0.000000000000000001"}]'
    assert api_client.post("/v1/events", body % digits, content_type="application/json").status_code == 200

    for roll_up in (False, True):
        if roll_up:
            meter.roll_up()
        answer = api_client.get("/v1/usage/realtime?metric=m&customer=ann").json()
        assert answer["value"] == "123456789012345678901234567890.123456789012345677"
        assert answer["max"] == digits


@pytest.mark.django_db
def test_rule_8_time_is_utc_and_half_open_and_periods_follow_the_customers_zone(meter: Meter) -> None:
    meter.define("m", "sum")
    organization = meter.organization
    organization.zone = "America/New_York"
    berlin = factories.make_customer(organization=organization, external_id="berlin", zone="Europe/Berlin")
    kolkata = factories.make_customer(
        organization=organization, external_id="kolkata", zone="Asia/Kolkata", billing_cycle_day=28
    )
    plain = factories.make_customer(organization=organization, external_id="ann")

    def period(customer: Any, *moment: int) -> tuple[datetime, datetime]:
        metric = meter.metrics["m"]
        return tuple(current_period(metric=metric, organization=organization, customer=customer, at=utc(*moment)))

    # The customer's zone goes before the organization's; the edges are where its clocks show midnight.
    assert period(berlin, 2026, 3, 29) == (utc(2026, 2, 28, 23), utc(2026, 3, 31, 22))
    assert period(plain, 2026, 11, 1) == (utc(2026, 10, 1, 4), utc(2026, 11, 1, 4))
    assert period(None, 2026, 11, 1) == (utc(2026, 10, 1, 4), utc(2026, 11, 1, 4))
    # A leap day, and a month's end that only one of them has reached.
    assert period(kolkata, 2028, 2, 28, 18, 30) == (utc(2028, 2, 27, 18, 30), utc(2028, 3, 27, 18, 30))
    assert period(kolkata, 2028, 2, 27, 18, 29) == (utc(2028, 1, 27, 18, 30), utc(2028, 2, 27, 18, 30))

    # An event on the edge belongs to the period that begins there, and to no other.
    start, end = period(berlin, 2026, 3, 29)
    meter.send_all(
        event("before", "1", start - MICROSECOND, customer="berlin"),
        event("first", "10", start, customer="berlin"),
        event("last", "100", end - MICROSECOND, customer="berlin"),
        event("after", "1000", end, customer="berlin"),
    )
    for roll_up in (False, True):
        if roll_up:
            meter.roll_up()
        assert meter.value("m", start, end, customer="berlin") == 110
