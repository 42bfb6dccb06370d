"""The catalog `launchdarkly`: installed over the API, its examples are what its metrics count."""

import itertools
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from common.errors import ApplicationError
from metering.catalogs import CATALOGS, LAUNCHDARKLY, Catalog
from usage_reports.launchdarkly.endpoints import ENDPOINTS
from usage_reports.launchdarkly.errors import answer_error

pytestmark = pytest.mark.django_db
JSON = "application/json"

# What one example event of each metric counts.
COUNTED = {
    "ld_contexts": "1",
    "ld_data_export_events": "250",
    "ld_experimentation_events": "40",
    "ld_experimentation_keys": "1",
    "ld_service_connection_minutes": "59.75",
    "ld_evaluations": "1200",
    "ld_events": "5000",
    "ld_streams": "3",
    "ld_observability_errors": "2",
    "ld_observability_logs": "900",
    "ld_observability_metrics": "75",
    "ld_observability_sessions": "12",
    "ld_observability_traces": "310",
    "ld_vega_ai": "7",
}


def send(client: Client, *events: Any) -> Any:
    answer = client.post("/v1/events", json.dumps(events), content_type=JSON)
    return answer.json()


def usage(client: Client, code: str, **query: str) -> str:
    now = timezone.now()
    span = {"from": (now - timedelta(days=1)).isoformat(), "to": (now + timedelta(days=1)).isoformat()}
    answer = client.get("/v1/usage", {"metric": code} | span | query)
    assert answer.status_code == 200, answer.content
    return str(answer.json()["value"])


def example_of(code: str) -> dict[str, Any]:
    [event] = [event for event in LAUNCHDARKLY.examples if event["type"] == code]
    return dict(event)


class TestExamples:
    @pytest.mark.parametrize("catalog", CATALOGS.values(), ids=lambda catalog: catalog.name)
    def test_every_event_type_has_one(self, catalog: Catalog) -> None:
        types = {definition.event_type or definition.code for definition in catalog.metrics}

        assert sorted(event["type"] for event in catalog.examples) == sorted(types)

    @pytest.mark.parametrize("catalog", CATALOGS.values(), ids=lambda catalog: catalog.name)
    def test_each_names_what_its_metrics_aggregate_and_all_their_dimensions(self, catalog: Catalog) -> None:
        for definition in catalog.metrics:
            [event] = [
                event for event in catalog.examples if event["type"] == (definition.event_type or definition.code)
            ]
            keys = {dimension["key"] for dimension in definition.dimensions}
            assert keys | ({definition.value_property} - {""}) <= set(event["properties"])

    @pytest.mark.parametrize("catalog", CATALOGS.values(), ids=lambda catalog: catalog.name)
    def test_is_stored_and_counted_when_the_catalog_is_installed(self, api_client: Client, catalog: Catalog) -> None:
        installed = api_client.post(f"/v1/catalogs/{catalog.name}/install")
        assert installed.status_code == 200, installed.content

        told = send(api_client, *catalog.examples)

        assert (told["stored"], told["rejected"], told["errors"]) == (len(catalog.examples), 0, [])
        for definition in catalog.metrics:
            assert usage(api_client, definition.code) != "0", definition.code

    def test_counts_what_it_says(self, api_client: Client) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")
        send(api_client, *LAUNCHDARKLY.examples)

        assert {code: usage(api_client, code) for code in COUNTED} == COUNTED

    def test_is_found_by_every_dimension(self, api_client: Client) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")
        send(api_client, *LAUNCHDARKLY.examples)

        for definition in LAUNCHDARKLY.metrics:
            properties = example_of(definition.code)["properties"]
            for dimension in definition.dimensions:
                key = dimension["key"]
                found = usage(api_client, definition.code, **{f"filter[{key}]": properties[key]})
                assert found == COUNTED[definition.code], (definition.code, key)


