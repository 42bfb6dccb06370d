"""Errors, keys and rate limits under `/api/v2/`, as LaunchDarkly's clients know them: whatever refused, and why."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import BadRequest as DjangoBadRequest
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseForbidden
from django.test import Client
from django.urls import include, path
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.domain import RateVerdict, Scope
from accounts.models import Organization, User
from accounts.services import IssuedKey, revoke_api_key, update_organization
from common import errors
from tests import factories
from usage_reports.launchdarkly.authentication import KeyAuthentication, read_key, tell_rate

JSON = "application/json"
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

FAILURES: dict[str, Exception] = {
    "bad-request": errors.BadRequest("That is wrong."),
    "invalid": errors.InvalidInput.of("to", "That is wrong."),
    "drf-invalid": ValidationError({"to": "That is wrong."}),
    "django-invalid": DjangoBadRequest("That is wrong."),
    "not-authenticated": errors.NotAuthenticated("Who are you?"),
    "refused": errors.PermissionRefused("You may not."),
    "django-refused": PermissionDenied("You may not."),
    "not-found": errors.NotFound("There is none."),
    "django-not-found": Http404("There is none."),
    "too-many": errors.TooManyRequests("Slower.", headers={"Retry-After": "7", "X-Ratelimit-Auth-Token-Limit": "5"}),
    "conflict": errors.Conflict("There is another."),
    "bug": RuntimeError("secret of ours"),
    "database": OperationalError("password of ours"),
}
# What becomes of each: status and code.
ANSWERS = {
    "bad-request": (400, "invalid_request"),
    "invalid": (400, "invalid_request"),
    "drf-invalid": (400, "invalid_request"),
    "django-invalid": (400, "invalid_request"),
    "not-authenticated": (401, "unauthorized"),
    "refused": (403, "forbidden"),
    "django-refused": (403, "forbidden"),
    "not-found": (404, "not_found"),
    "django-not-found": (404, "not_found"),
    "too-many": (429, "rate_limited"),
    "conflict": (409, "invalid_request"),
    "bug": (500, "internal_error"),
    "database": (503, "service_unavailable"),
}


class ReportView(CallerView):
    """Fails as it is asked to, or tells who calls."""

    authentication_classes = [KeyAuthentication]
    scopes = {"GET": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"GET"})

    def get(self, request: Request, failure: str) -> Response:
        if failure in FAILURES:
            raise FAILURES[failure]
        return Response({"organization": self.caller.organization.name})


def fail_outside_drf(request: HttpRequest, failure: str) -> HttpResponse:
    if failure in FAILURES:
        raise FAILURES[failure]
    return HttpResponseForbidden("<h1>no</h1>")


urlpatterns = [
    path("api/v2/reports/<str:failure>", ReportView.as_view()),
    path("api/v2/plain/<str:failure>", fail_outside_drf),
    path("", include("config.urls")),
]


def assert_error(answer: Any, status: int, code: str) -> str:
    """Check the whole shape; return the message."""
    assert (answer.status_code, answer["Content-Type"]) == (status, JSON), answer.content
    body = answer.json()
    assert set(body) == {"code", "message"}
    assert body["code"] == code
    assert body["message"]
    assert "Retry-After" not in answer.headers
    return str(body["message"])


@pytest.fixture
def client_with(client: Client) -> Callable[[str], Client]:
    """Return a maker of clients that send this as their whole `Authorization`."""

    def make(authorization: str) -> Client:
        return Client(raise_request_exception=False, headers={"Authorization": authorization})

    return make


class TestShape:
    @pytest.mark.parametrize("place", ["reports", "plain"])
    @pytest.mark.parametrize("failure", FAILURES)
    def test_every_failure_has_code_and_message_alone(self, api_client: Client, place: str, failure: str) -> None:
        if place == "plain" and failure == "drf-invalid":
            return  # nobody raises DRF's errors outside it
        answer = api_client.get(f"/api/v2/{place}/{failure}")

        message = assert_error(answer, *ANSWERS[failure])
        assert "of ours" not in message

    def test_native_paths_keep_their_own_shape(self, api_client: Client) -> None:
        answer = api_client.get("/v1/customers/nobody")

        assert (answer.status_code, set(answer.json())) == (404, {"code", "message", "errors"})
        assert api_client.get("/v1/metrics?limit=x").status_code == 422

    def test_pages_stay_pages(self, api_client: Client) -> None:
        assert api_client.get("/nothing/here")["Content-Type"].startswith("text/html")

    def test_message_says_which_parameter(self, api_client: Client) -> None:
        assert assert_error(api_client.get("/api/v2/reports/fine?x=1"), 400, "invalid_request").startswith("x: ")

    def test_own_headers_of_an_error_stay(self, api_client: Client) -> None:
        assert api_client.get("/api/v2/reports/too-many")["X-Ratelimit-Auth-Token-Limit"] == "5"


class TestFramework:
    @pytest.mark.parametrize("place", ["", "nothing", "usage/", "usage/nothing", "usage/../usage", "projects/a b%00"])
    def test_unknown_path_is_404(self, api_client: Client, client: Client, place: str) -> None:
        for visitor in (api_client, client):
            assert_error(visitor.get(f"/api/v2/{place}"), 404, "not_found")

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "NONSENSE"])
    def test_other_methods_are_405_and_told_which_there_are(self, api_client: Client, method: str) -> None:
        answer = api_client.generic(method, "/api/v2/reports/fine", "{}", content_type=JSON)

        assert_error(answer, 405, "method_not_allowed")
        assert set(answer["Allow"].split(", ")) == {"GET", "HEAD"}

    def test_refusal_in_html_is_turned_into_json(self, api_client: Client) -> None:
        assert_error(api_client.get("/api/v2/plain/html"), 403, "forbidden")

    def test_host_that_is_not_ours_is_400(self, api_client: Client, settings: LazySettings) -> None:
        settings.ALLOWED_HOSTS = ["meterbook.test"]

        assert_error(api_client.get("/api/v2/reports/fine", headers={"Host": "evil.test"}), 400, "invalid_request")

    def test_more_parameters_than_anybody_has_are_400(self, api_client: Client) -> None:
        query = "&".join(f"p{number}=1" for number in range(1001))

        assert_error(api_client.get(f"/api/v2/reports/fine?{query}"), 400, "invalid_request")

    def test_no_answer_to_a_head_has_a_body(self, api_client: Client) -> None:
        assert api_client.head("/api/v2/reports/fine").status_code == 200
        assert api_client.head("/api/v2/reports/not-found").content == b""


class TestKey:
    @pytest.mark.parametrize("form", ["{key}", "Bearer {key}", "bearer {key}", " {key} ", "Bearer  {key}"])
    def test_key_alone_or_after_the_word_bearer(
        self, client_with: Callable[[str], Client], api_key: IssuedKey, form: str
    ) -> None:
        answer = client_with(form.format(key=api_key.text)).get("/api/v2/reports/fine")

        assert (answer.status_code, answer.json()) == (200, {"organization": "Initech"})

    @pytest.mark.parametrize(
        "header",
        ["", " ", "Bearer", "Bearer ", "mb_x", "mb_abc_def", "api-0000", "Basic {key}", "{key} {key}", "ä", "\x00"],
    )
    def test_anything_else_is_401(self, client_with: Callable[[str], Client], api_key: IssuedKey, header: str) -> None:
        answer = client_with(header.format(key=api_key.text)).get("/api/v2/reports/fine")

        assert_error(answer, 401, "unauthorized")
        assert answer["WWW-Authenticate"] == "Bearer"

    def test_no_header_is_401(self, client: Client) -> None:
        assert_error(client.get("/api/v2/reports/fine"), 401, "unauthorized")

    def test_session_is_no_key(self, client: Client, org: Organization, alice: User) -> None:
        client.force_login(alice)

        assert_error(client.get("/api/v2/reports/fine"), 401, "unauthorized")

    def test_bare_key_is_for_these_paths_alone(self, client_with: Callable[[str], Client], api_key: IssuedKey) -> None:
        assert client_with(api_key.text).get("/v1/organization").status_code == 401

    def test_expired_and_revoked_keys_are_401(self, client_with: Callable[[str], Client], org: Organization) -> None:
        now = datetime.now(UTC)
        expired = factories.make_api_key(organization=org, expires_at=now - timedelta(seconds=1))
        revoked = factories.make_api_key(organization=org)
        revoke_api_key(organization=org, actor="test", api_key=revoked.api_key, now=now)

        for key in (expired, revoked):
            assert_error(client_with(key.text).get("/api/v2/reports/fine"), 401, "unauthorized")

    def test_key_without_the_scope_is_403(self, client_with: Callable[[str], Client], org: Organization) -> None:
        writer = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,))

        assert_error(client_with(writer.text).get("/api/v2/reports/fine"), 403, "forbidden")

    def test_vendors_version_header_changes_nothing(self, api_client: Client) -> None:
        for version in ("20240415", "beta", "nonsense"):
            assert api_client.get("/api/v2/reports/fine", headers={"LD-API-Version": version}).status_code == 200

    @pytest.mark.parametrize(
        ("header", "key"),
        [("k", "k"), ("Bearer k", "k"), ("BEARER  k ", "k"), ("bearer", ""), ("Basic k", "Basic k"), ("  ", "")],
    )
    def test_what_the_header_says(self, header: str, key: str) -> None:
        assert read_key(header) == key


class TestRateLimit:
    def test_every_answer_tells_what_is_left(self, api_client: Client, org: Organization) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 3})

        before = time.time()
        answers = [api_client.get(f"/api/v2/reports/{name}") for name in ("fine", "not-found", "fine", "fine")]

        assert [answer.status_code for answer in answers] == [200, 404, 200, 429]
        assert [answer["X-Ratelimit-Auth-Token-Limit"] for answer in answers] == ["3"] * 4
        assert [answer["X-Ratelimit-Auth-Token-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        for answer in answers:
            milliseconds = int(answer["X-Ratelimit-Auth-Token-Reset"])
            assert before * 1000 < milliseconds <= (time.time() + 120) * 1000
        assert_error(answers[-1], 429, "rate_limited")

    def test_native_names_are_for_native_paths(self, api_client: Client, org: Organization) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 1})

        native = [api_client.get("/v1/organization") for _ in range(2)][-1]
        ours = api_client.get("/api/v2/reports/fine")

        assert (native.status_code, ours.status_code) == (429, 429)  # one share, whichever way it is used
        assert "Retry-After" in native.headers
        assert "X-Ratelimit-Auth-Token-Limit" not in native.headers
        assert not {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After"} & set(ours.headers)

    def test_without_a_limit_nothing_is_told(self, api_client: Client) -> None:
        assert not [name for name in api_client.get("/api/v2/reports/fine").headers if "ratelimit" in name.lower()]

    @pytest.mark.parametrize(
        ("verdict", "reset"),
        [
            # 12:00:17.5, admitted: the count begins to fall at the minute's end.
            (RateVerdict(True, 10, 4, 43), "1777636860000"),
            # Refused: the next request fits at 12:00:20.
            (RateVerdict(False, 10, 0, 43, 3), "1777636820000"),
        ],
    )
    def test_reset_is_a_moment_in_milliseconds(self, verdict: RateVerdict, reset: str) -> None:
        told = tell_rate(verdict, datetime(2026, 5, 1, 12, 0, 17, 500_000, tzinfo=UTC))

        assert told["X-Ratelimit-Auth-Token-Reset"] == reset
