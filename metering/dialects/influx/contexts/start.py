"""The page of a registration: who asks, where the token would go, and the organizations to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest

from accounts.domain import SCOPES_OF_ROLE, Scope
from accounts.models import Membership, Organization
from accounts.pages import visitor
from metering.dialects.influx.forms import StartForm
from metering.dialects.influx.redirects import Registration


@dataclass(frozen=True, slots=True)
class StartPage:
    product: str
    cluster_id: str
    # Empty: the token is shown here.
    host: str
    # Whether the token would travel in the clear.
    is_exposed: bool
    # None: the visitor has no organization in which they may make keys, or has decided.
    form: StartForm | None
    # Set once, right after it was made.
    token: str


def list_own_organizations(request: HttpRequest) -> list[Organization]:
    """Return the organizations whose keys the visitor may make, by name. One query."""
    roles = [role for role, scopes in SCOPES_OF_ROLE.items() if Scope.ADMIN in scopes]
    own = Membership.objects.all_tenants().filter(user=visitor(request), role__in=roles)
    memberships = own.select_related("organization").order_by("organization__name", "organization_id")
    return [membership.organization for membership in memberships]


def get_start_page(registration: Registration, form: StartForm | None = None, *, token: str = "") -> StartPage:
    target = registration.target
    return StartPage(
        product=registration.product,
        cluster_id=registration.cluster_id,
        host=target.host if target else "",
        is_exposed=target is not None and target.is_exposed,
        form=form,
        token=token,
    )
