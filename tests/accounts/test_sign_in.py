"""Signing up and in, over the real pages: passwords, limits, invitations, second factor, mailed links."""

import secrets
from datetime import timedelta

import pytest
from allauth.mfa.adapter import get_adapter as get_mfa_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.conf import LazySettings
from django.contrib.auth.hashers import identify_hasher
from django.core import mail
from django.core.checks import run_checks
from django.test import Client
from django.utils import timezone

from accounts.models import Membership, Organization, Role, User
from accounts.services import invite_member
from tests import factories
from tests.factories import PASSWORD

pytestmark = pytest.mark.django_db
SIGNUP = {
    "email": "eve@example.test",
    "password1": PASSWORD,
    "password2": PASSWORD,
    "name": "Eve",
    "organization_name": "Hooli",
}


def forget_attempts(settings: LazySettings) -> None:
    """Begin new counts of attempts, as time would. Not `cache.clear()`: it empties the Redis that all tests share."""
    settings.CACHES = {"default": settings.CACHES["default"] | {"KEY_PREFIX": secrets.token_hex(8)}}


@pytest.fixture(autouse=True)
def _uncounted(settings: LazySettings) -> None:
    forget_attempts(settings)


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


class TestSignUp:
    def test_new_person_owns_a_new_organization(self, client: Client) -> None:
        answer = client.post("/accounts/signup/", SIGNUP)

        assert answer.status_code == 302, answer.content
        membership = Membership.objects.all_tenants().get(user__email="eve@example.test")
        assert (membership.role, membership.organization.name, membership.user.name) == ("owner", "Hooli", "Eve")
        assert is_signed_in(client)

    def test_without_a_name_the_organization_is_named_after_the_person(self, client: Client) -> None:
        client.post("/accounts/signup/", SIGNUP | {"organization_name": ""})

        assert Organization.objects.get(memberships__user__email="eve@example.test").name == "Eve's organization"

    def test_invited_person_founds_nothing(self, client: Client, org: Organization) -> None:
        invite_member(
            organization=org,
            actor="test",
            actor_role=Role.OWNER,
            email="eve@example.test",
            role=Role.VIEWER,
            now=timezone.now(),
        )

        client.post("/accounts/signup/", SIGNUP | {"organization_name": ""})

        assert User.objects.filter(email="eve@example.test").exists()
        assert not Membership.objects.all_tenants().filter(user__email="eve@example.test").exists()

    def test_password_is_kept_with_argon2(self, client: Client, settings: LazySettings) -> None:
        from config.settings import base

        settings.PASSWORD_HASHERS = base.PASSWORD_HASHERS

        client.post("/accounts/signup/", SIGNUP)

        stored = User.objects.get(email="eve@example.test").password
        assert identify_hasher(stored).algorithm == "argon2"
        assert stored.startswith("argon2$argon2id$")

    @pytest.mark.parametrize(
        "change",
        [
            {"password1": "short", "password2": "short"},
            {"password1": "1234567890", "password2": "1234567890"},
            {"password2": "different one"},
            {"email": "no address"},
            {"email": "a\x00b@example.test"},
            {"name": ""},
            {"name": "\x00"},
            {"organization_name": "x" * 201},
            {"organization_name": "a\x00b"},
        ],
    )
    def test_refusals_are_shown_on_the_form(self, client: Client, change: dict[str, str]) -> None:
        answer = client.post("/accounts/signup/", SIGNUP | change)

        assert answer.status_code == 200
        assert not User.objects.exists()

    def test_address_differs_not_by_case(self, client: Client) -> None:
        factories.make_user(name="Eve")

        client.post("/accounts/signup/", SIGNUP | {"email": "EVE@Example.test"})

        assert User.objects.filter(email__iexact="eve@example.test").count() == 1

    def test_closed_installation_admits_the_invited_alone(
        self, client: Client, org: Organization, settings: LazySettings
    ) -> None:
        settings.IS_SIGNUP_OPEN = False
        now = timezone.now()
        token, late = (
            invite_member(
                organization=org,
                actor="test",
                actor_role=Role.OWNER,
                email=f"{name}@example.test",
                role=Role.VIEWER,
                now=moment,
            ).token
            for name, moment in (("eve", now), ("late", now - timedelta(days=8)))
        )

        for path in ("/", "/invitations/", "/invitations/x", f"/invitations/{late}", f"/elsewhere/{token}"):
            client.post("/accounts/signup/", SIGNUP | {"next": path})
            assert not User.objects.filter(email="eve@example.test").exists(), path
        client.post("/accounts/signup/", SIGNUP | {"next": f"/invitations/{token}"})
        assert User.objects.filter(email="eve@example.test").exists()


