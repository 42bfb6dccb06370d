"""Files of any series or breakdown: with the modes, groups and filters that usage reports ask with."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta
from typing import Any

import pyarrow.parquet
import pytest
from django.test import Client

from accounts.models import Organization
from metering.queries import exports
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

# A week over the end of a month, long past whenever the tests run.
FROM, TO = utc(2026, 3, 29), utc(2026, 4, 5)
RANGE = {"from": FROM.isoformat(), "to": TO.isoformat()}
# (when, who, where); without a place: the event does not have the dimension.
SEEN = [
    (utc(2026, 3, 10, 5), "ann", "eu"),
    (utc(2026, 3, 29, 1), "bob", "eu"),
    (utc(2026, 3, 31, 23), "ann", "eu"),
    (utc(2026, 3, 31, 23), "cyd", None),
    (utc(2026, 4, 1, 0), "cyd", None),
    (utc(2026, 4, 1, 2), "ann", "eu"),
    (utc(2026, 4, 3, 12), "bob", None),
    (utc(2026, 4, 3, 12), "bob", "us"),
]


@pytest.fixture
def meter(org: Organization) -> Meter:
    """Who was seen where, half of it rolled up."""
    meter = Meter(org, utc(2026, 4, 20))
    meter.define("seen", "count_unique", value_property="who", dimensions=["place"])
    for number, half in enumerate((SEEN[:4], SEEN[4:])):
        events = [
            {
                "customer": "acme",
                "type": "seen",
                "timestamp": at.isoformat(),
                "properties": {"who": who} | ({"place": place} if place else {}),
            }
            for at, who, place in half
        ]
        meter.send_all(*events)
        if number == 0:
            meter.roll_up()
    return meter


def export(client: Client, **body: Any) -> bytes:
    answer = client.post("/v1/usage/export", {"metric": "seen", **RANGE, **body}, content_type="application/json")
    assert answer.status_code == 200, answer.content
    assert answer.streaming
    return b"".join(answer.streaming_content)


def rows_of(client: Client, **body: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export(client, **body).decode(), newline="")))


def distinct(places: set[str | None], start: datetime, end: datetime) -> int:
    """Count who was seen at these places, from the events themselves."""
    return len({who for at, who, place in SEEN if place in places and start <= at < end})


def month_of(at: datetime) -> datetime:
    return at.replace(day=1, hour=0)


def test_null_finds_what_has_no_such_dimension(api_client: Client, meter: Meter) -> None:
    [without] = rows_of(api_client, filter={"place": None})
    [either] = rows_of(api_client, filter={"place": ["us", None]})
    [with_place] = rows_of(api_client, filter={"place": ["eu", "us"]})

    assert (without["value"], either["value"], with_place["value"]) == ("2", "2", "2")
    assert (without["count"], either["count"], with_place["count"]) == ("3", "4", "4")


@pytest.mark.parametrize("piece", [50, 25_000], ids=lambda points: f"{points} points at once")
def test_months_so_far_by_hour_whatever_the_pieces(
    api_client: Client, meter: Meter, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(exports, "PIECE_POINTS", piece)

    rows = rows_of(api_client, granularity="hour", mode="month_to_date", group_by=["place"], tz="UTC")

    hours = [FROM + timedelta(hours=number) for number in range(7 * 24)]
    got = {(row["bucket_start"], row["group.place"] or None): int(row["value"]) for row in rows}
    assert got == {
        (hour.isoformat().replace("+00:00", "Z"), place): distinct({place}, month_of(hour), hour + timedelta(hours=1))
        for hour in hours
        for place in ("eu", "us", None)
    }
    assert len(rows) == len(hours) * 3


def test_thirty_days_by_day(api_client: Client, meter: Meter) -> None:
    rows = rows_of(api_client, granularity="day", mode="rolling_30d", filter={"place": ["eu", None]}, tz="UTC")

    days = [FROM + timedelta(days=number) for number in range(7)]
    assert [int(row["value"]) for row in rows] == [
        distinct({"eu", None}, day - timedelta(days=29), day + timedelta(days=1)) for day in days
    ]
    assert [int(row["value"]) for row in rows] == [2, 2, 3, 3, 3, 3, 3]


def test_the_three_formats_say_the_same(api_client: Client, meter: Meter) -> None:
    body = {"granularity": "day", "group_by": ["place", "customer"], "tz": "UTC"}

    comma = [(row["bucket_start"], row["group.place"], row["value"]) for row in rows_of(api_client, **body)]
    lines = [json.loads(line) for line in export(api_client, **body, format="ndjson").splitlines()]
    table = pyarrow.parquet.read_table(io.BytesIO(export(api_client, **body, format="parquet"))).to_pylist()

    assert len(comma) == 7 * 3
    assert comma == [(line["bucket_start"], line["group.place"] or "", line["value"]) for line in lines]
    assert comma == [
        (row["bucket_start"].isoformat().replace("+00:00", "Z"), row["group.place"] or "", f"{row['value']:.0f}")
        for row in table
    ]
