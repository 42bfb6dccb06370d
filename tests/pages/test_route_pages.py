"""Pages of routes: defining how requests are metered, and the check of an expression that is being typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from metering.dialects.gateway.models import Route
from metering.dialects.gateway.services.settings import get_settings
from tests.pages.conftest import form_errors, page_of, text_of

pytestmark = pytest.mark.django_db

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]

FORM = {"metering_mode": "request", "on_metering_error": "reject"}
EXPRESSION = "request.body.items.length * 0.5"


def make_routes(org: Organization, *codes: str, **fields: Any) -> None:
    Route.objects.bulk_create(Route(organization=org, code=code, name=f"Route {code}", **fields) for code in codes)


class TestList:
    def test_shows_how_each_is_metered(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, "a", path_pattern="/users/{id}", method="GET", path_shape="/users/{}")
        make_routes(org, "b", metering_mode="custom", metering_expr=EXPRESSION, on_metering_error="zero")

        answer = browser.get(page_url("routes/"))

        text = " ".join(re.sub(r"<[^>]+>", " ", text_of(answer)).split())
        assert "Route a a /users/{id} GET one per request" in text
        assert f"Route b b those that name it expression, else none {EXPRESSION}" in text

    def test_is_empty_at_first_and_says_what_to_do(self, browser: Client, page_url: PageUrl) -> None:
        text = text_of(browser.get(page_url("routes/")))

        assert "Every request is one unit" in text
        assert "POST /v1/requests" in text

    def test_goes_on_by_pages(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, *(f"r{number:03}" for number in range(60)))

        first = page_of(browser.get(page_url("routes/")))
        second = page_of(browser.get(first.next_url))

        assert [row.code for row in first.rows + second.rows] == [f"r{number:03}" for number in range(60)]
        assert (second.next_url, second.first_url) == ("", page_url("routes/"))

    def test_takes_as_many_queries_for_many_as_for_one(
        self, browser: Client, page_url: PageUrl, count_queries: CountQueries, org: Organization
    ) -> None:
        make_routes(org, "a")
        few = count_queries(browser, page_url("routes/"))
        make_routes(org, *"bcdefgh")

        assert count_queries(browser, page_url("routes/")) == few

    def test_offers_no_changes_to_those_who_may_only_look(
        self, viewers_browser: Client, page_url: PageUrl, org: Organization
    ) -> None:
        make_routes(org, "a")

        answer = viewers_browser.get(page_url("routes/"))

        assert "Route a" in text_of(answer)
        assert "routes/a/edit" not in answer.content.decode()
        assert viewers_browser.get(page_url("routes/new")).status_code == 403
        assert viewers_browser.post(page_url("routes/a/delete")).status_code == 403
        assert viewers_browser.post(page_url("routes/check"), FORM).status_code == 403


class TestForm:
    def test_creates(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        form = {"name": "Bulk", "method": "post", "path_pattern": "/bulk/{id}", "on_metering_error": "one"}

        answer = browser.post(page_url("routes/new"), form | {"metering_mode": "custom", "metering_expr": EXPRESSION})

        assert answer.headers["Location"] == page_url("routes/")
        route = Route.objects.for_organization(org).get()
        assert (route.name, route.method, route.path_shape) == ("Bulk", "POST", "/bulk/{}")
        assert (route.metering_mode, route.metering_expr, route.on_metering_error) == ("custom", EXPRESSION, "one")

    def test_shows_what_is_refused_at_its_field(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, "taken")

        def errors(**fields: str) -> dict[str, list[str]]:
            return form_errors(browser.post(page_url("routes/new"), FORM | fields))

        assert errors(metering_mode="custom", metering_expr="1 +") == {
            "metering_expr": ["Column 4: The expression ends too early."]
        }
        assert errors(id="taken") == {"id": ["Another route is called so."]}
        assert list(errors(path_pattern="users")) == ["path_pattern"]
        assert list(errors(method="GET POST")) == ["method"]
        assert list(errors(metering_expr="1")) == ["metering_expr"]
        assert list(errors(metric="none")) == ["metric"]

    def test_changes_all_but_the_id(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, "a", metering_mode="custom", metering_expr="1")

        shown = page_of(browser.get(page_url("routes/a/edit"))).form
        answer = browser.post(page_url("routes/a/edit"), FORM | {"id": "b", "name": "New", "metering_mode": "bytes"})

        assert shown.initial["metering_expr"] == "1"
        assert answer.status_code == 302
        route = Route.objects.for_organization(org).get()
        assert (route.code, route.name, route.metering_mode, route.metering_expr) == ("a", "New", "bytes", "")

    def test_deletes(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, "a")

        assert browser.post(page_url("routes/a/delete")).status_code == 302
        assert not Route.objects.for_organization(org).exists()
        assert browser.get(page_url("routes/a/edit")).status_code == 404


class TestCheck:
    @pytest.fixture
    def check(self, browser: Client, page_url: PageUrl) -> Callable[..., str]:
        def check(expression: str, mode: str = "custom", **sample: str) -> str:
            form = {"metering_mode": mode, "metering_expr": expression} | sample
            answer = browser.post(page_url("routes/check"), form)
            assert answer.status_code == 200
            return " ".join(answer.content.decode().split())

        return check

    def test_says_what_is_wrong_and_where(self, check: Callable[..., str]) -> None:
        assert check("1 + tokens").startswith('<div class="notice is-error">Column 5: tokens is not known')
        assert "Column 1: The mode response_field takes one field" in check("1", mode="response_field")

    def test_tries_the_expression_with_the_sample(self, check: Callable[..., str]) -> None:
        assert "can be saved" in check(EXPRESSION)
        assert "With this sample: 1.5<" in check(EXPRESSION, sample_request='{"items": [1, 2, 3]}')
        assert "With this sample: 14<" in check("response.bytes + latency_ms / 100", sample_response='{"a": [1, 2]}')
        assert "No number with this sample (missing_field)" in check(EXPRESSION, sample_request="{}")
        assert "No number with this sample (invalid_body)" in check(EXPRESSION, sample_request="{items}")

    def test_says_nothing_where_there_is_nothing_to_say(self, check: Callable[..., str]) -> None:
        assert check("") == check("  ") == check("1 +", mode="bytes") == check("1", mode="none") == ""
        assert check(EXPRESSION, sample_request="x" * 20_001) == ""

    def test_text_of_an_expression_stays_text(self, check: Callable[..., str]) -> None:
        assert "<script>" not in check("<script>alert(1)</script>")
        assert "&lt;script&gt;" in check("<script>alert(1)</script>")

    def test_is_shown_with_the_form_at_once(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        make_routes(org, "a", metering_mode="custom", metering_expr=EXPRESSION)

        assert "The expression can be saved" in text_of(browser.get(page_url("routes/a/edit")))


class TestSettings:
    def test_are_shown_and_changed(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        form = page_of(browser.get(page_url("request-tracking/"))).form

        assert form.initial.items() >= {"usage_store_ip": "truncated", "usage_batch_size": 100}.items()
        answer = browser.post(page_url("request-tracking/"), form.initial | {"usage_store_ip": "off"})
        assert answer.status_code == 302
        assert get_settings(org).usage_store_ip == "off"
        assert get_settings(org).usage_store_path

    def test_say_what_is_wrong_at_their_fields(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        form = page_of(browser.get(page_url("request-tracking/"))).form

        answer = browser.post(page_url("request-tracking/"), form.initial | {"usage_retention_days": "0"})

        assert list(form_errors(answer)) == ["usage_retention_days"]
        assert get_settings(org).usage_retention_days == 30

    def test_are_for_administrators(self, viewers_browser: Client, page_url: PageUrl) -> None:
        assert viewers_browser.get(page_url("request-tracking/")).status_code == 403
