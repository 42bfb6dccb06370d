"""One builder per model: minimal valid defaults, the organization always explicit, writes through the services."""

from datetime import datetime
from itertools import count
from typing import Any

from django.utils import timezone

from accounts.models import Customer, Membership, Organization, Role, Scope, User
from accounts.services import IssuedKey, create_organization, issue_api_key

PASSWORD = "correct horse battery staple"
_numbers = count(1)


def make_user(*, name: str = "", email: str = "", is_staff: bool = False) -> User:
    name = name or f"person{next(_numbers)}"
    return User.objects.create_user(email or f"{name.lower()}@example.test", PASSWORD, name=name, is_staff=is_staff)


def make_organization(*, name: str = "", owner: User | None = None, zone: str = "UTC") -> Organization:
    return create_organization(
        name=name or f"Organization {next(_numbers)}", owner=owner or make_user(), actor="test", zone=zone
    )


def make_membership(*, organization: Organization, user: User, role: str = Role.VIEWER) -> Membership:
    return Membership.objects.create(organization=organization, user=user, role=role)


def make_customer(*, organization: Organization, external_id: str = "", **fields: Any) -> Customer:
    external_id = external_id or f"cust_{next(_numbers)}"
    return Customer.objects.create(organization=organization, external_id=external_id, **fields)


def make_api_key(
    *,
    organization: Organization,
    scopes: tuple[str, ...] = (Scope.ADMIN,),
    customer: Customer | None = None,
    metric_codes: tuple[str, ...] = (),
    expires_at: datetime | None = None,
) -> IssuedKey:
    return issue_api_key(
        organization=organization,
        actor="test",
        name="test key",
        scopes=scopes,
        customer=customer,
        metric_codes=metric_codes,
        expires_at=expires_at,
    )


def make_event(*, customer: str = "cust_42", type: str = "requests", **fields: Any) -> dict[str, Any]:
    """Return one event as a client would send it; its key is new unless given."""
    event: dict[str, Any] = {
        "idempotency_key": f"key-{next(_numbers)}",
        "customer": customer,
        "type": type,
        "timestamp": timezone.now().isoformat(),
    }
    return event | fields
