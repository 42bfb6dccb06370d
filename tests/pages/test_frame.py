"""What surrounds every page: who may see it, where links lead, what the browser is told."""

from collections.abc import Callable

import pytest
from django.test import Client

from accounts.models import Organization, Role, User
from tests import factories
from tests.pages.conftest import text_of

PageUrl = Callable[[str], str]
ADMIN_PAGES = ["settings/", "keys/", "audit/"]
MEMBER_PAGES = ["", "customers/", "events/", "events/rows", "inbox/", "catalogs/", "members/", "projects/"]


class TestHome:
    def test_leads_to_the_organization_looked_at_last(
        self, browser: Client, alice: User, org: Organization, page_url: PageUrl
    ) -> None:
        second = factories.make_organization(name="A second one", owner=alice)
        browser.get(page_url(""))

        assert browser.get("/").headers["Location"] == page_url("")

        browser.get(f"/o/{second.pk}/")

        assert browser.get("/").headers["Location"] == f"/o/{second.pk}/"

    def test_leads_somebody_without_an_organization_to_founding_one(
        self, client_for: Callable[[User], Client], charlie: User
    ) -> None:
        browser = client_for(charlie)

        assert browser.get("/").headers["Location"] == "/organizations/new"

        answer = browser.post("/organizations/new", {"name": "Initrode", "zone": "Europe/Berlin"})

        founded = Organization.objects.get(name="Initrode")
        assert answer.headers["Location"] == f"/o/{founded.pk}/"
        assert founded.zone == "Europe/Berlin"
        assert founded.memberships.get().role == Role.OWNER

    def test_does_not_lead_back_to_an_organization_one_has_left(self, browser: Client, page_url: PageUrl) -> None:
        browser.get(page_url(""))
        Organization.objects.get(name="Initech").memberships.all().delete()

        assert browser.get("/").headers["Location"] == "/organizations/new"


class TestSwitcher:
    def test_lists_the_organizations_of_the_person_alone(
        self, browser: Client, alice: User, other_org: Organization, page_url: PageUrl
    ) -> None:
        second = factories.make_organization(name="Initrode", owner=alice)

        page = text_of(browser.get(page_url("")))

        assert f'href="/o/{second.pk}/"' in page
        assert other_org.name not in page
        assert f"/o/{other_org.pk}/" not in page


@pytest.mark.parametrize("page", [*MEMBER_PAGES, *ADMIN_PAGES])
class TestAccess:
    def test_nobody_is_asked_to_sign_in(self, client: Client, page_url: PageUrl, page: str) -> None:
        answer = client.get(page_url(page))

        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/accounts/login/?next=/o/")

    def test_outsider_gets_the_404_of_an_absent_organization(
        self, outsiders_browser: Client, page_url: PageUrl, page: str
    ) -> None:
        foreign = outsiders_browser.get(page_url(page))
        absent = outsiders_browser.get(f"/o/999999/{page}")

        assert (foreign.status_code, absent.status_code) == (404, 404)
        assert foreign.content == absent.content

    def test_viewer_sees_what_needs_no_administrator(
        self, viewers_browser: Client, page_url: PageUrl, page: str
    ) -> None:
        assert viewers_browser.get(page_url(page)).status_code == (403 if page in ADMIN_PAGES else 200)

    def test_owner_sees_it(self, browser: Client, page_url: PageUrl, page: str) -> None:
        assert browser.get(page_url(page)).status_code == 200


def test_viewer_is_not_offered_what_the_role_may_not_do(viewers_browser: Client, page_url: PageUrl) -> None:
    page = text_of(viewers_browser.get(page_url("")))

    for unavailable in ("keys/", "settings/", "audit/", "new-metric"):
        assert page_url(unavailable) not in page


@pytest.mark.parametrize(
    "page", ["new-metric", "customers/new", "metrics/storage/edit"], ids=["metric", "customer", "edit"]
)
@pytest.mark.usefixtures("storage")
def test_viewer_may_not_define_anything(viewers_browser: Client, page_url: PageUrl, page: str) -> None:
    answer = viewers_browser.get(page_url(page))

    assert answer.status_code == 403
    assert "Your role does not allow that" in answer.content.decode()


def test_pages_run_no_script_but_our_files(browser: Client, page_url: PageUrl) -> None:
    answer = browser.get(page_url(""))

    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "<script>" not in text_of(answer)
    assert " style=" not in text_of(answer)


def test_stream_may_be_connected_to_and_nothing_else(client: Client, settings: object) -> None:
    policy = client.get("/accounts/login/", headers={"Host": "meter.example:8000"}).headers["Content-Security-Policy"]

    assert "connect-src 'self' http://meter.example:9000;" in policy


def test_footer_names_the_version_and_links_the_reference(client: Client) -> None:
    page = text_of(client.get("/accounts/login/"))

    assert "Meterbook 0." in page
    assert 'href="/v1/docs"' in page
    assert 'href="/health/ready"' in page


def test_error_pages_are_ours(client: Client) -> None:
    answer = client.get("/nothing/is/here")

    assert answer.status_code == 404
    assert "Nothing is here" in answer.content.decode()


def test_error_page_of_a_failure_needs_neither_request_nor_database() -> None:
    from django.template.loader import render_to_string

    assert "Something broke on our side" in render_to_string("500.html")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    ["login/", "signup/", "password/reset/", "password/reset/done/", "confirm-email/", "inactive/"],
)
def test_signed_out_pages_have_our_frame(client: Client, path: str) -> None:
    assert 'class="entrance"' in text_of(client.get(f"/accounts/{path}"))


@pytest.mark.parametrize("path", ["email/", "password/change/", "2fa/", "logout/"])
def test_personal_pages_have_our_frame(browser: Client, path: str) -> None:
    assert 'aria-label="Account"' in text_of(browser.get(f"/accounts/{path}"))
