"""Who a request comes from: keys in every state, sessions, and what each may do."""

from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client, RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from accounts.access import authenticate_key, authenticate_request, caller_for_session
from accounts.models import ApiKey, Organization, Role, Scope, User
from accounts.services import IssuedKey, revoke_api_key, rotate_api_key
from common.errors import NotAuthenticated, NotFound, PermissionRefused
from tests import factories

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)


class TestKey:
    def test_names_organization_actor_and_scopes(self, org: Organization, now: datetime) -> None:
        issued = factories.make_api_key(organization=org, scopes=("usage:read", "events:write"))

        caller = authenticate_key(issued.text, now=now)

        assert caller.organization == org
        assert caller.actor == f"key:{issued.api_key.prefix}"
        assert caller.scopes == {"usage:read", "events:write"}
        assert caller.key_id == issued.api_key.pk
        assert not caller.is_bound

    def test_only_its_hash_is_stored(self, api_key: IssuedKey) -> None:
        secret = api_key.text.rsplit("_", 1)[1]

        stored = bytes(ApiKey.objects.all_tenants().get(pk=api_key.api_key.pk).secret_hash)

        assert len(stored) == 32
        assert secret.encode() not in stored

    def test_wrong_secret_is_refused(self, api_key: IssuedKey, other_api_key: IssuedKey, now: datetime) -> None:
        mixed = f"mb_{api_key.api_key.prefix}_{other_api_key.text.rsplit('_', 1)[1]}"

        with pytest.raises(NotAuthenticated):
            authenticate_key(mixed, now=now)

    @pytest.mark.parametrize(("offset", "is_valid"), [(-SECOND, True), (timedelta(0), False), (SECOND, False)])
    def test_ends_exactly_at_its_expiry(
        self, org: Organization, now: datetime, offset: timedelta, is_valid: bool
    ) -> None:
        issued = factories.make_api_key(organization=org, expires_at=now)

        if is_valid:
            assert authenticate_key(issued.text, now=now + offset).organization == org
        else:
            with pytest.raises(NotAuthenticated):
                authenticate_key(issued.text, now=now + offset)

    def test_revoked_is_refused_at_once(self, org: Organization, api_key: IssuedKey, now: datetime) -> None:
        revoke_api_key(organization=org, actor="test", api_key=api_key.api_key, now=now)

        with pytest.raises(NotAuthenticated):
            authenticate_key(api_key.text, now=now)

    def test_rotated_works_beside_its_successor_until_the_grace_ends(
        self, org: Organization, api_key: IssuedKey, now: datetime
    ) -> None:
        successor = rotate_api_key(
            organization=org, actor="test", api_key=api_key.api_key, now=now, grace=timedelta(hours=1)
        )

        almost = now + timedelta(hours=1) - SECOND
        assert authenticate_key(api_key.text, now=almost).key_id == api_key.api_key.pk
        assert authenticate_key(successor.text, now=almost).key_id == successor.api_key.pk
        with pytest.raises(NotAuthenticated):
            authenticate_key(api_key.text, now=now + timedelta(hours=1))
        assert authenticate_key(successor.text, now=now + timedelta(days=365))

    def test_bound_key_tells_its_bounds(self, org: Organization, now: datetime) -> None:
        customer = factories.make_customer(organization=org)
        issued = factories.make_api_key(organization=org, customer=customer, metric_codes=("calls",))

        caller = authenticate_key(issued.text, now=now)

        assert (caller.customer_id, caller.metric_codes, caller.is_bound) == (customer.pk, frozenset({"calls"}), True)

    @pytest.mark.parametrize(
        "text",
        ["", "mb_", "mb__", "mb_a_b", "xx_0123_4567", "mb_0123", "mb_\x00_a", "mb_ä_ö", "mb_\ud800_a", "mb_a_b\n"],
    )
    def test_odd_text_is_refused(self, text: str, now: datetime) -> None:
        with pytest.raises(NotAuthenticated):
            authenticate_key(text, now=now)

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text())
    def test_any_text_is_refused(self, text: str, now: datetime) -> None:
        with pytest.raises(NotAuthenticated):
            authenticate_key(f"mb_{text}", now=now)

    def test_costs_one_query(
        self, api_key: IssuedKey, now: datetime, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        authenticate_key(api_key.text, now=now)

        with django_assert_num_queries(1):
            authenticate_key(api_key.text, now=now + SECOND)


class TestLastUse:
    def test_is_noted_once_a_minute(self, api_key: IssuedKey, now: datetime) -> None:
        for seconds in (0, 1, 59):
            authenticate_key(api_key.text, now=now + seconds * SECOND)
        assert ApiKey.objects.all_tenants().get(pk=api_key.api_key.pk).last_used_at == now

        authenticate_key(api_key.text, now=now + 60 * SECOND)
        assert ApiKey.objects.all_tenants().get(pk=api_key.api_key.pk).last_used_at == now + 60 * SECOND

    def test_is_not_noted_for_a_refused_key(self, api_key: IssuedKey, now: datetime) -> None:
        with pytest.raises(NotAuthenticated):
            authenticate_key(api_key.text[:-1] + "!", now=now)
        assert ApiKey.objects.all_tenants().get(pk=api_key.api_key.pk).last_used_at is None


class TestScopes:
    @pytest.mark.parametrize("held", list(Scope))
    @pytest.mark.parametrize("needed", list(Scope))
    def test_each_covers_itself_and_admin_covers_all(
        self, org: Organization, now: datetime, held: Scope, needed: Scope
    ) -> None:
        caller = authenticate_key(factories.make_api_key(organization=org, scopes=(held,)).text, now=now)

        if held in (needed, Scope.ADMIN):
            caller.require(needed)
        else:
            with pytest.raises(PermissionRefused, match=needed.value) as refusal:
                caller.require(needed)
            assert refusal.value.code == "missing_scope"


class TestHeader:
    @pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "mb_a_b", "Bearer \xff"])
    def test_without_a_key_the_answer_says_how(self, header: str | None) -> None:
        headers = {} if header is None else {"Authorization": header}

        with pytest.raises(NotAuthenticated) as refusal:
            authenticate_request(RequestFactory().get("/", headers=headers))

        assert refusal.value.headers == {"WWW-Authenticate": "Bearer"}

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_scheme_is_written_in_any_case(self, api_key: IssuedKey, scheme: str) -> None:
        request = RequestFactory().get("/", headers={"Authorization": f"{scheme} {api_key.text}"})

        assert authenticate_request(request).key_id == api_key.api_key.pk


