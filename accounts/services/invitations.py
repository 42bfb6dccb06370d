"""Invitations: a token sent by mail, kept as a hash, good once and for a week."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from django.db import transaction
from kombu.exceptions import OperationalError as BrokerUnavailable

from accounts.access import hash_secret
from accounts.domain import INVITATION_LIFETIME, may_manage
from accounts.models import Invitation, Membership, Organization, Role, User
from accounts.queries import find_open_invitation
from accounts.services.audit import record_audit
from accounts.services.members import lock_members, role_refused
from common.errors import Conflict, NotFound, PermissionRefused
from common.models import TenantQuerySet

TOKEN_BYTES = 32

logger = structlog.get_logger("meterbook.invitations")


@dataclass(frozen=True, slots=True)
class IssuedInvitation:
    """A new invitation together with the only copy of its token, for whoever prefers to pass on the link by hand."""

    invitation: Invitation
    token: str


@transaction.atomic
def invite_member(
    *, organization: Organization, actor: str, actor_role: Role, email: str, role: Role, now: datetime
) -> IssuedInvitation:
    """Invite an address and mail it the link after the commit; an earlier open invitation of it is withdrawn.

    Raises `PermissionRefused` for a role that the actor may not give, `Conflict` for a member's address.
    """
    if not may_manage(actor_role, role):
        raise role_refused(actor_role, role)
    email = email.lower()
    lock_members(organization)
    if Membership.objects.for_organization(organization).filter(user__email=email).exists():
        raise Conflict("This person is a member already.", code="already_member")
    _open_invitations(organization).filter(email=email).update(revoked_at=now)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    invitation = Invitation.objects.create(
        organization=organization,
        email=email,
        role=role,
        token_hash=hash_secret(token),
        invited_by=actor,
        expires_at=now + INVITATION_LIFETIME,
    )
    record_audit(
        organization=organization,
        actor=actor,
        action="invitation.created",
        target=email,
        details={"role": Role(role).value},
    )
    transaction.on_commit(partial(_enqueue_invitation_mail, invitation.pk, token))
    return IssuedInvitation(invitation, token)


@transaction.atomic
def accept_invitation(*, token: str, user: User, now: datetime) -> Membership:
    """Make the invited person a member. Who is one already keeps their role.

    Raises `NotFound` for a token that is unknown, used, withdrawn or expired, all the same; `PermissionRefused`
    for somebody else than the invited address: a forwarded link must not let strangers in.
    """
    invitation = find_open_invitation(token, now=now)
    if invitation is None:
        raise NotFound("This invitation is not valid any more.", code="invitation_invalid")
    if invitation.email != user.email.lower():
        raise PermissionRefused(f"This invitation is for {invitation.email}.", code="other_person")
    # Claimed by a conditional update: of two who accept at once, one goes on.
    still_open = _open_invitations(invitation.organization).filter(pk=invitation.pk)
    if not still_open.update(accepted_at=now, accepted_by=user):
        raise NotFound("This invitation is not valid any more.", code="invitation_invalid")
    membership, is_new = Membership.objects.for_organization(invitation.organization).get_or_create(
        organization=invitation.organization, user=user, defaults={"role": invitation.role}
    )
    if is_new:
        record_audit(
            organization=invitation.organization,
            actor=f"user:{user.email}",
            action="member.joined",
            target=user.email,
            details={"role": membership.role, "invited_by": invitation.invited_by},
        )
    return membership


@transaction.atomic
def revoke_invitation(*, organization: Organization, actor: str, invitation: Invitation, now: datetime) -> Invitation:
    """Withdraw an open invitation. Raises `Conflict` for one that is accepted or withdrawn."""
    if not _open_invitations(organization).filter(pk=invitation.pk).update(revoked_at=now):
        raise Conflict("This invitation is accepted or withdrawn already.", code="invitation_closed")
    invitation.revoked_at = now
    record_audit(organization=organization, actor=actor, action="invitation.revoked", target=invitation.email)
    return invitation


def _open_invitations(organization: Organization) -> TenantQuerySet:
    return Invitation.objects.for_organization(organization).filter(accepted_at__isnull=True, revoked_at__isnull=True)


def _enqueue_invitation_mail(invitation_id: int, token: str) -> None:
    from accounts.tasks import send_invitation_mail

    try:
        send_invitation_mail.delay(invitation_id, token)
    except BrokerUnavailable as error:
        # The invitation stands, and whoever made it was shown the link.
        logger.warning("invitation_mail_not_queued", invitation=invitation_id, reason=str(error))
