"""What every endpoint of metering does alike: strict input, one error shape, scopes, methods, types, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from django.test import Client

from accounts.models import Scope
from common.api import MAX_BODY_BYTES
from metering.api import ingest
from tests.api.conftest import Api
from tests.metering.meter import Meter

pytestmark = pytest.mark.django_db


class Endpoint(NamedTuple):
    """One method of a route, with the least that it takes."""

    method: str
    path: str
    scope: Scope
    body: Any = None
    query: dict[str, str] = {}

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


EVENT = {"idempotency_key": "new", "customer": "ann", "type": "m"}
METRIC = {"code": "new", "aggregation": "sum"}
READ = {"metric": "m"}
ENDPOINTS = [
    Endpoint("POST", "/v1/events", Scope.EVENTS_WRITE, EVENT),
    Endpoint("POST", "/v1/events/validate", Scope.EVENTS_WRITE, EVENT),
    Endpoint("GET", "/v1/events", Scope.USAGE_READ),
    Endpoint("GET", "/v1/events/k", Scope.USAGE_READ),
    Endpoint("POST", "/v1/events/k/void", Scope.EVENTS_WRITE, {"reason": "wrong"}),
    Endpoint("POST", "/v1/events/k/replace", Scope.EVENTS_WRITE, {**EVENT, "reason": "wrong"}),
    Endpoint("GET", "/v1/inbox", Scope.USAGE_READ),
    Endpoint("POST", "/v1/inbox/replay", Scope.EVENTS_WRITE, {}),
    Endpoint("POST", "/v1/inbox/discard", Scope.EVENTS_WRITE, {}),
    Endpoint("GET", "/v1/metrics", Scope.USAGE_READ),
    Endpoint("POST", "/v1/metrics", Scope.METRICS_WRITE, METRIC),
    Endpoint("GET", "/v1/metrics/m", Scope.USAGE_READ),
    Endpoint("PATCH", "/v1/metrics/m", Scope.METRICS_WRITE, {"name": "M"}),
    Endpoint("DELETE", "/v1/metrics/m", Scope.METRICS_WRITE),
    Endpoint("GET", "/v1/catalogs", Scope.USAGE_READ),
    Endpoint("POST", "/v1/catalogs/demo/install", Scope.METRICS_WRITE),
    Endpoint("GET", "/v1/usage", Scope.USAGE_READ, query=READ),
    Endpoint("GET", "/v1/usage/realtime", Scope.USAGE_READ, query=READ),
    Endpoint("GET", "/v1/usage/breakdown", Scope.USAGE_READ, query={**READ, "group_by": "customer"}),
    Endpoint("GET", "/v1/usage/series", Scope.USAGE_READ, query=READ),
]
WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.body is not None]
INGEST = ("/v1/events", "/v1/events/validate")


@pytest.fixture(autouse=True)
def _one_metric_and_event(meter: Meter) -> None:
    meter.define("m", "count")
    meter.send_all({"idempotency_key": "k", "customer": "ann", "type": "m"})


def call(api: Api, endpoint: Endpoint, **changes: Any) -> Any:
    options = {"body": endpoint.body, "query": endpoint.query, **changes}
    return api.call(endpoint.method, endpoint.path, **options)


every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
every_body = pytest.mark.parametrize("endpoint", WITH_BODY, ids=str)


@every_endpoint
def test_the_least_it_takes_is_taken(api: Api, endpoint: Endpoint) -> None:
    assert call(api, endpoint).status_code in {200, 201, 204}


@every_endpoint
def test_its_scope_opens_it_and_no_other_does(api_with: Callable[..., Api], endpoint: Endpoint) -> None:
    others = [scope for scope in Scope if scope not in {endpoint.scope, Scope.ADMIN}]

    refused = call(api_with(*others), endpoint)

    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    assert call(api_with(endpoint.scope), endpoint).status_code in {200, 201, 204}


@every_endpoint
def test_without_a_valid_key_it_answers_401(client: Client, endpoint: Endpoint) -> None:
    for header in (None, "Bearer", "Bearer mb_none_of_these", "Basic YTpi", "Bearer \x00", "Bearer mb_a_b mb_c_d"):
        headers = {} if header is None else {"Authorization": header}

        response = Api(client).call(endpoint.method, endpoint.path, endpoint.body, query=endpoint.query, **headers)

        assert (response.status_code, response.json()["code"]) == (401, "not_authenticated"), header
        assert response["WWW-Authenticate"] == "Bearer"


@every_endpoint
def test_unknown_parameters_are_named(api: Api, endpoint: Endpoint) -> None:
    response = call(api, endpoint, query={**endpoint.query, "surprise": "1", "another": "2"})

    assert response.status_code == 422
    assert {error["field"] for error in response.json()["errors"]} == {"surprise", "another"}


@every_body
def test_unknown_fields_are_named(api: Api, endpoint: Endpoint) -> None:
    response = call(api, endpoint, body={**endpoint.body, "surprise": 1})

    assert response.status_code == 422
    assert any("surprise" in error["field"] + error["message"] for error in response.json()["errors"])


@every_body
def test_a_body_that_is_no_json_is_400_with_the_position(api: Api, endpoint: Endpoint) -> None:
    answer = call(api, endpoint, body=b'{"reason": oops}').json()

    assert answer["code"] == "malformed_json"
    assert answer["position"] == 11


@every_body
def test_a_body_of_another_type_is_415(api: Api, endpoint: Endpoint) -> None:
    response = call(api, endpoint, body=b"reason=wrong", content_type="application/x-www-form-urlencoded")

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@every_body
def test_an_unknown_encoding_is_415_and_says_which_are_known(api: Api, endpoint: Endpoint) -> None:
    response = call(api, endpoint, **{"Content-Encoding": "br"})

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_encoding")
    assert response["Accept-Encoding"] == "gzip, zstd, identity"


@every_body
def test_a_body_over_the_limit_is_413(api: Api, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_BODY_BYTES", MAX_BODY_BYTES)

    response = call(api, endpoint, body=b" " * MAX_BODY_BYTES + b"{}")

    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", sorted({endpoint.path for endpoint in ENDPOINTS}))
def test_other_methods_are_405_with_allow(api: Api, path: str) -> None:
    known = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - known:
        response = api.call(method, path)

        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed"), method
        assert known <= set(response["Allow"].replace(",", " ").split())


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/usage/", "/v1/metrics/m/more", "/v1/catalogs/none/install", "/v1/"]
)
def test_what_does_not_exist_is_404_in_json(api: Api, path: str) -> None:
    status, code, _ = api.refuse("POST" if path.endswith("install") else "GET", path)

    assert (status, code) == (404, "not_found")


ODD_TEXTS = ["\x00", "a\x00b", "%00", "\ud7ff\ue000", "😀" * 300, "..", "%", "'", "\\"]


def test_odd_text_in_a_path_or_a_parameter_is_only_not_found(api: Api) -> None:
    for text in ODD_TEXTS:
        path = quote(text, safe="")
        for response in (
            api.call("GET", f"/v1/events/{path}"),
            api.call("POST", f"/v1/events/{path}/void", {"reason": "x"}),
            api.call("POST", f"/v1/events/{path}/replace", {**EVENT, "reason": "x"}),
            api.call("GET", f"/v1/metrics/{path}"),
            api.call("GET", "/v1/usage", query={"metric": text}),
            api.call("GET", "/v1/usage", query={"metric": "m", "customer": text}),
            api.call("GET", "/v1/events", query={"customer": text}),
            api.call("GET", "/v1/events", query={"metric": text}),
        ):
            assert response.status_code in {404, 422}, text


LISTS = ["/v1/events", "/v1/metrics", "/v1/inbox"]


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_that_is_not_ours_is_refused(api: Api, path: str) -> None:
    for cursor in ("x", "W10", "e30", "!", "W1tdXQ", "Ww", "\x00", "WyJcdTAwMDAiXQ", "a" * 3000):
        assert api.refuse("GET", path, query={"cursor": cursor})[::2] == (422, ["cursor"]), cursor


@pytest.mark.parametrize("path", LISTS)
def test_a_limit_outside_1_to_1000_is_refused(api: Api, path: str) -> None:
    for limit in ("0", "1001", "-1", "1.5", "x", "", "1e2", "٣", "9" * 40):
        assert api.refuse("GET", path, query={"limit": limit})[::2] == (422, ["limit"]), limit
