"""`/start`: a person lets a product report to an organization of theirs, and the product gets a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from django.test import Client

from accounts.models import ApiKey, AuditEntry, Customer, Organization, Role, User
from metering.dialects.influx.redirects import parse_target
from metering.models import Event
from tests import factories
from tests.dialects.influx.conftest import SERVER, Post, usage_entry

ASKED = {"cluster_id": "clus1", "product": "chronograf"}
HOME = "http://example.com:8888/landing?source=a%20b&x=1#/done?y=2"


def start_url(**changes: str) -> str:
    """Return the address as the client makes it: keys in order, as of a form."""
    return f"/start?{urlencode(sorted((ASKED | changes).items()))}"


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


def token_of(response: Any) -> str:
    """Return the token in the address that a browser is sent to."""
    assert response.status_code == 302, response.content
    return dict(parse_qsl(urlsplit(response["Location"]).query))["token"]


class TestTargets:
    @pytest.mark.parametrize(
        ("url", "with_token"),
        [
            ("http://example.com", "http://example.com?token=T"),
            ("https://example.com/", "https://example.com/?token=T"),
            (HOME, "http://example.com:8888/landing?source=a%20b&x=1&token=T#/done?y=2"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a?token=T"),
            ("http://localhost/a?", "http://localhost/a?token=T"),
            ("http://localhost/a?b", "http://localhost/a?b&token=T"),
            ("http://localhost/?next=http%3A%2F%2Fother%2F", "http://localhost/?next=http%3A%2F%2Fother%2F&token=T"),
            # Whoever reads the first of two would take a token that somebody else put there.
            ("http://localhost/?token=theirs&%74oken=theirs&a=1", "http://localhost/?a=1&token=T"),
            ("HTTPS://Example.COM/Path", "https://Example.COM/Path?token=T"),
        ],
    )
    def test_keep_all_that_they_have(self, url: str, with_token: str) -> None:
        target = parse_target(url)
        assert target is not None
        assert target.with_token("T") == with_token

    @pytest.mark.parametrize(
        ("url", "source"),
        [
            ("https://Example.com:8443/a;b", "https://example.com:8443"),
            ("http://my_host:8888/", "http:"),
            ("https://example.com./", "https:"),
            ("http://[::1]:8080/", "http:"),
        ],
    )
    def test_are_named_in_policies(self, url: str, source: str) -> None:
        target = parse_target(url)
        assert target is not None
        assert target.source == source

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://example.com/",
            "//example.com/",
            "/path",
            "example.com",
            "http:",
            "http://",
            "http:///path",
            "http:example.com",
            "https:/example.com",
            "http://good.example@evil.example/",
            "http://good.example:pw@evil.example/",
            "http://evil.example\\@good.example/",
            "http://evil.example\\.good.example/",
            "http:\\\\evil.example/",
            "http://good.example\t.evil.example/",
            "http://good.example\r\nX-Header: y",
            " http://example.com/",
            "http://example.com/a b",
            "http://example.com:port/",
            "http://example.com:99999/",
            "http://example.com:/",
            "http://b\u00fccher.example/",
            "http://good.example\u2044.evil.example/",
            "http://[::1",
            "http://[not]/",
            "http://%65vil.example/",
            "http://-/",
            "http://a;b/",
            "http://a'b/",
            "http://a,b/",
            "http://example.com/" + "a" * 2000,
        ],
    )
    def test_what_readers_may_understand_differently_is_refused(self, url: str) -> None:
        assert parse_target(url) is None


@pytest.mark.django_db
class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ("", "cluster_id is missing."),
            ("cluster_id=c", "product is missing."),
            ("product=p&cluster_id=", "cluster_id is missing."),
            ("cluster_id=c&product=%20", "product is missing."),
            ("cluster_id=c%00&product=p", "cluster_id has at most 256 characters"),
            (f"cluster_id=c&product={'p' * 101}", "product has at most 100 characters"),
            ("cluster_id=c&product=p&redirect_url=javascript:alert(1)", "redirect_url is not an address"),
            ("cluster_id=c&product=p&redirect_url=http://a@evil.example", "redirect_url is not an address"),
        ],
    )
    @pytest.mark.parametrize("is_signed_in", [False, True])
    def test_says_what_is_wrong_with_the_address(
        self, client: Client, alice: User, org: Organization, query: str, told: str, is_signed_in: bool
    ) -> None:
        if is_signed_in:
            client.force_login(alice)
        for response in (client.get(f"/start?{query}"), client.post(f"/start?{query}", {"organization": org.pk})):
            assert response.status_code == 422
            assert told in response.content.decode()
            assert "javascript:" not in response.content.decode()
        assert not ApiKey.objects.for_organization(org).exists()

    def test_an_organization_of_others_is_not_among_the_choices(
        self, browser: Client, org: Organization, other_org: Organization
    ) -> None:
        assert other_org.name not in browser.get(start_url()).content.decode()

        response = browser.post(start_url(redirect_url=HOME), {"organization": other_org.pk})

        assert response.status_code == 200
        assert response.context["page"].form.errors
        assert not ApiKey.objects.all_tenants().exists()

    @pytest.mark.parametrize("role", [Role.VIEWER, Role.DEVELOPER])
    def test_who_may_not_make_keys_is_told_whom_to_ask(
        self, client_for: Callable[[User], Client], org: Organization, role: str
    ) -> None:
        person = factories.make_user()
        factories.make_membership(organization=org, user=person, role=role)
        visitor = client_for(person)

        assert "Ask an admin" in visitor.get(start_url()).content.decode()
        assert visitor.post(start_url(), {"organization": org.pk}).status_code == 200
        assert not ApiKey.objects.all_tenants().exists()

    def test_a_form_of_another_site_decides_nothing(self, alice: User, org: Organization) -> None:
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(alice)

        assert browser.post(start_url(redirect_url=HOME), {"organization": org.pk}).status_code == 403
        assert not ApiKey.objects.all_tenants().exists()

    def test_looking_decides_nothing(self, browser: Client, org: Organization) -> None:
        assert browser.get(f"{start_url(redirect_url=HOME)}&organization={org.pk}").status_code == 200
        assert not ApiKey.objects.all_tenants().exists()
        assert not AuditEntry.objects.for_organization(org).filter(action="api_key.created").exists()


@pytest.mark.django_db
class TestConsent:
    def test_names_who_asks_and_where_the_token_goes(self, browser: Client, org: Organization) -> None:
        text = browser.get(start_url(redirect_url=HOME, product="<b>p</b>")).content.decode()

        assert "&lt;b&gt;p&lt;/b&gt;" in text
        assert "<b>p</b>" not in text
        for told in ("clus1", "example.com:8888", "not encrypted", org.name):
            assert told in text

    @pytest.mark.parametrize("host", ["https://example.com", "http://localhost:8888", "http://[::1]:8888"])
    def test_warns_of_no_danger_where_there_is_none(self, browser: Client, host: str) -> None:
        assert "not encrypted" not in browser.get(start_url(redirect_url=f"{host}/")).content.decode()

    def test_the_browser_is_sent_back_with_a_token(self, browser: Client, org: Organization, alice: User) -> None:
        response = browser.post(start_url(redirect_url=HOME), {"organization": org.pk})

        token = token_of(response)
        assert response["Location"] == HOME.replace("x=1#", f"x=1&token={token}#")
        key = ApiKey.objects.for_organization(org).select_related("customer").get()
        assert token.startswith(f"mb_{key.prefix}_")
        assert (key.name, key.scopes, key.metric_codes) == ("chronograf", ["events:write"], ["usage_client_value"])
        assert key.customer is not None
        assert key.customer.external_id == "clus1"
        entries = AuditEntry.objects.for_organization(org).filter(actor=f"user:{alice.email}")
        assert set(entries.values_list("action", "target")) >= {
            ("api_key.created", key.prefix),
            ("customer.created", "clus1"),
        }

    def test_the_token_reports_for_its_cluster(self, browser: Client, org: Organization, post: Post) -> None:
        token = token_of(browser.post(start_url(redirect_url=HOME), {"organization": org.pk}))

        assert post("/servers", SERVER, token=token).status_code == 201
        assert post("/usage/chronograf", usage_entry(n=5), token=token).status_code == 201

        event = Event.objects.for_organization(org).select_related("customer").get()
        assert event.customer.external_id == "clus1"
        assert event.value == 5

    def test_the_token_does_nothing_else(self, browser: Client, org: Organization, api_client: Client) -> None:
        """The address may name any customer, also one whose other usage is billed."""
        api_client.post("/v1/metrics", {"code": "calls", "aggregation": "sum"}, content_type="application/json")
        token = token_of(browser.post(start_url(redirect_url=HOME), {"organization": org.pk}))
        headers = {"Authorization": f"Bearer {token}"}
        billed = {"idempotency_key": "k", "customer": "clus1", "type": "calls", "value": 5}

        answer = Client().post("/v1/events", [billed], content_type="application/json", headers=headers)

        assert (answer.status_code, answer.json()["stored"]) == (422, 0)
        assert Client().get("/v1/usage", {"metric": "calls"}, headers=headers).status_code == 403

    def test_registering_again_keeps_the_customer_and_the_token_before(
        self, browser: Client, org: Organization, post: Post
    ) -> None:
        tokens = [token_of(browser.post(start_url(redirect_url=HOME), {"organization": org.pk})) for _ in range(2)]

        assert len(set(tokens)) == 2
        assert Customer.objects.for_organization(org).count() == 1
        for token in tokens:
            assert post("/servers", SERVER, token=token).status_code == 201

    def test_without_an_address_the_token_is_shown_once(self, browser: Client, org: Organization) -> None:
        response = browser.post(start_url(), {"organization": org.pk})

        prefix = ApiKey.objects.for_organization(org).get().prefix
        assert response.status_code == 200
        assert f"mb_{prefix}_" in response.content.decode()
        assert "no-store" in response["Cache-Control"]
        assert prefix not in browser.get(start_url()).content.decode()

    def test_an_organization_is_chosen(self, browser: Client, org: Organization, alice: User) -> None:
        second = factories.make_organization(name="Second", owner=alice)

        browser.post(start_url(), {"organization": second.pk})

        assert not ApiKey.objects.for_organization(org).exists()
        assert ApiKey.objects.for_organization(second).count() == 1

    def test_nothing_is_told_to_third_parties(self, browser: Client, org: Organization) -> None:
        page = browser.get(start_url(redirect_url=HOME))
        answer = browser.post(start_url(redirect_url=HOME), {"organization": org.pk})

        assert page["Referrer-Policy"] == answer["Referrer-Policy"] == "same-origin"
        assert "form-action 'self' http://example.com:8888;" in page["Content-Security-Policy"]
        assert "form-action 'self';" in browser.get(start_url())["Content-Security-Policy"]
        assert "no-store" in answer["Cache-Control"]
        assert answer.content == b""

    def test_closed_to_customers_made_by_events_it_is_open_to_an_admin(
        self, browser: Client, org: Organization, post: Post
    ) -> None:
        Organization.objects.filter(pk=org.pk).update(is_customer_auto_created=False)

        token = token_of(browser.post(start_url(redirect_url=HOME), {"organization": org.pk}))

        assert post("/usage/p", usage_entry(n=1), token=token).status_code == 201


@pytest.mark.django_db
class TestSigningIn:
    def test_a_stranger_signs_in_and_comes_back(self, client: Client, alice: User, org: Organization) -> None:
        asked = client.get(start_url(redirect_url=HOME))
        assert asked.status_code == 302
        assert asked["Location"].startswith("/accounts/login/?next=/start")

        credentials = {"login": alice.email, "password": factories.PASSWORD}
        back = client.post(asked["Location"], credentials | _hidden_next(client, asked["Location"]))

        assert (back.status_code, back["Location"]) == (302, start_url(redirect_url=HOME))
        assert "chronograf" in client.get(back["Location"]).content.decode()

    def test_a_stranger_signs_up_and_comes_back(self, client: Client) -> None:
        asked = client.get(start_url(redirect_url=HOME))
        page = client.get(asked["Location"])
        sign_up_url = page.context["signup_url"]
        account = {"email": "new@example.test", "password1": "a long enough one", "password2": "a long enough one"}

        back = client.post(
            sign_up_url,
            account | {"name": "New", "organization_name": "Newcomers"} | _hidden_next(client, sign_up_url),
        )
        assert (back.status_code, back["Location"]) == (302, start_url(redirect_url=HOME))
        organization = Organization.objects.get(name="Newcomers")
        answer = client.post(back["Location"], {"organization": organization.pk})

        assert token_of(answer).startswith("mb_")
        assert ApiKey.objects.for_organization(organization).count() == 1


def _hidden_next(client: Client, url: str) -> dict[str, str]:
    """Return the field by which the form remembers where to go back to."""
    query = dict(parse_qsl(urlsplit(url).query))
    assert 'name="next"' in client.get(url).content.decode()
    return {"next": query["next"]}