class TestSession:
    @pytest.mark.parametrize(
        ("role", "scopes"),
        [
            (Role.ADMIN, set(Scope)),
            (Role.DEVELOPER, {"events:write", "usage:read", "metrics:write"}),
            (Role.VIEWER, {"usage:read", "billing:read"}),
        ],
    )
    def test_member_has_the_scopes_of_the_role(self, org: Organization, role: Role, scopes: set[str]) -> None:
        dora = factories.make_user(name="Dora")
        factories.make_membership(organization=org, user=dora, role=role)
        request = RequestFactory().get("/")
        request.user = dora

        caller = caller_for_session(request, org)

        assert caller.scopes == scopes
        assert (caller.actor, caller.role, caller.key_id) == ("user:dora@example.test", role, None)

    def test_stranger_and_absent_organization_are_the_same(self, org: Organization, charlie: User) -> None:
        request = RequestFactory().get("/")
        for user in (charlie, AnonymousUser()):
            request.user = user
            for organization_id in (org.pk, 0, -1, 2**63, 10**40):
                with pytest.raises(NotFound):
                    caller_for_session(request, organization_id)

    def test_signed_in_member_reads_the_api(self, client: Client, alice: User, org: Organization) -> None:
        client.force_login(alice)

        assert client.get("/v1/organization").json()["id"] == str(org.pk)

    def test_member_of_several_names_one(
        self, client: Client, alice: User, org: Organization, other_org: Organization
    ) -> None:
        factories.make_membership(organization=other_org, user=alice)
        client.force_login(alice)

        assert client.get("/v1/organization").json()["code"] == "organization_required"
        for organization in (org, other_org):
            answer = client.get("/v1/organization", headers={"Meterbook-Organization": str(organization.pk)})
            assert answer.json()["id"] == str(organization.pk)

    @pytest.mark.parametrize("named", ["0", "-1", "x", "9" * 19, "9" * 5000, "\u0661"])
    def test_naming_a_foreign_or_absent_one_is_404(
        self, client: Client, alice: User, org: Organization, other_org: Organization, named: str
    ) -> None:
        client.force_login(alice)

        for value in (named, str(other_org.pk)):
            answer = client.get("/v1/organization", headers={"Meterbook-Organization": value})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    def test_without_an_organization_is_403(self, client: Client) -> None:
        client.force_login(factories.make_user())

        assert client.get("/v1/organization").json()["code"] == "no_organization"

    def test_unsafe_request_needs_the_csrf_token(self, alice: User, org: Organization) -> None:
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(alice)
        forged = browser.patch("/v1/organization", {"name": "Taken"}, content_type="application/json")
        assert (forged.status_code, forged.json()["code"]) == (403, "csrf_failed")

        browser.get("/accounts/password/change/")  # any page with a form sets the cookie
        token = next(cookie.value for name, cookie in browser.cookies.items() if "csrf" in name)
        own = browser.patch(
            "/v1/organization", {"name": "Ours"}, content_type="application/json", headers={"X-CSRFToken": token}
        )
        assert (own.status_code, own.json()["name"]) == (200, "Ours")

    def test_a_wrong_key_is_not_saved_by_a_session(self, client: Client, alice: User, org: Organization) -> None:
        client.force_login(alice)

        assert client.get("/v1/organization", headers={"Authorization": "Bearer mb_a_b"}).status_code == 401

    def test_switched_off_person_is_out(self, client: Client, alice: User, org: Organization) -> None:
        client.force_login(alice)
        User.objects.filter(pk=alice.pk).update(is_active=False)

        assert client.get("/v1/organization").status_code == 401
