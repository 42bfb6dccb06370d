"""The SDK's verbs against the real server, over HTTP."""

import asyncio
import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from meterbook import (
    Aggregation,
    AlreadyExistsError,
    AsyncClient,
    AuthenticationError,
    Client,
    ConflictError,
    Dimension,
    Event,
    MetricPeriod,
    NotFoundError,
    Operation,
    Period,
    PermissionRefusedError,
    Threshold,
    ValidationError,
)

from accounts.models import Scope
from accounts.services import IssuedKey
from tests import factories
from tests.clients.web_server import WebServer

NOW = datetime.now(UTC)
TODAY = Period(NOW - timedelta(days=1), NOW + timedelta(minutes=1))


class TestMetrics:
    def test_created_metric_reads_back_as_it_was_described(self, client: Client) -> None:
        created = client.metrics.create(
            "compute_seconds",
            Aggregation.SUM,
            name="Compute",
            description="Seconds of work.",
            unit="second",
            event_type="job.finished",
            value_property="seconds",
            dimensions=[Dimension("provider", ("aws", "gcp"), strict=True), "region"],
            period=MetricPeriod.calendar(billing_cycle_day=15),
            thresholds=[Threshold("hard_cap", "100000.5")],
        )

        assert client.metrics.get("compute_seconds") == created
        assert client.metrics.list() == [created]
        assert created.dimensions == (Dimension("provider", ("aws", "gcp"), strict=True), Dimension("region"))
        assert created.period == MetricPeriod("calendar", billing_cycle_day=15)
        assert created.thresholds == (Threshold("hard_cap", Decimal("100000.5"), recurring=False),)

    def test_second_creation_raises_already_exists(self, client: Client) -> None:
        client.metrics.create("api_calls", "count")

        with pytest.raises(AlreadyExistsError) as caught:
            client.metrics.create("api_calls", "count")

        assert caught.value.body["metric"]["code"] == "api_calls"

    def test_meaning_is_immutable_once_events_exist_but_the_name_is_not(self, client: Client) -> None:
        client.metrics.create("api_calls", "count")
        client.ingest(Event(customer="acme", metric="api_calls"))

        assert client.metrics.update("api_calls", name="Calls").name == "Calls"
        with pytest.raises(ConflictError, match="can no longer change"):
            client.metrics.update("api_calls", aggregation="sum")

    def test_deleted_metric_keeps_its_history_and_refuses_events(self, client: Client) -> None:
        client.metrics.create("api_calls", "count")
        client.ingest(Event(customer="acme", metric="api_calls"))

        client.metrics.delete("api_calls")

        assert client.metrics.list() == []
        assert [metric.code for metric in client.metrics.list(archived=True)] == ["api_calls"]
        assert client.query_realtime("acme", "api_calls").value == 1
        with pytest.raises(ValidationError) as caught:
            client.ingest(Event(customer="acme", metric="api_calls"))
        assert caught.value.code == "unknown_metric"

    def test_catalog_installs_twice_as_once(self, client: Client) -> None:
        assert "demo" in {catalog.name for catalog in client.catalogs.list()}

        first, second = client.catalogs.install("demo"), client.catalogs.install("demo")

        assert first == second
        assert [metric.event_type for metric in first] == ["flight"] * 5


