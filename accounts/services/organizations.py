"""Organizations: founding one, changing its settings."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from accounts.domain import derive_environment_id, derive_project_id
from accounts.models import Environment, Membership, Organization, Project, Role, User
from accounts.services.audit import change_fields, record_audit, refuse_invalid


@transaction.atomic
def create_organization(*, name: str, owner: User, actor: str, zone: str = "UTC") -> Organization:
    """Create an organization with its owner, and a default project with one environment."""
    organization = Organization(name=name, zone=zone)
    refuse_invalid(organization)
    organization.save()
    Membership.objects.create(organization=organization, user=owner, role=Role.OWNER)
    project = Project.objects.create(
        organization=organization,
        key="default",
        name="Default",
        hex_id=derive_project_id(organization_id=organization.pk, key="default"),
    )
    Environment.objects.create(
        organization=organization,
        project=project,
        key="production",
        name="Production",
        hex_id=derive_environment_id(organization_id=organization.pk, project_key="default", key="production"),
    )
    record_audit(organization=organization, actor=actor, action="organization.created", target=name)
    return organization


@transaction.atomic
def update_organization(*, organization: Organization, actor: str, changes: Mapping[str, Any]) -> Organization:
    """Change settings and return the organization as it is now. Raises `InvalidInput`."""
    # Not FOR UPDATE: that would stop every insert that refers to the organization.
    current = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    change_fields(
        current,
        changes,
        organization=current,
        actor=actor,
        action="organization.updated",
        target=current.name,
    )
    return current
