"""The staff's admin: everything is readable, little is changeable, and what is goes through the services."""

from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.models import ApiKey, AuditEntry, Organization, User
from accounts.services import IssuedKey
from tests import factories

pytestmark = pytest.mark.django_db
OURS = [model for model in admin.site._registry if model._meta.app_label in {"accounts", "account", "mfa"}]


@pytest.fixture
def staff_client(client_for: Callable[[User], Client]) -> Client:
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    return client_for(staff)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_lists_and_rows_open(staff_client: Client, api_key: IssuedKey, org: Organization, model: type[Model]) -> None:
    factories.make_customer(organization=org)
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"

    assert staff_client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200
    row = model._base_manager.first()
    if row is not None:
        page = staff_client.get(reverse(f"{name}_change", args=[row.pk]))
        assert page.status_code == 200
        assert "secret_hash" not in page.content.decode()
    assert staff_client.get(reverse(f"{name}_add")).status_code == 403


def test_revoking_is_audited(staff_client: Client, org: Organization, api_key: IssuedKey) -> None:
    staff_client.post(
        reverse("admin:accounts_apikey_changelist"),
        {"action": "revoke", "_selected_action": [api_key.api_key.pk]},
    )

    assert ApiKey.objects.for_organization(org).get(pk=api_key.api_key.pk).revoked_at is not None
    entry = AuditEntry.objects.for_organization(org).latest("id")
    assert (entry.action, entry.actor) == ("api_key.revoked", "staff:staff@example.test")


def test_settings_change_through_the_service(staff_client: Client, org: Organization) -> None:
    staff_client.post(
        reverse("admin:accounts_organization_change", args=[org.pk]),
        {"name": "Renamed", "zone": "UTC", "is_customer_auto_created": "on", "rate_limit_per_minute": "5"},
    )

    org.refresh_from_db()
    assert (org.name, org.rate_limit_per_minute) == ("Renamed", 5)
    assert AuditEntry.objects.for_organization(org).latest("id").details == {
        "name": {"from": "Initech", "to": "Renamed"},
        "rate_limit_per_minute": {"from": None, "to": 5},
    }


def test_lost_second_factor_can_be_taken_away_but_not_read(staff_client: Client, alice: User) -> None:
    factor = TOTP.activate(alice, "JBSWY3DPEHPK3PXP").instance

    page = staff_client.get(reverse("admin:mfa_authenticator_change", args=[factor.pk])).content.decode()
    assert "secret" not in page
    staff_client.post(reverse("admin:mfa_authenticator_delete", args=[factor.pk]), {"post": "yes"})

    assert not Authenticator.objects.filter(user=alice).exists()


def test_is_for_staff_alone(client_for: Callable[[User], Client], alice: User) -> None:
    assert client_for(alice).get("/admin/accounts/organization/").status_code == 302