class TestIngest:
    def test_same_event_sent_again_counts_once(self, client: Client) -> None:
        client.metrics.create("api_calls", "count")
        event = Event(customer="acme", metric="api_calls")

        assert client.ingest(event).stored == 1
        assert client.ingest(event).duplicates == 1

        assert client.query_realtime("acme", "api_calls").count == 1

    def test_each_refused_event_is_reported_with_its_place_over_several_requests(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        events = [
            {"customer": "acme", "metric": "bytes" if number % 4 else "nothing", "value": number}
            for number in range(10)
        ]

        result = client.ingest(iter(events), batch_size=3)

        assert (result.stored, result.rejected) == (7, 3)
        assert [(error.index, error.code) for error in result.errors] == [
            (0, "unknown_metric"),
            (4, "unknown_metric"),
            (8, "unknown_metric"),
        ]
        assert int(result.first_offset or 0) < int(result.last_offset or 0)
        assert client.query(metric="bytes").value == sum(number for number in range(10) if number % 4)

    def test_all_refused_raises_with_every_verdict(self, client: Client) -> None:
        with pytest.raises(ValidationError) as caught:
            client.ingest([{"customer": "acme", "metric": f"none{n}"} for n in range(5)], batch_size=2)

        assert caught.value.result is not None
        assert [error.index for error in caught.value.result.errors] == [0, 1, 2, 3, 4]

    def test_atomic_stores_all_or_nothing(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        good, bad = Event(customer="acme", metric="bytes", value=1), Event(customer="acme", metric="none", value=1)

        with pytest.raises(ValidationError) as caught:
            client.ingest([good, bad], atomic=True)

        assert [(error.index, error.code) for error in caught.value.errors] == [(1, "unknown_metric")]
        assert client.query(metric="bytes").count == 0
        assert client.ingest([good], atomic=True).stored == 1

    def test_atomic_of_more_than_one_request_is_refused_unsent(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        with pytest.raises(ValueError, match="at most 2 events"):
            client.ingest([Event(customer="acme", metric="bytes", value=1)] * 3, atomic=True, batch_size=2)
        assert client.query(metric="bytes").count == 0

    def test_no_events_is_no_request(self, client: Client) -> None:
        assert client.ingest([]).stored == 0

    def test_asynchronous_ingest_is_accepted(self, client: Client) -> None:
        client.metrics.create("api_calls", "count")
        assert client.ingest(Event(customer="acme", metric="api_calls"), durability="async").accepted == 1

    def test_quantities_keep_every_digit(self, client: Client) -> None:
        client.metrics.create("money", "sum", value_property="amount")
        exact = Decimal("123456789012345678.123456789")

        client.ingest([Event(customer="acme", metric="money", properties={"amount": exact})])
        client.ingest([Event(customer="acme", metric="money", properties={"amount": 0.1})] * 1)

        assert client.query(metric="money").value == exact + Decimal("0.1")

    def test_compressed_requests_are_understood(self, server: WebServer, api_key: IssuedKey) -> None:
        with Client(server.url, api_key.text, compress=True, trust_env=False) as client:
            client.metrics.create("api_calls", "count")
            result = client.ingest([Event(customer="acme", metric="api_calls") for _ in range(500)])
        assert result.stored == 500

    def test_validate_names_the_metrics_and_stores_nothing(self, client: Client) -> None:
        client.metrics.create("calls", "count", event_type="request")
        client.metrics.create("bytes", "sum", event_type="request", value_property="bytes")

        answer = client.validate(
            [
                Event(customer="acme", type="request", properties={"bytes": 5}, idempotency_key="both"),
                Event(customer="acme", type="request", idempotency_key="one"),
                Event(customer="acme", type="none"),
            ]
        )

        assert {event.idempotency_key: set(event.metrics) for event in answer.events} == {
            "both": {"calls", "bytes"},
            "one": {"calls"},
        }
        assert (answer.verdicts.stored, answer.verdicts.rejected, answer.verdicts.errors[0].index) == (2, 1, 2)
        assert client.query(metric="calls").count == 0
        assert client.validate(Event(customer="acme", type="none")).verdicts.rejected == 1


class TestEvents:
    def test_list_goes_over_all_pages_newest_first(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        start = NOW - timedelta(hours=1)
        client.ingest(
            Event(
                customer="acme",
                metric="bytes",
                value=number,
                timestamp=start + timedelta(seconds=number),
                properties={"parity": "even" if number % 2 == 0 else "odd"},
            )
            for number in range(10)
        )

        listed = list(client.list_events(customer="acme", metric="bytes", page_size=3))
        assert [event.value for event in listed] == [Decimal(number) for number in reversed(range(10))]

        some = client.list_events(
            start=start + timedelta(seconds=2), end=start + timedelta(seconds=7), properties={"parity": "odd"}
        )
        assert [event.value for event in some] == [5, 3]

    def test_void_takes_an_event_back_once(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        key = "order/17 ä?"  # everything that a path must escape
        client.ingest(Event(customer="acme", metric="bytes", value=7, idempotency_key=key))

        void = client.void(key, reason="counted by mistake")

        assert (void.idempotency_key, void.reason) == (key, "counted by mistake")
        stored = client.get_event(key)
        assert stored.voided_at == void.voided_at
        assert stored.metrics == ("bytes",)
        assert client.query(metric="bytes").value == 0
        with pytest.raises(ConflictError):
            client.void(key, reason="again")

    def test_replace_counts_the_new_event_alone(self, client: Client) -> None:
        client.metrics.create("bytes", "sum")
        client.ingest(Event(customer="acme", metric="bytes", value=7, idempotency_key="wrong"))

        replacement = client.replace(
            "wrong", Event(customer="acme", metric="bytes", value=70, idempotency_key="right"), reason="a typo"
        )

        assert (replacement.voided, replacement.idempotency_key) == ("wrong", "right")
        assert client.get_event("wrong").replaced_by == "right"
        assert client.query(metric="bytes").value == 70

    def test_absent_event_is_not_found(self, client: Client) -> None:
        with pytest.raises(NotFoundError):
            client.get_event("nothing")


class TestUsage:
    @pytest.fixture(autouse=True)
    def _some_usage(self, client: Client) -> None:
        client.metrics.create("seconds", "sum", dimensions=["provider", "region"])
        client.ingest(
            Event(
                customer=customer,
                metric="seconds",
                value=value,
                timestamp=NOW - timedelta(minutes=minutes_ago),
                properties={"provider": provider, "region": region},
            )
            for customer, value, provider, region, minutes_ago in [
                ("acme", "1.5", "aws", "us", 30),
                ("acme", "2", "gcp", "us", 20),
                ("acme", "4", "aws", "eu", 10),
                ("bolt", "8", "aws", "us", 10),
            ]
        )

    def test_query_answers_every_statistic_as_decimal(self, client: Client) -> None:
        usage = client.query(metric="seconds", customer="acme", period=TODAY)

        assert (usage.value, usage.count, usage.sum) == (Decimal("7.5"), 3, Decimal("7.5"))
        assert (usage.min, usage.max, usage.last_value) == (Decimal("1.5"), Decimal(4), Decimal(4))
        assert usage.last_event_at == NOW - timedelta(minutes=10)
        assert usage.period == TODAY
        assert all(isinstance(number, Decimal) for number in (usage.value, usage.sum, usage.min, usage.max))

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"provider": "aws"}, "13.5"),
            ({"provider": "aws", "region": "us"}, "9.5"),
            ({"provider": ["aws", "gcp"], "region": "us"}, "11.5"),
        ],
        ids=["one", "and", "or within and"],
    )
    def test_filters_combine(self, client: Client, filters: dict[str, str | list[str]], expected: str) -> None:
        assert client.query(metric="seconds", period=TODAY, filters=filters).value == Decimal(expected)

    def test_breakdown_rows_sum_to_the_total(self, client: Client) -> None:
        rows = client.breakdown(metric="seconds", group_by=["customer", "provider"], period=TODAY)

        assert {(row.group["customer"], row.group["provider"]): row.value for row in rows} == {
            ("acme", "aws"): Decimal("5.5"),
            ("acme", "gcp"): Decimal(2),
            ("bolt", "aws"): Decimal(8),
        }

    def test_series_is_dense_and_marks_the_bucket_of_now(self, client: Client) -> None:
        hours = Period(NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2), TODAY.end)
        answer = client.series(metric="seconds", granularity="hour", period=hours, tz="Europe/Berlin")

        (line,) = answer.series
        assert len(line.points) in (3, 4)  # the end may lie in the next hour
        assert sum(point.value for point in line.points) == Decimal("15.5")
        assert line.points[-1].is_partial
        assert not line.points[0].is_partial
        assert answer.tz == "Europe/Berlin"

    def test_as_of_answers_what_was_known(self, client: Client) -> None:
        before = datetime.now(UTC)
        client.ingest(Event(customer="acme", metric="seconds", value=100, timestamp=NOW - timedelta(minutes=5)))

        assert client.query(metric="seconds", period=TODAY).value == Decimal("115.5")
        assert client.query(metric="seconds", period=TODAY, as_of=before).value == Decimal("15.5")

    def test_export_is_the_breakdown_as_a_file(self, client: Client) -> None:
        content = b"".join(client.export(metric="seconds", group_by="customer", period=TODAY, filters={"region": "us"}))
        rows = list(csv.DictReader(StringIO(content.decode())))
        assert {row["group.customer"]: row["value"] for row in rows} == {"acme": "3.5", "bolt": "8"}

        lines = b"".join(client.export(metric="seconds", format="ndjson", granularity="day", period=TODAY))
        assert sum(Decimal(json.loads(line)["value"]) for line in lines.splitlines()) == Decimal("15.5")

        with pytest.raises(NotFoundError):
            next(client.export(metric="none"))

    def test_distinct_counts_know_add_and_remove(self, client: Client) -> None:
        client.metrics.create("seats", "count_unique")
        client.ingest(
            [
                Event(customer="acme", metric="seats", value=7, operation=Operation.ADD),
                Event(customer="acme", metric="seats", value="anna"),
                Event(customer="acme", metric="seats", value=7, operation="remove"),
            ]
        )

        usage = client.query_realtime("acme", "seats")
        assert (usage.value, usage.unique) == (Decimal(1), 1)

    def test_unknown_names_are_told_apart(self, client: Client) -> None:
        with pytest.raises(NotFoundError):
            client.query(metric="none")
        with pytest.raises(NotFoundError):
            client.query(metric="seconds", customer="nobody")
        with pytest.raises(ValidationError) as caught:
            client.query(metric="seconds", filters={"colour": "red"})
        assert caught.value.errors[0].code == "unknown_dimension"


