"""The usage endpoints: shapes, periods, zeros, what they refuse, and the ends of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Customer
from metering.queries import current_period, previous_period
from tests import factories
from tests.api.conftest import Api
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

WINDOW = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}
PATHS = ("/v1/usage", "/v1/usage/breakdown", "/v1/usage/series")


@pytest.fixture(autouse=True)
def _metrics(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region", {"key": "tier", "values": ["free", "pro"]}])
    meter.define("seats", "count_unique", event_type="m", value_property="seat")
    meter.define("unused", "latest")


def event(key: str, value: Any, at: str = "2026-11-20T10:00:00Z", **properties: Any) -> dict[str, Any]:
    sent = {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": at}
    return {**sent, "properties": properties}


class TestShapes:
    def test_range(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", "12.50"), event("b", "-2", "2026-11-20T10:00:00.000001Z"))

        assert api.get("/v1/usage", metric="m", customer="ann", **WINDOW) == {
            "customer": "ann",
            "metric": "m",
            "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
            "value": "10.5",
            "count": 2,
            "sum": "10.5",
            "min": "-2",
            "max": "12.5",
            "unique": None,
            "last_value": "-2",
            "last_event_at": "2026-11-20T10:00:00.000001Z",
            "alert_flags": [],
        }

    def test_realtime_is_the_current_period(self, api: Api, meter: Meter) -> None:
        meter.send_all({"customer": "ann", "type": "m", "value": 5, "properties": {"seat": "s"}})
        period = current_period(
            metric=meter.metrics["m"], organization=meter.organization, customer=None, at=timezone.now()
        )

        answer = api.get("/v1/usage/realtime", metric="m", customer="ann")

        assert (answer["value"], answer["count"]) == ("5", 1)
        assert answer["period"]["start"] == period.start.isoformat().replace("+00:00", "Z")
        assert api.get("/v1/usage/realtime", metric="seats", customer="ann")["unique"] == 1

    def test_known_but_unused_is_zero(self, api: Api, meter: Meter) -> None:
        factories.make_customer(organization=meter.organization, external_id="idle")
        zeros = {
            "value": "0",
            "count": 0,
            "sum": None,
            "min": None,
            "max": None,
            "unique": None,
            "last_value": None,
            "last_event_at": None,
            "alert_flags": [],
        }

        for query in ({"customer": "idle"}, {}):
            for path in ("/v1/usage/realtime", "/v1/usage"):
                answer = api.get(path, metric="unused", **query)
                assert {name: answer[name] for name in zeros} == zeros
        assert api.get("/v1/usage", metric="seats", customer="idle")["unique"] == 0
        assert api.get("/v1/usage/breakdown", metric="unused", group_by="customer")["rows"] == []
        [line] = api.get("/v1/usage/series", metric="unused", **WINDOW)["series"]
        assert line["group"] == {}
        assert [value for _, value in line["points"]] == ["0"] * 30

    def test_breakdown_rows_sum_to_the_total(self, api: Api, meter: Meter) -> None:
        meter.send_all(
            event("a", 1, region="us", tier="free"),
            event("b", 10, region="us", tier="trial"),
            event("c", 100, region="eu"),
            event("d", 1000),
            {**event("e", 10_000, region="us", tier="free"), "customer": "bob"},
        )

        answer = api.get("/v1/usage/breakdown", metric="m", group_by=["tier", "customer"], **WINDOW)

        assert [(row["group"], row["value"]) for row in answer["rows"]] == [
            ({"tier": "free", "customer": "bob"}, "10000"),
            ({"tier": None, "customer": "ann"}, "1100"),
            ({"tier": "(other)", "customer": "ann"}, "10"),
            ({"tier": "free", "customer": "ann"}, "1"),
        ]
        assert api.get("/v1/usage", metric="m", **WINDOW)["value"] == "11111"

    def test_filters_are_and_over_keys_and_or_within(self, api: Api, meter: Meter) -> None:
        meter.send_all(
            event("a", 1, region="us", tier="free"),
            event("b", 10, region="eu", tier="free"),
            event("c", 100, region="ap", tier="pro"),
            event("d", 1000, region="us", tier="trial"),
        )

        def value(**filters: Any) -> str:
            named = {f"filter[{key}]": values for key, values in filters.items()}
            value: str = api.get("/v1/usage", metric="m", **WINDOW, **named)["value"]
            return value

        assert value(region=["us", "eu"], tier="free") == "11"
        assert value(region=["us", "us"]) == "1001"
        assert value(tier="(other)") == "1000"
        assert value(tier="trial") == "0"
        assert value(region="") == "0"

    def test_series_is_dense_and_marks_what_is_cut(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1, "2026-11-18T12:00:00Z"), event("b", 10, "2026-11-19T23:59:59.999999Z"))

        answer = api.get(
            "/v1/usage/series",
            metric="m",
            granularity="day",
            **{"from": "2026-11-17T12:00:00Z", "to": "2026-11-20T06:00:00Z"},
        )

        complete_through = answer.pop("complete_through")
        assert complete_through <= "2026-11-20T06:00:00Z"
        assert answer == {
            "start": "2026-11-17T12:00:00Z",
            "end": "2026-11-20T06:00:00Z",
            "granularity": "day",
            "tz": "UTC",
            "partial": ["2026-11-17T00:00:00Z", "2026-11-20T00:00:00Z"],
            "series": [
                {
                    "group": {},
                    "points": [
                        ["2026-11-17T00:00:00Z", "0"],
                        ["2026-11-18T00:00:00Z", "1"],
                        ["2026-11-19T00:00:00Z", "10"],
                        ["2026-11-20T00:00:00Z", "0"],
                    ],
                }
            ],
        }

    def test_series_keeps_the_days_of_the_zone_that_is_asked_for(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1, "2026-10-24T22:30:00Z"), event("b", 10, "2026-10-25T22:30:00Z"))

        answer = api.get(
            "/v1/usage/series",
            metric="m",
            tz="Europe/Berlin",
            **{"from": "2026-10-25T00:00:00+02:00", "to": "2026-10-27T00:00:00+01:00"},
        )

        # The day on which clocks go back has 25 hours.
        assert answer["series"][0]["points"] == [["2026-10-24T22:00:00Z", "11"], ["2026-10-25T23:00:00Z", "0"]]

    def test_lines_of_several_groups_share_the_axis(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1, "2026-11-01T00:00:00Z", region="us"), event("b", 10, region="eu"))

        answer = api.get("/v1/usage/series", metric="m", group_by="region", granularity="week", **WINDOW)

        lines = {line["group"]["region"]: line["points"] for line in answer["series"]}
        assert set(lines) == {"us", "eu"}
        assert [start for start, _ in lines["us"]] == [start for start, _ in lines["eu"]]
        assert [value for _, value in lines["us"]] == ["1", "0", "0", "0", "0", "0"]


class TestPeriods:
    def test_current_last_and_month_follow_the_customers_cycle_and_zone(self, api: Api, meter: Meter) -> None:
        customer = factories.make_customer(
            organization=meter.organization, external_id="berlin", zone="Europe/Berlin", billing_cycle_day=15
        )
        names: dict[str, Any] = {
            "metric": meter.metrics["m"],
            "organization": meter.organization,
            "customer": customer,
            "at": timezone.now(),
        }

        def period(name: str) -> tuple[str, str]:
            answer = api.get("/v1/usage", metric="m", customer="berlin", period=name)
            return answer["period"]["start"], answer["period"]["end"]

        def texts(span: Any) -> tuple[str, ...]:
            return tuple(edge.isoformat().replace("+00:00", "Z") for edge in span)

        assert period("current") == texts(current_period(**names))
        assert period("last") == texts(previous_period(**names))
        assert period("2026-02") == ("2026-02-14T23:00:00Z", "2026-03-14T23:00:00Z")
        assert period("2026-03") == ("2026-03-14T23:00:00Z", "2026-04-14T22:00:00Z")

    @pytest.mark.parametrize(
        ("definition", "start", "end"),
        [
            ({"period_type": "day"}, utc(2026, 11, 20), utc(2026, 11, 21)),
            ({"period_type": "week"}, utc(2026, 11, 16), utc(2026, 11, 23)),
            ({"period_type": "fixed", "period_days": 30}, utc(2026, 11, 3), utc(2026, 12, 3)),
            ({"billing_cycle_day": 28}, utc(2026, 10, 28), utc(2026, 11, 28)),
        ],
        ids=["day", "week", "fixed", "calendar"],
    )
    def test_each_kind_of_period(self, meter: Meter, definition: dict[str, Any], start: Any, end: Any) -> None:
        metric = meter.define("periodic", "sum", **definition)
        names: dict[str, Any] = {"metric": metric, "organization": meter.organization, "customer": None}

        current = current_period(**names, at=utc(2026, 11, 20, 12))

        assert tuple(current) == (start, end)
        assert previous_period(**names, at=utc(2026, 11, 20, 12)).end == start
        assert tuple(current_period(**names, at=start)) == (start, end)
        assert current_period(**names, at=end).start == end


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "field"),
        [
            pytest.param({"from": "2026-11-01T00:00:00", "to": WINDOW["to"]}, "from", id="naive time"),
            pytest.param({"from": "2026-11-01", "to": WINDOW["to"]}, "from", id="date alone"),
            pytest.param({"from": WINDOW["from"], "to": "tomorrow"}, "to", id="words"),
            pytest.param({"from": "", "to": WINDOW["to"]}, "from", id="empty time"),
            pytest.param({"from": WINDOW["to"], "to": WINDOW["from"]}, "from", id="backwards"),
            pytest.param({"from": WINDOW["to"], "to": WINDOW["to"]}, "from", id="empty range"),
            pytest.param({"from": WINDOW["from"]}, "to", id="no end"),
            pytest.param({"to": WINDOW["to"]}, "from", id="no start"),
            pytest.param({**WINDOW, "period": "current"}, "period", id="range and period"),
            pytest.param({"period": "2026-13"}, "period", id="13th month"),
            pytest.param({"period": "next"}, "period", id="unknown period"),
            pytest.param({"period": ""}, "period", id="empty period"),
            pytest.param({"filter[color]": "red"}, "filter[color]", id="undeclared filter"),
            pytest.param({"filter[region]": "a\x00"}, "filter[region]", id="NUL in a filter"),
            pytest.param({"filter[]": "us"}, "filter[]", id="filter without key"),
            pytest.param({"filter": "us"}, "filter", id="filter without brackets"),
            pytest.param({"as_of": "2200-01-01T00:00:00Z"}, "as_of", id="the future"),
            pytest.param({"as_of": "2026-11-20T10:00:00"}, "as_of", id="naive as_of"),
            pytest.param({"metric": ["m", "m"]}, "metric", id="two metrics"),
            pytest.param({"customer": ""}, "customer", id="empty customer"),
        ],
    )
    def test_each_is_422_and_names_its_parameter_on_every_path(
        self, api: Api, query: dict[str, Any], field: str
    ) -> None:
        for path in PATHS:
            extra = {"group_by": "customer"} if path.endswith("breakdown") else {}
            status, _, fields = api.refuse("GET", path, query={"metric": "m", **extra, **query})
            assert (status, fields) == (422, [field]), path

    @pytest.mark.parametrize(
        ("path", "query", "field"),
        [
            ("/v1/usage", {}, "metric"),
            ("/v1/usage/breakdown", {"metric": "m"}, "group_by"),
            ("/v1/usage/breakdown", {"metric": "m", "group_by": "color"}, "group_by"),
            ("/v1/usage/breakdown", {"metric": "m", "group_by": ["region", "region"]}, "group_by"),
            ("/v1/usage/series", {"metric": "m", "group_by": "color"}, "group_by"),
            ("/v1/usage/series", {"metric": "m", "granularity": "year"}, "granularity"),
            ("/v1/usage/series", {"metric": "m", "tz": "Europe/Berlim"}, "tz"),
            ("/v1/usage/series", {"metric": "m", "tz": "../etc/passwd"}, "tz"),
            ("/v1/usage/series", {"metric": "m", "mode": "sideways"}, "mode"),
            ("/v1/usage/series", {"metric": "m", "mode": "rolling_30d", "granularity": "hour"}, "mode"),
            ("/v1/usage/series", {"metric": "m", "granularity": "minute", "period": "2026-10"}, None),
            ("/v1/usage/realtime", {"metric": "m", "filter[region]": "us"}, "filter[region]"),
            ("/v1/usage/realtime", {"metric": "m", "period": "last"}, "period"),
        ],
    )
    def test_each_path_refuses_what_is_not_its_own(
        self, api: Api, path: str, query: dict[str, Any], field: str | None
    ) -> None:
        response = api.call("GET", path, query=query)

        if field is None:  # 44,640 minutes are within bounds
            assert response.status_code == 200
        else:
            assert (response.status_code, [error["field"] for error in response.json()["errors"]]) == (422, [field])

    def test_too_many_points_are_refused_before_they_are_made(self, api: Api) -> None:
        for granularity, query in [
            ("minute", {"from": "2026-01-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}),
            ("hour", {"from": "1970-01-01T00:00:00Z", "to": "9998-12-31T00:00:00Z"}),
            ("minute", {"from": "1970-01-01T00:00:00Z", "to": "9998-12-31T00:00:00Z"}),
        ]:
            status, code, fields = api.refuse(
                "GET", "/v1/usage/series", query={"metric": "m", "granularity": granularity, **query}
            )
            assert (status, code, fields) == (422, "too_many_points", ["granularity"])

    def test_absent_metric_and_customer_are_404(self, api: Api) -> None:
        for path in (*PATHS, "/v1/usage/realtime"):
            extra = {"group_by": "customer"} if path.endswith("breakdown") else {}
            assert api.refuse("GET", path, query={"metric": "none", **extra})[:2] == (404, "not_found")
            assert api.refuse("GET", path, query={"metric": "m", "customer": "none", **extra})[:2] == (404, "not_found")


class TestEndsOfTime:
    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
    @pytest.mark.parametrize("granularity", ["day", "week", "month"])
    def test_the_ends_of_the_calendar_are_answered_or_refused(self, api: Api, zone: str, granularity: str) -> None:
        for start, end in [
            ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"),
            ("9999-12-30T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z"),
            ("0001-01-01T00:00:00Z", "1970-01-01T00:00:01Z"),
            ("0", "1"),
            ("99999999999", "99999999999999999999"),
        ]:
            for mode in ("incremental", "month_to_date", "rolling_30d"):
                query = {"metric": "m", "granularity": granularity, "tz": zone, "mode": mode, "from": start, "to": end}
                assert api.call("GET", "/v1/usage/series", query=query).status_code in {200, 422}
            assert api.call("GET", "/v1/usage", query={"metric": "m", "from": start, "to": end}).status_code in {
                200,
                422,
            }

    @pytest.mark.parametrize("month", ["0000-01", "0001-01", "1969-12", "1970-01", "9998-12", "9999-12"])
    def test_so_are_its_months(self, api: Api, month: str) -> None:
        assert api.call("GET", "/v1/usage", query={"metric": "m", "period": month}).status_code in {200, 422}

    def test_times_may_be_unix_times(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1))

        answer = api.get("/v1/usage", metric="m", **{"from": "1795168800", "to": "1795168800000001"})

        assert answer["period"] == {"start": "2026-11-20T10:00:00Z", "end": "2026-11-20T10:00:00.000001Z"}
        assert answer["value"] == "1"


class TestOddNames:
    @pytest.mark.parametrize(
        "text", ["100%", "%s", "it's", "{}", '"', "\\", "a,b", "NULL", " us ", "é😀", "(other)", "x" * 500]
    )
    def test_dimension_values_are_any_text(self, api: Api, meter: Meter, text: str) -> None:
        for roll_up in (False, True):
            meter.send_all(event(f"k{roll_up}", 1, region=text))
            if roll_up:
                meter.roll_up()

        assert api.get("/v1/usage", metric="m", **WINDOW, **{"filter[region]": text})["value"] == "2"
        [row] = api.get("/v1/usage/breakdown", metric="m", group_by="region", **WINDOW)["rows"]
        assert row["group"] == {"region": text}

    @pytest.mark.parametrize("text", ["cpu%", "%(x)s", "a.b", "it's", " padded ", "é", '"', "{}"])
    def test_properties_and_types_are_any_text(self, api: Api, meter: Meter, text: str) -> None:
        definition = {"code": "odd", "aggregation": "sum", "event_type": text, "value_property": text}
        created = api.post("/v1/metrics", definition, status=201)
        assert (created["event_type"], created["value_property"]) == (text, text)

        for key in "ab":
            body = {"idempotency_key": key, "customer": text, "type": text, "properties": {text: 5}}
            assert api.post("/v1/events", body)["stored"] == 1
            meter.roll_up()
        api.post("/v1/events/a/void", {"reason": text + "x"})

        assert api.get("/v1/usage/realtime", metric="odd", customer=text)["value"] == "5"

    def test_customers_that_differ_by_a_space_are_two(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1), {**event("b", 10), "customer": " ann"}, {**event("c", 100), "customer": "Ann"})

        values = [api.get("/v1/usage", metric="m", customer=name, **WINDOW)["value"] for name in ("ann", " ann", "Ann")]

        assert values == ["1", "10", "100"]
        assert Customer.objects.for_organization(meter.organization).count() == 3


def test_what_was_known_then(api: Api, meter: Meter) -> None:
    meter.send_all(event("a", 1), at=utc(2026, 11, 20, 11))
    meter.send_all(event("b", 10), at=utc(2026, 11, 20, 12))
    meter.roll_up()
    meter.void("a", at=utc(2026, 11, 20, 13))

    values = [
        api.get("/v1/usage", metric="m", as_of=f"2026-11-20T{hour}:00:00Z", **WINDOW)["value"]
        for hour in ("10", "11", "12", "13")
    ]

    assert values == ["0", "1", "11", "10"]


def test_a_read_costs_the_same_however_many_events_there_are(
    api: Api, meter: Meter, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    for key in range(30):
        meter.send_all(event(str(key), 1, region=str(key)))

    for path, most in (("/v1/usage/realtime", 6), ("/v1/usage/breakdown", 6), ("/v1/usage/series", 6)):
        query = {"metric": "m", "customer": "ann", **({"group_by": "region"} if path.endswith("breakdown") else {})}
        with django_assert_max_num_queries(most):
            api.get(path, **query)
