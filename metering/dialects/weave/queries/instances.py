"""Who is mapped to whom at the forward port, and to whom the operator opened it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from django.conf import settings
from django.db.models import QuerySet

from accounts.models import Organization
from metering.dialects.weave.models import Instance, WeaveSettings


class Owner(NamedTuple):
    """Whose the records of an instance are."""

    organization_id: int
    customer: str


def find_owners(internal_instance_ids: Collection[str]) -> dict[str, Owner]:
    """Return the owners of those instances that are mapped. One query, by the index of the unique id."""
    if not internal_instance_ids:
        return {}
    rows = Instance.objects.all_tenants().filter(internal_instance_id__in=internal_instance_ids)
    found = rows.values_list("internal_instance_id", "organization_id", "customer_external_id")
    return {name: Owner(organization_id, customer) for name, organization_id, customer in found}


def is_port_open_to(organization: Organization) -> bool:
    """Tell whether the organization's admins may map instances, and see records of instances that nobody mapped.

    The operator names the organizations; where none are named, the only one of an installation has the port to itself.
    """
    opened: tuple[int, ...] = settings.FORWARD_ORGANIZATIONS
    if opened:
        return organization.pk in opened
    return not Organization.objects.exclude(pk=organization.pk).exists()


def list_instances(organization: Organization) -> QuerySet[Instance]:
    rows: QuerySet[Instance] = Instance.objects.for_organization(organization).order_by("internal_instance_id")
    return rows


def get_weave_settings(organization: Organization) -> WeaveSettings:
    """Return the organization's settings; the defaults, unsaved, where it never chose."""
    chosen = WeaveSettings.objects.for_organization(organization).first()
    return chosen or WeaveSettings(organization=organization)
