"""Every row of the client's table of statuses: what it makes of our answers, and of what we must never answer."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from accounts.models import Organization, Scope
from accounts.services import IssuedKey, update_organization
from common.errors import (
    ApplicationError,
    BadRequest,
    Conflict,
    InvalidInput,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    PermissionRefused,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)
from metering.dialects.influx.api import views
from metering.dialects.influx.errors import answer_error
from tests import factories
from tests.dialects.influx.conftest import SERVER, Post
from tests.dialects.influx.usage_client import SimpleError, Success, Undecodable, ValidationErrors, Verdict, judge


class TestModel:
    """The model of the client against what was observed of the real one."""

    @pytest.mark.parametrize("status", [200, 201, 202, 204, 400, 403, 405, 409, 413, 415, 429, 502, 503])
    @pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": "lost"}'])
    def test_every_other_status_is_success_whatever_the_body(self, status: int, body: bytes) -> None:
        assert judge(status, body) == Success()

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_three_are_simple_errors(self, status: int) -> None:
        assert judge(status, b'{"error": "why", "errors": {"a": ["b"]}, "code": "c"}') == SimpleError("why")
        assert judge(status, b'{"detail": "Not found."}') == SimpleError("")

    def test_one_is_validation_errors(self) -> None:
        assert judge(422, b'{"errors": {"host": ["why"]}, "error": "why"}') == ValidationErrors({"host": ["why"]})
        assert judge(422, b'{"detail": "why"}') == ValidationErrors(None)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": {}}', b'{"errors": {"host": "why"}}'])
    def test_bodies_that_break_the_client(self, body: bytes) -> None:
        status = 422 if b"errors" in body else 500
        with pytest.raises(Undecodable):
            judge(status, body)


REFUSALS: list[tuple[ApplicationError, int]] = [
    (NotAuthenticated("m"), 401),
    (PermissionRefused("m"), 401),
    (NotFound("m"), 404),
    (MethodNotAllowed("m"), 404),
    (BadRequest("m"), 422),
    (Conflict("m"), 422),
    (TooLarge("m"), 422),
    (UnsupportedMediaType("m"), 422),
    (InvalidInput.of("host", "m"), 422),
    (TooManyRequests("m"), 500),
    (Unavailable("m"), 500),
]


@pytest.mark.parametrize(("error", "status"), REFUSALS, ids=lambda case: getattr(case, "code", None))
def test_every_refusal_becomes_one_that_the_client_notices(error: ApplicationError, status: int) -> None:
    answer = answer_error(error)

    assert answer.status == status
    assert answer.headers == {"Connection": "close"}
    if status == 422:
        assert set(answer.body["errors"]) == {"host" if error.errors else "body"}
    else:
        assert answer.body["error"] == "m"


@pytest.mark.django_db
class TestAnswers:
    def verdict(self, response: Any, status: int) -> Verdict:
        assert response.status_code == status, response.content
        return judge(response.status_code, response.content)

    def test_what_was_stored_is_success(self, post: Post) -> None:
        assert self.verdict(post("/servers", SERVER), 201) == Success()
        assert self.verdict(post("/servers", SERVER, token=None), 201) == Success()

    def test_a_bad_token_is_a_simple_error(self, post: Post, org: Organization) -> None:
        weak = factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,))
        assert self.verdict(post("/servers", SERVER, token="x"), 401) == SimpleError("This API key is not valid.")
        assert self.verdict(post("/servers", SERVER, token=weak.text), 401) == SimpleError(
            "This needs the scope events:write."
        )

    def test_a_bad_report_is_validation_errors(self, post: Post) -> None:
        assert self.verdict(post("/servers", SERVER | {"host": ""}), 422) == ValidationErrors(
            {"host": ["Host can not be blank."]}
        )

    def test_a_wrong_address_is_a_simple_error(self, post: Post) -> None:
        assert self.verdict(post("/server", SERVER), 404) == SimpleError("There is nothing at this address.")

    def test_a_limit_is_a_simple_error_and_never_the_429_that_reads_as_success(
        self, post: Post, org: Organization
    ) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 1})
        post("/servers", SERVER)

        response = post("/servers", SERVER)

        assert self.verdict(response, 500) == SimpleError("This key may send 1 requests a minute.")
        assert "Retry-After" not in response

    @pytest.mark.parametrize("failure", [OperationalError("gone"), RuntimeError("secret detail")])
    def test_a_failure_is_a_simple_error_without_details(
        self, post: Post, monkeypatch: pytest.MonkeyPatch, failure: Exception
    ) -> None:
        def fail(**_: Any) -> None:
            raise failure

        monkeypatch.setattr(views, "store_reports", fail)

        told = self.verdict(post("/servers", SERVER), 500)

        assert isinstance(told, SimpleError)
        assert told.message
        assert str(failure) not in told.message

    def test_nothing_redirects(self, client: Client, api_key: IssuedKey, settings: Any) -> None:
        """A redirect would turn the report into a GET without a body."""
        for is_debugging in (False, True):
            settings.DEBUG = is_debugging
            for path in ("/api/v1/servers", "/api/v1/usage", "/api/v1/stats", "/api/v1/usage/p", "/api/v1/nothing"):
                assert client.post(path, SERVER, content_type="application/json").status_code in {201, 404, 422}
