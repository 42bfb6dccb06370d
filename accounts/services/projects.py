"""Projects and their environments: names that clients of other systems send along.

A `hex_id` keeps the id that clients know from another system. Without one, project and environment get the id under
which reports showed their keys before anybody registered them, so that registering changes no id.
"""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction

from accounts.domain import derive_environment_id, derive_project_id
from accounts.models import Environment, Organization, Project
from accounts.services.audit import change_fields, record_audit, refuse_invalid
from common.errors import Conflict


@transaction.atomic
def create_project(
    *, organization: Organization, actor: str, key: str, name: str, hex_id: str | None = None
) -> Project:
    """Raises `InvalidInput`, and `Conflict` where the key or the id is taken."""
    if hex_id is None:
        hex_id = derive_project_id(organization_id=organization.pk, key=key)
    project = Project(organization=organization, key=key, name=name, hex_id=hex_id)
    refuse_invalid(project)
    try:
        with transaction.atomic():
            project.save(force_insert=True)
    except IntegrityError:
        raise Conflict("A project with this key or id exists.", code="already_exists") from None
    record_audit(organization=organization, actor=actor, action="project.created", target=key)
    return project


@transaction.atomic
def update_project(*, organization: Organization, actor: str, project: Project, changes: Mapping[str, Any]) -> Project:
    current = Project.objects.for_organization(organization).select_for_update(no_key=True).get(pk=project.pk)
    change_fields(
        current, changes, organization=organization, actor=actor, action="project.updated", target=current.key
    )
    return current


@transaction.atomic
def create_environment(
    *, organization: Organization, actor: str, project: Project, key: str, name: str, hex_id: str | None = None
) -> Environment:
    """Raises `InvalidInput`, and `Conflict` where the key or the id is taken."""
    if hex_id is None:
        hex_id = derive_environment_id(organization_id=organization.pk, project_key=project.key, key=key)
    environment = Environment(organization=organization, project=project, key=key, name=name, hex_id=hex_id)
    refuse_invalid(environment)
    try:
        with transaction.atomic():
            environment.save(force_insert=True)
    except IntegrityError:
        raise Conflict("An environment with this key or id exists.", code="already_exists") from None
    record_audit(organization=organization, actor=actor, action="environment.created", target=f"{project.key}/{key}")
    return environment


@transaction.atomic
def update_environment(
    *, organization: Organization, actor: str, environment: Environment, changes: Mapping[str, Any]
) -> Environment:
    current = (
        Environment.objects.for_organization(organization)
        .select_related("project")
        .select_for_update(no_key=True, of=("self",))
        .get(pk=environment.pk)
    )
    change_fields(
        current, changes, organization=organization, actor=actor, action="environment.updated", target=str(current)
    )
    return current
