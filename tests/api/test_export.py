"""`POST /v1/usage/export`: the numbers of the usage query as files, in three formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from django.test import Client

from accounts.models import Customer, Organization, Scope
from accounts.services import IssuedKey
from metering.catalogs import MetricDefinition
from metering.incoming import IncomingEvent
from metering.models import Aggregation
from metering.queries import exports
from metering.services.ingest import ingest_events
from metering.services.metrics import create_metric
from metering.services.rollup import roll_up_organization
from tests import factories

pytestmark = pytest.mark.django_db

# The usage lies in the month before a fixed noon, long past whenever the tests run.
NOON = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)
MARCH = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
DANGEROUS = ["=1+1", "+1", "-5", "@SUM(A1)", "\tcell", "\rcell"]


@pytest.fixture
def usage(org: Organization) -> Organization:
    """Three metrics over the same events, some of them rolled up and some still waiting."""
    for code, aggregation, value_property in (
        ("bytes", Aggregation.SUM, "bytes"),
        ("users", Aggregation.COUNT_UNIQUE, "user"),
        ("peak", Aggregation.MAX, "bytes"),
    ):
        dimensions = tuple({"key": key, "values": None, "strict": False} for key in ("region", "value"))
        definition = MetricDefinition(
            code, aggregation, event_type="request", value_property=value_property, dimensions=dimensions
        )
        create_metric(organization=org, definition=definition, actor="test")
    for first, last in ((0, 60), (60, 80)):
        events = [
            request(hours * 11, customer=f"cust_{hours % 3}", region="eu" if hours % 4 else None, bytes=hours - 20,
                    user=f"u{hours % 5}")
            for hours in range(first, last)
        ]  # fmt: skip
        store(org, *events)
        if first == 0:
            roll_up_organization(organization_id=org.pk, now=NOON)
    return org


def request(hours: int, *, customer: str = "cust_42", **properties: Any) -> IncomingEvent:
    """Return an event that happened so many hours before noon; properties that are None are left out."""
    return IncomingEvent(
        idempotency_key=f"{customer}-{hours}-{properties}",
        customer=customer,
        type="request",
        timestamp=(NOON - timedelta(hours=hours)).isoformat(),
        properties={key: value for key, value in properties.items() if value is not None},
    )


def store(org: Organization, *events: IncomingEvent) -> None:
    assert ingest_events(organization=org, events=events, now=NOON).stored == len(events)


def post(client: Client, **body: Any) -> Any:
    return client.post("/v1/usage/export", body, content_type="application/json")


def export(client: Client, **body: Any) -> bytes:
    answer = post(client, **{"metric": "bytes", **MARCH, **body})
    assert answer.status_code == 200, answer.content
    assert answer.streaming
    return b"".join(answer.streaming_content)


def export_rows(client: Client, **body: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export(client, **body).decode(), newline="")))


def refusal(client: Client, **body: Any) -> dict[str, Any]:
    answer = post(client, **{"metric": "bytes", **MARCH, **body})
    assert answer.status_code == 422, answer.content
    error: dict[str, Any] = answer.json()["errors"][0]
    return error


def ask(client: Client, path: str, **query: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(path, {"metric": "bytes", **MARCH, **query}).json()
    return answer


class TestBreakdown:
    def test_rows_are_those_of_the_breakdown(self, api_client: Client, usage: Organization) -> None:
        expected = ask(api_client, "/v1/usage/breakdown", group_by=["region", "customer"])["rows"]

        rows = export_rows(api_client, group_by=["region", "customer"])

        assert rows == [
            {
                "metric": "bytes",
                "group.region": row["group"]["region"] or "",
                "group.customer": row["group"]["customer"],
                "period_start": "2026-03-01T00:00:00Z",
                "period_end": "2026-04-01T00:00:00Z",
                "value": row["value"],
                "count": str(row["count"]),
                "sum": row["sum"],
                "min": row["min"],
                "max": row["max"],
                "unique": "",
                "last_value": row["last_value"],
                "last_event_at": row["last_event_at"],
            }
            for row in expected
        ]
        assert len(rows) == 6

    def test_without_groups_it_is_one_row_also_of_nothing(self, api_client: Client, usage: Organization) -> None:
        [row] = export_rows(api_client, metric="users")
        assert (row["value"], row["unique"], row["sum"]) == ("5", "5", "")

        [row] = export_rows(api_client, **{"from": "2020-01-01T00:00:00Z", "to": "2020-02-01T00:00:00Z"})
        assert (row["value"], row["count"], row["last_event_at"]) == ("0", "0", "")

    def test_one_customer_stands_in_a_column(self, api_client: Client, usage: Organization) -> None:
        rows = export_rows(api_client, customer="cust_1", group_by=["region"])

        assert {row["customer"] for row in rows} == {"cust_1"}
        assert list(rows[0])[:3] == ["metric", "customer", "group.region"]

    def test_filters_are_one_value_or_several(self, api_client: Client, usage: Organization) -> None:
        store(usage, request(1, region="us", bytes=1000), request(1, region="ap", bytes=500))

        [one] = export_rows(api_client, filter={"region": "us"})
        [several] = export_rows(api_client, filter={"region": ["us", "ap"]})

        assert (one["value"], several["value"]) == ("1000", "1500")

    def test_as_of_answers_what_was_known(self, api_client: Client, usage: Organization) -> None:
        [row] = export_rows(api_client, as_of="2026-03-19T00:00:00Z")

        assert row["count"] == "0"  # all events arrived at noon of the 20th

    def test_period_is_understood(self, api_client: Client, usage: Organization) -> None:
        answer = post(api_client, metric="bytes", period="2026-03")

        text = b"".join(answer.streaming_content).decode()
        assert text.splitlines()[1].startswith("bytes,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z,")


SERIES = [
    {"granularity": "day"},
    {"granularity": "hour", "from": "2026-03-18T10:20:00Z", "to": "2026-03-19T07:00:01Z"},
    {"granularity": "week", "tz": "Europe/Berlin", "group_by": ["region"]},
    {"granularity": "day", "mode": "month_to_date", "group_by": ["customer"], "from": "2026-03-15T00:00:00Z"},
    {"granularity": "day", "mode": "rolling_30d", "group_by": ["region", "customer"], "from": "2026-03-21T00:00:00Z"},
]


class TestSeries:
    @pytest.mark.parametrize("metric", ["bytes", "users", "peak"])
    @pytest.mark.parametrize("body", SERIES, ids=lambda body: f"{body['granularity']} {body.get('mode', '')}")
    @pytest.mark.parametrize("piece_points", [exports.PIECE_POINTS, 7], ids=["in one", "in pieces"])
    def test_rows_are_the_points_of_the_series(
        self,
        api_client: Client,
        usage: Organization,
        monkeypatch: pytest.MonkeyPatch,
        metric: str,
        body: dict[str, Any],
        piece_points: int,
    ) -> None:
        monkeypatch.setattr(exports, "PIECE_POINTS", piece_points)
        series = ask(api_client, "/v1/usage/series", metric=metric, **body)
        expected = {
            (start, *(line["group"][key] or "" for key in body.get("group_by", []))): (
                value,
                start in series["partial"],
            )
            for line in series["series"]
            for start, value in line["points"]
        }

        rows = export_rows(api_client, metric=metric, **body)

        found = {
            (row["bucket_start"], *(row[f"group.{key}"] for key in body.get("group_by", []))): (
                row["value"],
                row["is_partial"] == "true",
            )
            for row in rows
        }
        assert found == expected
        assert len(rows) == len(expected) > 0
        assert [row["bucket_start"] for row in rows] == sorted(row["bucket_start"] for row in rows)

    def test_more_rows_than_a_file_takes_are_refused(
        self, api_client: Client, usage: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exports, "MAX_ROWS", 3 * 31)

        assert len(export_rows(api_client, granularity="day", group_by=["customer"])) == 3 * 31
        error = refusal(api_client, granularity="day", group_by=["customer", "region"])
        assert (error["field"], error["code"]) == ("granularity", "too_many_rows")


class TestFormats:
    BODY = {"group_by": ["customer"], "granularity": "day"}

    def test_all_formats_hold_the_same_rows(self, api_client: Client, usage: Organization) -> None:
        as_csv = export_rows(api_client, **self.BODY)
        as_json = [json.loads(line) for line in export(api_client, **self.BODY, format="ndjson").splitlines()]
        as_parquet = read_parquet(export(api_client, **self.BODY, format="parquet")).to_pylist()

        assert len(as_csv) == len(as_json) == len(as_parquet) == 3 * 31
        for text, line, typed in zip(as_csv, as_json, as_parquet, strict=True):
            assert text == {**line, "is_partial": str(line["is_partial"]).lower()}
            assert typed == {
                **line,
                "bucket_start": datetime.fromisoformat(line["bucket_start"]),
                "value": Decimal(line["value"]),
            }

    def test_no_spreadsheet_takes_a_text_for_a_formula(self, api_client: Client, usage: Organization) -> None:
        store(usage, *(request(1, region=text, bytes=-5) for text in DANGEROUS))

        rows = export_rows(api_client, group_by=["region"])

        dangerous = {row["group.region"]: row["value"] for row in rows if row["group.region"] not in {"", "eu"}}
        assert dangerous == {f"'{text}": "-5" for text in DANGEROUS}  # numbers stay numbers

    def test_texts_survive_quoting(self, api_client: Client, usage: Organization) -> None:
        texts = ['say "hi"', "a,b", "two\nlines", "", "ünïcode ✓", "plain'='"]
        store(usage, *(request(1, region=text, bytes=1_000_000) for text in texts))

        content = export(api_client, group_by=["region"])

        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        assert {row["group.region"] for row in rows if row["value"] == "1000000"} == set(texts)
        assert b'\r\nbytes,"",2026' in content  # an empty text is not an absent one
        assert b"\r\nbytes,,2026" in content

    def test_dimension_may_be_called_like_a_column(self, api_client: Client, usage: Organization) -> None:
        store(usage, request(1, value="v", bytes=77))

        rows = export_rows(api_client, group_by=["value"])

        assert {row["group.value"]: row["value"] for row in rows}["v"] == "77"

    def test_parquet_is_typed(self, api_client: Client, usage: Organization) -> None:
        table = read_parquet(export(api_client, group_by=["customer"], format="parquet"))

        assert {field.name: str(field.type) for field in table.schema} == {
            "metric": "string",
            "group.customer": "string",
            "period_start": "timestamp[us, tz=UTC]",
            "period_end": "timestamp[us, tz=UTC]",
            "value": "decimal128(38, 18)",
            "count": "int64",
            "sum": "decimal128(38, 18)",
            "min": "decimal128(38, 18)",
            "max": "decimal128(38, 18)",
            "unique": "int64",
            "last_value": "decimal128(38, 18)",
            "last_event_at": "timestamp[us, tz=UTC]",
        }

    @pytest.mark.parametrize(
        ("number", "fits"),
        [
            ("99999999999999999999.999999999999999999", True),
            ("100000000000000000000", False),
            ("0.000000000000000001", True),
            ("-12345678901234567890123456.25", False),
        ],
    )
    def test_parquet_column_is_text_where_a_decimal_does_not_fit(
        self, api_client: Client, usage: Organization, number: str, fits: bool
    ) -> None:
        store(usage, request(1, region="wide", bytes=Decimal(number)))

        table = read_parquet(export(api_client, group_by=["region"], format="parquet"))

        [row] = [row for row in table.to_pylist() if row["group.region"] == "wide"]
        assert str(table.schema.field("value").type) == ("decimal128(38, 18)" if fits else "string")
        assert row["value"] == (Decimal(number) if fits else number)
        assert table.num_rows == 3

    def test_table_without_rows_has_its_columns(self, api_client: Client, usage: Organization) -> None:
        body = {"group_by": ["region"], "from": "2020-01-01T00:00:00Z", "to": "2020-02-01T00:00:00Z"}

        assert export(api_client, **body).decode().startswith("metric,group.region,period_start,")
        assert export(api_client, **body, format="ndjson") == b""
        assert read_parquet(export(api_client, **body, format="parquet")).num_rows == 0

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("csv", "text/csv; charset=utf-8"),
            ("ndjson", "application/x-ndjson"),
            ("parquet", "application/vnd.apache.parquet"),
        ],
    )
    def test_file_is_named(self, api_client: Client, usage: Organization, name: str, content_type: str) -> None:
        answer = post(api_client, metric="bytes", **MARCH, format=name)

        disposition = f'attachment; filename="usage-bytes-2026-03-01-2026-04-01.{name}"'
        assert answer.headers["Content-Disposition"] == disposition
        assert answer.headers["Content-Type"] == content_type
        assert int(answer.headers["Content-Length"]) == len(b"".join(answer.streaming_content))


def read_parquet(content: bytes) -> pa.Table:
    return pyarrow.parquet.read_table(io.BytesIO(content))


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"format": "xlsx"}, "format"),
            ({"limit": 5}, "limit"),
            ({"tz": "Europe/Berlin"}, "tz"),
            ({"mode": "rolling_30d"}, "mode"),
            ({"granularity": "hour", "mode": "rolling_30d"}, "mode"),
            ({"granularity": "second"}, "granularity"),
            ({"filter": {"planet": "mars"}}, "filter[planet]"),
            ({"filter": {"region": 5}}, "filter.region"),
            ({"filter": {"region": []}}, "filter.region"),
            ({"group_by": ["planet"]}, "group_by"),
            ({"from": "2026-03-01"}, "from"),
            ({"from": "2026-05-01T00:00:00Z"}, "from"),
            ({"period": "current"}, "period"),
            ({"as_of": "2999-01-01T00:00:00Z"}, "as_of"),
        ],
        ids=str,
    )
    def test_refusal_names_the_field(
        self, api_client: Client, usage: Organization, body: dict[str, Any], field: str
    ) -> None:
        assert refusal(api_client, **body)["field"] == field

    def test_parameters_stand_in_the_body(self, api_client: Client, usage: Organization) -> None:
        answer = api_client.post(
            "/v1/usage/export?filter[region]=eu", {"metric": "bytes", **MARCH}, content_type="application/json"
        )

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "filter[region]"

    def test_strangers_find_nothing(self, outsider_client: Client, usage: Organization) -> None:
        assert post(outsider_client, metric="bytes", **MARCH).status_code == 404

    def test_other_methods_are_not_allowed(self, api_client: Client, usage: Organization) -> None:
        answer = api_client.get("/v1/usage/export", {"metric": "bytes"})

        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")

    def test_scope_is_needed(self, usage: Organization, api_client_for: Callable[[IssuedKey | str], Client]) -> None:
        key = factories.make_api_key(organization=usage, scopes=(Scope.EVENTS_WRITE,))

        assert post(api_client_for(key), metric="bytes", **MARCH).status_code == 403

    def test_bound_key_sees_its_customer_alone(
        self, usage: Organization, api_client_for: Callable[[IssuedKey | str], Client]
    ) -> None:
        customer = Customer.objects.for_organization(usage).get(external_id="cust_1")
        key = factories.make_api_key(organization=usage, scopes=(Scope.USAGE_READ,), customer=customer)

        rows = export_rows(api_client_for(key), group_by=["customer"])

        assert [row["group.customer"] for row in rows] == ["cust_1"]
