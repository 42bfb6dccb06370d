"""Keys bound to one customer or to metrics: they send and see that alone, and everything else is absent to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import Customer
from tests.api.conftest import Api
from tests.metering.meter import Meter

pytestmark = pytest.mark.django_db


def event(key: str, customer: str, metric: str = "m", value: int = 1) -> dict[str, Any]:
    return {"idempotency_key": key, "customer": customer, "metric": metric, "value": value}


@pytest.fixture(autouse=True)
def _two_customers_and_metrics(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region"])
    meter.define("other", "sum")
    meter.send_all(event("ann 1", "ann", value=1), event("bob 1", "bob", value=10), event("ann 2", "ann", "other", 100))


@pytest.fixture
def ann(api_with: Callable[..., Api], meter: Meter) -> Api:
    """A caller bound to the customer ann."""
    customer = Customer.objects.for_organization(meter.organization).get(external_id="ann")
    return api_with("events:write", "usage:read", "metrics:write", customer=customer)


@pytest.fixture
def of_metric(api_with: Callable[..., Api]) -> Api:
    """A caller bound to the metric m."""
    return api_with("events:write", "usage:read", "metrics:write", metric_codes=("m",))


class TestBoundToACustomer:
    def test_it_sends_for_its_customer_alone(self, ann: Api, meter: Meter) -> None:
        answer = ann.post("/v1/events", [event("new", "ann"), event("forged", "bob")])

        assert answer["stored"] == 1
        assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, "invalid_customer")]
        assert ann.refuse("POST", "/v1/events?durability=async", event("forged", "bob"))[:2] == (
            422,
            "invalid_customer",
        )

    def test_it_reads_its_customer_without_naming_it(self, ann: Api) -> None:
        answer = ann.get("/v1/usage/realtime", metric="m")

        assert (answer["customer"], answer["value"]) == ("ann", "1")
        assert ann.get("/v1/usage/realtime", metric="m", customer="ann")["value"] == "1"
        [row] = ann.get("/v1/usage/breakdown", metric="m", group_by="customer")["rows"]
        assert (row["group"], row["value"]) == ({"customer": "ann"}, "1")
        [line] = ann.get("/v1/usage/series", metric="m")["series"]
        assert sum(int(value) for _, value in line["points"]) == 1

    def test_other_customers_are_absent(self, ann: Api) -> None:
        for path in ("/v1/usage", "/v1/usage/realtime", "/v1/usage/series"):
            assert ann.refuse("GET", path, query={"metric": "m", "customer": "bob"})[:2] == (404, "not_found")
        assert ann.refuse("GET", "/v1/events", query={"customer": "bob"})[:2] == (404, "not_found")
        assert ann.refuse("GET", "/v1/events/bob%201")[:2] == (404, "not_found")
        assert [found["customer"] for found in ann.get("/v1/events")["data"]] == ["ann", "ann"]

    def test_it_takes_nothing_back_and_changes_nothing(self, ann: Api) -> None:
        for method, path, body in [
            ("POST", "/v1/events/ann%201/void", {"reason": "x"}),
            ("POST", "/v1/events/ann%201/replace", {**event("n", "ann"), "reason": "x"}),
            ("GET", "/v1/inbox", None),
            ("POST", "/v1/inbox/replay", {}),
            ("POST", "/v1/metrics", {"code": "x", "aggregation": "sum"}),
            ("PATCH", "/v1/metrics/m", {"name": "x"}),
            ("DELETE", "/v1/metrics/m", None),
        ]:
            assert ann.refuse(method, path, body)[:2] == (403, "bound_key"), path

    def test_its_unmatched_events_do_not_reach_the_inbox(self, ann: Api, api: Api, meter: Meter) -> None:
        """A replay knows no bounds, and would count what the key may not send."""
        meter.organization.is_unmatched_kept = True
        meter.organization.save()

        ann.post("/v1/events", event("new", "ann", "unknown"), status=422)

        assert api.get("/v1/inbox")["data"] == []


class TestBoundToMetrics:
    def test_it_sends_what_feeds_its_metrics_alone(self, of_metric: Api) -> None:
        answer = of_metric.post("/v1/events", [event("new", "ann"), event("forged", "ann", "other")])

        assert answer["stored"] == 1
        assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, "unknown_metric")]

    def test_it_sees_its_metrics_alone(self, of_metric: Api) -> None:
        assert [metric["code"] for metric in of_metric.get("/v1/metrics")["data"]] == ["m"]
        assert of_metric.get("/v1/usage/realtime", metric="m")["value"] == "11"
        for path, query in [
            ("/v1/metrics/other", {}),
            ("/v1/usage", {"metric": "other"}),
            ("/v1/usage/series", {"metric": "other"}),
            ("/v1/events", {"metric": "other"}),
            ("/v1/events/ann%202", {}),
        ]:
            assert of_metric.refuse("GET", path, query=query)[:2] == (404, "not_found")

    def test_it_names_the_metric_whose_events_it_lists(self, of_metric: Api) -> None:
        assert of_metric.refuse("GET", "/v1/events")[::2] == (422, ["metric"])
        assert len(of_metric.get("/v1/events", metric="m")["data"]) == 2
