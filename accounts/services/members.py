"""Members: changing and removing them, so that an organization never loses its last owner."""

from django.db import transaction

from accounts.domain import may_manage
from accounts.models import Membership, Organization, Role
from accounts.services.audit import record_audit
from common.errors import Conflict, NotFound, PermissionRefused


@transaction.atomic
def change_member_role(
    *, organization: Organization, actor: str, actor_role: Role, membership: Membership, role: Role
) -> Membership:
    """Give a member another role.

    Raises `PermissionRefused` where the actor may not manage the old or the new role, `Conflict` for the last
    owner, `NotFound` for a member removed meanwhile.
    """
    lock_members(organization)
    current = _get_current(organization, membership)
    if not may_manage(actor_role, current.role, role):
        raise role_refused(actor_role, current.role, role)
    if current.role == role:
        return current
    if current.role == Role.OWNER:
        _keep_an_owner(organization)
    old_role, current.role = current.role, role
    current.save(update_fields=["role"])
    record_audit(
        organization=organization,
        actor=actor,
        action="member.role_changed",
        target=current.user.email,
        details={"role": {"from": old_role, "to": role.value}},
    )
    return current


@transaction.atomic
def remove_member(*, organization: Organization, actor: str, actor_role: Role, membership: Membership) -> None:
    """Remove a member; anybody may leave by themselves. Raises as `change_member_role` does.

    Keys that the person made stay: they belong to the organization.
    """
    lock_members(organization)
    current = _get_current(organization, membership)
    is_leaving = actor == f"user:{current.user.email}"
    if not is_leaving and not may_manage(actor_role, current.role):
        raise role_refused(actor_role, current.role)
    if current.role == Role.OWNER:
        _keep_an_owner(organization)
    current.delete()
    record_audit(
        organization=organization,
        actor=actor,
        action="member.left" if is_leaving else "member.removed",
        target=current.user.email,
        details={"role": current.role},
    )


def lock_members(organization: Organization) -> None:
    """Let one change of the organization's members happen at a time: two owners must not demote each other at once."""
    # Not FOR UPDATE: that would stop every insert that refers to the organization.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)


def role_refused(actor_role: Role, *roles: str) -> PermissionRefused:
    return PermissionRefused(
        f"As {actor_role.value} you may not manage the role {' or '.join(dict.fromkeys(roles))}.", code="role_refused"
    )


def _get_current(organization: Organization, membership: Membership) -> Membership:
    current = Membership.objects.for_organization(organization).select_related("user").filter(pk=membership.pk).first()
    if current is None:
        raise NotFound("There is no such member.")
    return current


def _keep_an_owner(organization: Organization) -> None:
    if Membership.objects.for_organization(organization).filter(role=Role.OWNER).count() < 2:
        raise Conflict("An organization keeps at least one owner; appoint another one first.", code="last_owner")
