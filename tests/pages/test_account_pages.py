"""Pages about who acts: members, invitations, keys, projects, customers, settings, the audit log."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import contexts
from accounts.models import ApiKey, AuditEntry, Invitation, Membership, Organization, Role, User
from accounts.services import IssuedKey, create_environment, create_project, record_audit
from tests import factories
from tests.pages.conftest import text_of

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]


def invitation_path(answer: Any) -> str:
    link: str = answer.context["page"].invitation_link
    return "/invitations/" + link.rsplit("/", 1)[1]


class TestMembers:
    def test_owner_may_change_everybody(self, browser: Client, page_url: PageUrl, org: Organization, bob: User) -> None:
        membership = Membership.objects.for_organization(org).get(user=bob)

        answer = browser.post(page_url(f"members/{membership.pk}/role"), {"role": "developer"}, follow=True)

        assert "bob@example.test is developer now." in text_of(answer)
        membership.refresh_from_db()
        assert membership.role == Role.DEVELOPER

    def test_viewer_sees_roles_and_changes_none(
        self, viewers_browser: Client, page_url: PageUrl, org: Organization, alice: User
    ) -> None:
        page = viewers_browser.get(page_url("members/")).context["page"]
        assert {(row.name, row.role_label, bool(row.roles)) for row in page.members} == {
            ("Alice", "Owner", False),
            ("Bob", "Viewer", False),
        }

        owner = Membership.objects.for_organization(org).get(user=alice)
        answer = viewers_browser.post(page_url(f"members/{owner.pk}/role"), {"role": "viewer"})

        assert answer.status_code == 403
        owner.refresh_from_db()
        assert owner.role == Role.OWNER

    def test_last_owner_stays_and_is_told_why(
        self, browser: Client, page_url: PageUrl, org: Organization, alice: User
    ) -> None:
        own = Membership.objects.for_organization(org).get(user=alice)

        answer = browser.post(page_url(f"members/{own.pk}/remove"))

        assert answer.status_code == 409
        assert "at least one owner" in answer.content.decode()
        assert Membership.objects.for_organization(org).filter(pk=own.pk).exists()

    def test_anybody_may_leave(self, viewers_browser: Client, page_url: PageUrl, org: Organization, bob: User) -> None:
        own = Membership.objects.for_organization(org).get(user=bob)

        assert viewers_browser.post(page_url(f"members/{own.pk}/remove")).headers["Location"] == "/"
        assert viewers_browser.get(page_url("")).status_code == 404

    def test_an_unknown_role_is_refused(self, browser: Client, page_url: PageUrl, org: Organization, bob: User) -> None:
        membership = Membership.objects.for_organization(org).get(user=bob)

        assert browser.post(page_url(f"members/{membership.pk}/role"), {"role": "emperor"}).status_code == 422


class TestInvitations:
    def test_link_is_shown_once_and_lets_the_invited_person_in(
        self, browser: Client, page_url: PageUrl, org: Organization, client_for: Callable[[User], Client]
    ) -> None:
        answer = browser.post(page_url("members/"), {"email": "Dora@example.test", "role": "developer"})
        path = invitation_path(answer)
        assert path.rsplit("/", 1)[1] not in text_of(browser.get(page_url("members/")))

        dora = factories.make_user(name="Dora")
        doras_browser = client_for(dora)
        assert "Join Initech" in text_of(doras_browser.get(path))
        assert doras_browser.post(path).headers["Location"] == page_url("")

        assert Membership.objects.for_organization(org).get(user=dora).role == Role.DEVELOPER
        assert doras_browser.get(path).status_code == 404

    def test_signed_out_visitor_is_led_to_sign_in_and_back(
        self, browser: Client, page_url: PageUrl, client: Client
    ) -> None:
        path = invitation_path(browser.post(page_url("members/"), {"email": "dora@example.test", "role": "viewer"}))

        page = text_of(client.get(path))

        assert f'/accounts/signup/?next={path}"' in page
        assert client.post(path).status_code == 200
        assert not Membership.objects.all_tenants().filter(user__email="dora@example.test").exists()

    def test_somebody_else_cannot_use_the_link(
        self, browser: Client, outsiders_browser: Client, page_url: PageUrl, org: Organization, charlie: User
    ) -> None:
        path = invitation_path(browser.post(page_url("members/"), {"email": "dora@example.test", "role": "owner"}))

        assert "You are signed in as charlie@example.test" in text_of(outsiders_browser.get(path))
        assert outsiders_browser.post(path).status_code == 403
        assert not Membership.objects.for_organization(org).filter(user=charlie).exists()

    def test_withdrawn_link_is_404(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        path = invitation_path(browser.post(page_url("members/"), {"email": "dora@example.test", "role": "viewer"}))
        invitation = Invitation.objects.for_organization(org).get()

        browser.post(page_url(f"invitations/{invitation.pk}/revoke"))

        assert browser.get(path).status_code == 404

    def test_a_member_is_not_invited_again(self, browser: Client, page_url: PageUrl, bob: User) -> None:
        answer = browser.post(page_url("members/"), {"email": bob.email, "role": "viewer"})

        assert "is a member already" in text_of(answer)

    def test_viewer_may_not_invite(self, viewers_browser: Client, page_url: PageUrl, org: Organization) -> None:
        answer = viewers_browser.post(page_url("members/"), {"email": "dora@example.test", "role": "viewer"})

        assert answer.status_code == 403
        assert not Invitation.objects.for_organization(org).exists()

    def test_admin_makes_no_owner(
        self, org: Organization, page_url: PageUrl, client_for: Callable[[User], Client]
    ) -> None:
        admin = factories.make_user(name="Ada")
        factories.make_membership(organization=org, user=admin, role=Role.ADMIN)

        answer = client_for(admin).post(page_url("members/"), {"email": "dora@example.test", "role": "owner"})

        assert list(answer.context["page"].form.errors) == ["role"]
        assert not Invitation.objects.for_organization(org).exists()


class TestApiKeys:
    def test_text_is_shown_once_and_works(self, browser: Client, page_url: PageUrl, client: Client) -> None:
        form = {"name": "backend", "scopes": ["usage:read", "events:write"], "lifetime": "30"}
        answer = browser.post(page_url("keys/"), form)
        key = answer.context["page"].issued.text

        assert key in text_of(answer)
        assert "no-store" in answer.headers["Cache-Control"]
        assert key.rsplit("_", 1)[1] not in text_of(browser.get(page_url("keys/")))
        assert client.get("/v1/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200

    def test_form_says_everything_about_the_key(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        customer = factories.make_customer(organization=org, external_id="acme")
        form = {"name": "acme's", "scopes": ["usage:read"], "lifetime": "365", "customer": "acme"}

        browser.post(page_url("keys/"), form)

        key = ApiKey.objects.for_organization(org).get()
        assert (key.name, key.scopes, key.customer_id) == ("acme's", ["usage:read"], customer.pk)
        assert key.expires_at is not None
        assert timedelta(days=364) < key.expires_at - timezone.now() <= timedelta(days=365)
        row = browser.get(page_url("keys/")).context["page"].keys[0]
        assert (row.bound_to, row.state_label) == (["customer acme"], "active")

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"name": ""}, "name"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["everything"]}, "scopes"),
            ({"lifetime": "-1"}, "lifetime"),
            ({"customer": "nobody"}, "customer"),
        ],
    )
    def test_refusals_stand_at_the_field(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, Any], field: str
    ) -> None:
        answer = browser.post(page_url("keys/"), {"name": "x", "scopes": ["usage:read"]} | changes)

        assert list(answer.context["page"].form.errors) == [field]
        assert not ApiKey.objects.for_organization(org).exists()

    def test_another_organizations_customer_is_nobody(
        self, browser: Client, page_url: PageUrl, org: Organization, other_org: Organization
    ) -> None:
        factories.make_customer(organization=other_org, external_id="theirs")

        browser.post(page_url("keys/"), {"name": "x", "scopes": ["usage:read"], "customer": "theirs"})

        assert not ApiKey.objects.for_organization(org).exists()

    def test_rotation_shows_the_new_text_and_lets_the_old_one_work_on(
        self, browser: Client, page_url: PageUrl, api_key: IssuedKey, client: Client
    ) -> None:
        answer = browser.post(page_url(f"keys/{api_key.api_key.pk}/rotate"), {"grace": "1"})

        page = answer.context["page"]
        assert page.issued.text in text_of(answer)
        assert {row.state_label for row in page.keys} == {"active", "being replaced"}
        for text in (api_key.text, page.issued.text):
            assert client.get("/v1/metrics", headers={"Authorization": f"Bearer {text}"}).status_code == 200

    def test_second_rotation_is_refused_in_words(self, browser: Client, page_url: PageUrl, api_key: IssuedKey) -> None:
        browser.post(page_url(f"keys/{api_key.api_key.pk}/rotate"), {"grace": "1"})

        answer = browser.post(page_url(f"keys/{api_key.api_key.pk}/rotate"), {"grace": "1"})

        assert answer.status_code == 409
        assert "rotated already" in answer.content.decode()

    def test_revoked_key_is_refused_at_once(
        self, browser: Client, page_url: PageUrl, api_key: IssuedKey, client: Client
    ) -> None:
        browser.post(page_url(f"keys/{api_key.api_key.pk}/revoke"))

        assert client.get("/v1/metrics", headers={"Authorization": f"Bearer {api_key.text}"}).status_code == 401
        assert browser.get(page_url("keys/")).context["page"].keys[0].state_label == "revoked"

    def test_another_organizations_key_is_404(
        self, browser: Client, page_url: PageUrl, other_api_key: IssuedKey
    ) -> None:
        foreign = other_api_key.api_key

        for action in ("rotate", "revoke"):
            assert browser.post(page_url(f"keys/{foreign.pk}/{action}"), {"grace": "1"}).status_code == 404
        foreign.refresh_from_db()
        assert (foreign.revoked_at, foreign.replaced_by_id) == (None, None)


class TestSettings:
    FORM = {"name": "Initech", "zone": "Europe/Berlin", "is_unmatched_kept": "on", "late_limit_days": "7"}

    def test_changes_are_kept_and_logged(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        browser.post(page_url("settings/"), self.FORM)

        org.refresh_from_db()
        assert (org.zone, org.is_unmatched_kept, org.late_limit_days) == ("Europe/Berlin", True, 7)
        assert org.is_customer_auto_created is False
        log = text_of(browser.get(page_url("audit/")))
        assert "organization.updated" in log
        assert "UTC → Europe/Berlin" in log
        assert "none → 7" in log

    @pytest.mark.parametrize(
        "changes", [{"zone": "Mars/Olympus"}, {"name": ""}, {"late_limit_days": "-1"}, {"raw_retention_days": "x"}]
    )
    def test_nonsense_changes_nothing(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, str]
    ) -> None:
        answer = browser.post(page_url("settings/"), self.FORM | changes)

        assert list(answer.context["page"].form.errors) == list(changes)
        assert answer.context["shell"].organization.name == "Initech"
        org.refresh_from_db()
        assert org.zone == "UTC"


class TestProjects:
    def test_project_and_environment_are_made(self, browser: Client, page_url: PageUrl) -> None:
        browser.post(page_url("projects/new"), {"project-key": "web", "project-name": "Web"})
        browser.post(
            page_url("projects/environments/new"),
            {"environment-project": "web", "environment-key": "staging", "environment-name": "Staging"},
        )

        projects = browser.get(page_url("projects/")).context["page"].projects
        assert {(p.key, environment.key) for p in projects for environment in p.environments.all()} == {
            ("default", "production"),
            ("web", "staging"),
        }

    @pytest.mark.parametrize("key", ["default", "Not a key", ""], ids=["taken", "malformed", "empty"])
    def test_a_bad_key_is_refused(self, browser: Client, page_url: PageUrl, org: Organization, key: str) -> None:
        answer = browser.post(page_url("projects/new"), {"project-key": key, "project-name": "Web"})

        assert answer.context["page"].project_form.errors
        assert org.projects.count() == 1

    def test_another_organizations_project_is_no_choice(
        self, browser: Client, page_url: PageUrl, other_org: Organization
    ) -> None:
        create_project(organization=other_org, actor="test", key="theirs", name="Theirs")

        answer = browser.post(
            page_url("projects/environments/new"),
            {"environment-project": "theirs", "environment-key": "x", "environment-name": "X"},
        )

        assert list(answer.context["page"].environment_form.errors) == ["project"]


class TestCustomers:
    def test_customer_is_made_and_changed(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        answer = browser.post(page_url("customers/new"), {"external_id": "acme", "name": "Acme"})
        customer = org.customers.get(external_id="acme")
        assert answer.headers["Location"] == page_url(f"customers/{customer.pk}/")

        form = {"name": "Acme Inc.", "zone": "Asia/Tokyo", "billing_cycle_day": "15"}
        browser.post(page_url(f"customers/{customer.pk}/edit"), form)

        customer.refresh_from_db()
        assert (customer.name, customer.zone, customer.billing_cycle_day) == ("Acme Inc.", "Asia/Tokyo", 15)

    def test_empty_choices_mean_the_organizations(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        customer = factories.make_customer(organization=org, zone="Asia/Tokyo", billing_cycle_day=15)

        browser.post(page_url(f"customers/{customer.pk}/edit"), {"name": "", "zone": "", "billing_cycle_day": ""})

        customer.refresh_from_db()
        assert (customer.zone, customer.billing_cycle_day) == (None, None)

    def test_an_id_that_is_taken_is_refused(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        factories.make_customer(organization=org, external_id="acme")

        assert "exists" in text_of(browser.post(page_url("customers/new"), {"external_id": "acme"}))

    def test_search_finds_by_the_beginning_of_id_or_name(
        self, browser: Client, page_url: PageUrl, org: Organization
    ) -> None:
        for external_id, name in (("acme", "Roadrunner"), ("bolt", "Acme's twin"), ("cargo", "Nothing")):
            factories.make_customer(organization=org, external_id=external_id, name=name)

        def found(search: str) -> list[str]:
            page = browser.get(page_url("customers/"), {"search": search}).context["page"]
            return [customer.external_id for customer in page.customers]

        assert found("ac") == ["acme", "bolt"]
        assert found("Ac") == ["bolt"]  # ids are told apart by case, names are not
        assert found("a%") == []
        assert found("\x00") == ["acme", "bolt", "cargo"]

    def test_pages_lead_through_all(
        self, browser: Client, page_url: PageUrl, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contexts, "PAGE_SIZE", 2)
        for name in ("a b", "a&b", "c", "d", "é"):
            factories.make_customer(organization=org, external_id=name)

        seen: list[str] = []
        url = page_url("customers/")
        while url:
            page = browser.get(url).context["page"]
            seen += [customer.external_id for customer in page.customers]
            url = page.next_url and page_url("customers/") + page.next_url

        assert seen == ["a b", "a&b", "c", "d", "é"]


class TestAuditLog:
    def test_pages_lead_back_in_time(
        self, browser: Client, page_url: PageUrl, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contexts, "PAGE_SIZE", 2)
        for number in range(3):
            record_audit(organization=org, actor="test", action="thing.done", target=f"thing {number}")

        first = browser.get(page_url("audit/")).context["page"]
        second = browser.get(page_url("audit/") + first.next_url).context["page"]

        assert [row.target for row in first.rows] == ["thing 2", "thing 1"]
        assert [row.target for row in second.rows] == ["thing 0", "Initech"]

    def test_shows_its_own_organization_alone(
        self, browser: Client, page_url: PageUrl, org: Organization, other_org: Organization
    ) -> None:
        record_audit(organization=other_org, actor="test", action="thing.done", target="their secret")

        assert "their secret" not in text_of(browser.get(page_url("audit/")))
        assert AuditEntry.objects.for_organization(other_org).filter(target="their secret").exists()


class TestCost:
    """Twice the rows, the same number of queries."""

    def test_members(self, browser: Client, page_url: PageUrl, org: Organization, count_queries: CountQueries) -> None:
        def add_people(names: str) -> None:
            for name in names:
                factories.make_membership(organization=org, user=factories.make_user(name=name))
                browser.post(page_url("members/"), {"email": f"{name}@invited.test", "role": "viewer"})

        add_people("abc")
        before = count_queries(browser, page_url("members/"))
        add_people("def")

        assert count_queries(browser, page_url("members/")) == before

    def test_keys(self, browser: Client, page_url: PageUrl, org: Organization, count_queries: CountQueries) -> None:
        def add_keys() -> None:
            for _ in range(3):
                factories.make_api_key(organization=org, customer=factories.make_customer(organization=org))

        add_keys()
        before = count_queries(browser, page_url("keys/"))
        add_keys()

        assert count_queries(browser, page_url("keys/")) == before

    def test_projects(self, browser: Client, page_url: PageUrl, org: Organization, count_queries: CountQueries) -> None:
        def add_projects(names: str) -> None:
            for name in names:
                project = create_project(organization=org, actor="test", key=name, name=name)
                create_environment(organization=org, actor="test", project=project, key="production", name=name)

        add_projects("abc")
        before = count_queries(browser, page_url("projects/"))
        add_projects("def")

        assert count_queries(browser, page_url("projects/")) == before

    def test_customers(
        self, browser: Client, page_url: PageUrl, org: Organization, count_queries: CountQueries
    ) -> None:
        for _ in range(3):
            factories.make_customer(organization=org)
        before = count_queries(browser, page_url("customers/"))
        for _ in range(3):
            factories.make_customer(organization=org)

        assert count_queries(browser, page_url("customers/")) == before

    def test_audit_log(
        self, browser: Client, page_url: PageUrl, org: Organization, count_queries: CountQueries
    ) -> None:
        for _ in range(3):
            record_audit(organization=org, actor="test", action="thing.done", target="thing")
        before = count_queries(browser, page_url("audit/"))
        for _ in range(3):
            record_audit(organization=org, actor="test", action="thing.done", target="thing")

        assert count_queries(browser, page_url("audit/")) == before

    def test_organizations_of_the_person(
        self, browser: Client, page_url: PageUrl, alice: User, count_queries: CountQueries
    ) -> None:
        before = count_queries(browser, page_url("projects/"))
        for _ in range(3):
            factories.make_organization(owner=alice)

        assert count_queries(browser, page_url("projects/")) == before


def test_every_form_carries_its_token(browser: Client, page_url: PageUrl, api_key: IssuedKey, bob: User) -> None:
    for path in ("members/", "keys/", "projects/", "settings/", "catalogs/", "new-metric", "customers/new"):
        page = text_of(browser.get(page_url(path)))
        forms = re.findall(r'<form[^>]*method="post".*?</form>', page, re.DOTALL)
        assert forms
        assert all("csrfmiddlewaretoken" in form for form in forms), path