class TestDocument:
    """`docs/launchdarkly.md` says what the code does."""

    TEXT = (settings.BASE_DIR / "docs" / "launchdarkly.md").read_text()

    def test_shows_the_very_examples(self) -> None:
        _, _, block = self.TEXT.partition("```json\n")

        assert json.loads(block.partition("```")[0]) == list(LAUNCHDARKLY.examples)

    def test_names_the_endpoints_of_every_metric(self) -> None:
        rows = re.findall(r"^\| `(ld_\w+)` \| (.*?) \| (.*?) \|$", self.TEXT, re.MULTILINE)
        told = {code: re.findall(r"`([^`]+)`", endpoints) for code, endpoints, _ in rows}

        assert told == {
            definition.code: [row.path for row in ENDPOINTS if row.metric == definition.code]
            for definition in LAUNCHDARKLY.metrics
        }

    def test_names_every_code_of_an_error(self) -> None:
        told = re.findall(r"(\d{3}) `(\w+)`", self.TEXT)

        assert [status for status, _ in told] == ["400", "401", "403", "404", "405", "429", "500", "503"]
        for status, code in told:
            assert answer_error(error_with(int(status))).body["code"] == code


def error_with(status: int) -> ApplicationError:
    error = ApplicationError("No.")
    error.status = status
    return error


class TestInstalling:
    def test_creates_ordinary_metrics_once(self, api_client: Client) -> None:
        answers = [api_client.post("/v1/catalogs/launchdarkly/install").json() for _ in range(2)]

        assert [metric["code"] for metric in answers[0]["metrics"]] == list(COUNTED)
        assert answers[0] == answers[1]
        listed = {metric["code"]: metric for metric in api_client.get("/v1/metrics").json()["data"]}
        assert set(listed) == set(COUNTED)
        for metric in listed.values():
            assert metric["event_type"] == metric["code"]
            assert all((metric["name"], metric["description"], metric["unit"]))

    def test_metrics_serve_every_endpoint_with_the_dimensions_it_reads(self) -> None:
        dimensions = {
            definition.code: {dimension["key"] for dimension in definition.dimensions}
            for definition in LAUNCHDARKLY.metrics
        }

        for endpoint in ENDPOINTS:
            assert endpoint.dimensions <= dimensions[endpoint.metric], endpoint.path
        assert {endpoint.metric for endpoint in ENDPOINTS} == set(dimensions)


class TestValues:
    """Where reports know a fixed set of values, other values are refused: no report would show them."""

    @pytest.mark.parametrize(
        ("code", "key", "values"),
        [
            ("ld_contexts", "anonymous", ["true", "false", True, False]),
            ("ld_contexts", "category", ["browser", "mobile", "backend"]),
            ("ld_contexts", "sdkType", ["client", "server"]),
            ("ld_events", "direction", ["received", "published"]),
            ("ld_streams", "source", ["client", "server", "browser", "mobile"]),
        ],
    )
    def test_fixed_sets(self, api_client: Client, code: str, key: str, values: list[Any]) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")
        event = example_of(code)
        numbers = itertools.count()

        def event_with(value: Any) -> dict[str, Any]:
            properties = event["properties"] | {key: value}
            return event | {"idempotency_key": f"k{next(numbers)}", "properties": properties}

        assert send(api_client, *map(event_with, values))["stored"] == len(values)
        [refused] = send(api_client, event_with("nonsense"))["errors"]
        assert (refused["code"], refused["field"]) == ("invalid_dimension_value", f"properties.{key}")

    def test_absent_values_are_welcome(self, api_client: Client) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")

        told = send(
            api_client,
            {"customer": "acme", "type": "ld_contexts", "properties": {"contextKey": "u1"}},
            {"customer": "acme", "type": "ld_streams", "value": 2},
        )

        assert (told["stored"], told["errors"]) == (2, [])
        assert (usage(api_client, "ld_contexts"), usage(api_client, "ld_streams")) == ("1", "2")

    def test_keys_of_any_characters_are_the_senders_own(self, api_client: Client) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")
        event = example_of("ld_evaluations")
        event["properties"] = event["properties"] | {"flagKey": "neu/ä ♥", "projectKey": "not registered"}

        assert send(api_client, event)["stored"] == 1
        assert usage(api_client, "ld_evaluations", **{"filter[flagKey]": "neu/ä ♥"}) == "1200"

    def test_one_context_in_many_places_is_one(self, api_client: Client) -> None:
        api_client.post("/v1/catalogs/launchdarkly/install")
        event = example_of("ld_contexts")
        events = [
            event | {"idempotency_key": project, "properties": event["properties"] | {"projectKey": project}}
            for project in ("web", "app", "api")
        ]

        assert send(api_client, *events)["stored"] == 3
        assert usage(api_client, "ld_contexts") == "1"
        assert usage(api_client, "ld_contexts", **{"filter[projectKey]": "web"}) == "1"