class TestAccess:
    def test_wrong_key_is_an_authentication_error(self, client_of: Callable[[str], Client]) -> None:
        with pytest.raises(AuthenticationError):
            client_of("mb_abc_def").metrics.list()

    def test_missing_scope_is_a_permission_error(
        self, client_of: Callable[[IssuedKey], Client], api_key: IssuedKey
    ) -> None:
        narrow = factories.make_api_key(organization=api_key.api_key.organization, scopes=(Scope.EVENTS_WRITE,))
        with pytest.raises(PermissionRefusedError):
            client_of(narrow).metrics.list()

    def test_outsider_sees_nothing(
        self, client: Client, client_of: Callable[[IssuedKey], Client], other_api_key: IssuedKey
    ) -> None:
        client.metrics.create("bytes", "sum")
        client.ingest(Event(customer="acme", metric="bytes", value=7, idempotency_key="mine"))
        outsider = client_of(other_api_key)

        assert outsider.metrics.list() == []
        assert list(outsider.list_events()) == []
        for verb in (
            lambda: outsider.query(metric="bytes"),
            lambda: outsider.get_event("mine"),
            lambda: outsider.void("mine", reason="malice"),
            lambda: outsider.metrics.delete("bytes"),
        ):
            with pytest.raises(NotFoundError):
                verb()


def test_async_client_has_the_same_verbs(server: WebServer, api_key: IssuedKey) -> None:
    async def story() -> tuple[Decimal, list[str]]:
        async with AsyncClient(server.url, api_key.text, trust_env=False) as client:
            await client.metrics.create("bytes", "sum")
            await asyncio.gather(
                *(client.ingest([Event(customer="acme", metric="bytes", value=1) for _ in range(50)]) for _ in range(8))
            )
            usage = await client.query_realtime("acme", "bytes")
            listed = [event.customer async for event in client.list_events(page_size=100)]
            return usage.value, listed

    value, listed = asyncio.run(story())

    assert value == 400
    assert listed == ["acme"] * 400


def test_both_clients_offer_the_same_verbs() -> None:
    # A recorder of requests has a thread of its own, in an ASGI application too: the client with threads makes it.
    assert _public(Client) - {"track_requests"} == _public(AsyncClient)
    for name in _public(Client):
        assert getattr(Client, name).__doc__, name


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}
