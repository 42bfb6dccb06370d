"""Projects and their environments: names that clients of other systems send along."""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import Environment, Organization, Project
from accounts.services.audit import change_fields, record_audit, refuse_invalid
from common.errors import Conflict


@transaction.atomic
def create_project(*, organization: Organization, actor: str, key: str, name: str) -> Project:
    """Raises `InvalidInput`, and `Conflict` where the key is taken."""
    project = Project(organization=organization, key=key, name=name)
    refuse_invalid(project)
    try:
        with transaction.atomic():
            project.save(force_insert=True)
    except IntegrityError:
        raise Conflict("A project with this key exists.", code="already_exists") from None
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
    """Create an environment; `hex_id` keeps the id that clients know from another system. Raises `Conflict`."""
    environment = Environment(organization=organization, project=project, key=key, name=name)
    if hex_id is not None:
        environment.hex_id = hex_id
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