class TestSignIn:
    def test_by_address_and_password(self, client: Client, alice: User) -> None:
        client.post("/accounts/login/", {"login": "ALICE@example.test", "password": PASSWORD})

        assert is_signed_in(client)

    def test_wrong_password_and_unknown_address_look_the_same(self, client: Client, alice: User) -> None:
        def errors_of(address: str) -> object:
            answer = client.post("/accounts/login/", {"login": address, "password": "wrong"})
            assert answer.status_code == 200
            return answer.context["form"].non_field_errors()

        assert errors_of("alice@example.test") == errors_of("nobody@example.test")
        assert not is_signed_in(client)

    def test_guessing_one_password_is_limited(self, client: Client, alice: User, settings: LazySettings) -> None:
        for _ in range(5):
            client.post("/accounts/login/", {"login": alice.email, "password": "wrong"})

        client.post("/accounts/login/", {"login": alice.email, "password": PASSWORD})
        assert not is_signed_in(client)

        forget_attempts(settings)
        client.post("/accounts/login/", {"login": alice.email, "password": PASSWORD})
        assert is_signed_in(client)

    def test_huge_form_is_refused_unread(self, client: Client) -> None:
        client.raise_request_exception = False

        assert client.post("/accounts/login/", {"login": "x" * 2_000_000, "password": "x"}).status_code == 400
        answer = client.generic(
            "POST", "/accounts/login/", "login=" + "x" * 2_000_000, content_type="application/x-www-form-urlencoded"
        )
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("path", "data", "limit"),
        [
            ("/accounts/signup/", SIGNUP | {"password2": "different one"}, 20),
            ("/accounts/password/reset/", {"email": "nobody@example.test"}, 5),
        ],
    )
    def test_forms_are_limited(self, client: Client, path: str, data: dict[str, str], limit: int) -> None:
        statuses = [client.post(path, data).status_code for _ in range(limit + 1)]

        assert 429 not in statuses[:-1]
        assert statuses[-1] == 429

    def test_forwarded_addresses_are_not_believed(self, client: Client) -> None:
        statuses = {
            client.post(
                "/accounts/password/reset/",
                {"email": f"nobody{number}@example.test"},
                headers={"X-Forwarded-For": f"10.0.0.{number}"},
            ).status_code
            for number in range(21)
        }

        assert 429 in statuses


class TestMailedLinks:
    def test_reset_link_leads_to_our_address_whatever_the_host(
        self, client: Client, alice: User, settings: LazySettings
    ) -> None:
        settings.PUBLIC_URL = "https://meter.example.test"

        client.post("/accounts/password/reset/", {"email": alice.email}, headers={"Host": "evil.example"})

        [message] = mail.outbox
        assert "https://meter.example.test/accounts/password/reset/key/" in message.body
        assert "http://evil.example" not in message.body

    def test_signing_up_works_while_the_mail_server_is_away(self, client: Client, settings: LazySettings) -> None:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1

        client.post("/accounts/signup/", SIGNUP)

        assert is_signed_in(client)

    def test_check_finds_mail_without_an_address(self, settings: LazySettings) -> None:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.PUBLIC_URL = "http://127.0.0.1:8000"
        assert "accounts.W001" in {message.id for message in run_checks()}

        settings.PUBLIC_URL = "https://meter.example.test"
        assert "accounts.W001" not in {message.id for message in run_checks()}


class TestSecondFactor:
    @pytest.fixture
    def secret(self, alice: User) -> str:
        secret = "JBSWY3DPEHPK3PXP"
        TOTP.activate(alice, secret)
        return secret

    def code(self, secret: str) -> str:
        return format_hotp_value(hotp_value(secret, next(iter(yield_hotp_counters_from_time()))))

    def test_password_alone_is_not_enough(self, client: Client, alice: User, secret: str) -> None:
        client.post("/accounts/login/", {"login": alice.email, "password": PASSWORD})
        assert not is_signed_in(client)

        client.post("/accounts/2fa/authenticate/", {"code": self.code(secret)})
        assert is_signed_in(client)

    def test_admin_asks_for_it_too(self, client: Client, alice: User, secret: str) -> None:
        User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)

        answer = client.get("/admin/login/", follow=True)

        assert answer.request["PATH_INFO"] == "/accounts/login/"

    def test_secret_is_stored_encrypted(self, alice: User, secret: str) -> None:
        stored = Authenticator.objects.get(user=alice, type="totp").data["secret"]

        assert secret not in stored
        assert get_mfa_adapter().decrypt(stored) == secret
