"""Roles, the last owner, invitations."""

import threading
from datetime import datetime, timedelta

import pytest
from django.core import mail
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from accounts.models import AuditEntry, Invitation, Membership, Organization, Role, User
from accounts.services import (
    IssuedInvitation,
    accept_invitation,
    change_member_role,
    invite_member,
    remove_member,
    revoke_invitation,
)
from accounts.tasks import send_invitation_mail
from common.errors import ApplicationError, Conflict, NotFound, PermissionRefused
from tests import factories

WEEK = timedelta(days=7)


def member(organization: Organization, user: User) -> Membership:
    return Membership.objects.for_organization(organization).get(user=user)


def roles(organization: Organization) -> dict[str, str]:
    rows = Membership.objects.for_organization(organization)
    return dict(rows.values_list("user__name", "role"))


@pytest.mark.django_db
class TestChangeRole:
    def test_owner_makes_an_owner(self, org: Organization, bob: User) -> None:
        change_member_role(
            organization=org, actor="user:a", actor_role=Role.OWNER, membership=member(org, bob), role=Role.OWNER
        )

        assert roles(org) == {"Alice": "owner", "Bob": "owner"}
        entry = AuditEntry.objects.for_organization(org).latest("id")
        assert (entry.action, entry.target, entry.details) == (
            "member.role_changed",
            "bob@example.test",
            {"role": {"from": "viewer", "to": "owner"}},
        )

    @pytest.mark.parametrize("actor_role", [Role.ADMIN, Role.DEVELOPER, Role.VIEWER])
    def test_nobody_else_does(self, org: Organization, bob: User, actor_role: Role) -> None:
        with pytest.raises(PermissionRefused):
            change_member_role(
                organization=org, actor="x", actor_role=actor_role, membership=member(org, bob), role=Role.OWNER
            )
        assert roles(org)["Bob"] == "viewer"

    def test_admin_does_not_demote_an_owner(self, org: Organization, alice: User) -> None:
        with pytest.raises(PermissionRefused):
            change_member_role(
                organization=org, actor="x", actor_role=Role.ADMIN, membership=member(org, alice), role=Role.VIEWER
            )

    def test_last_owner_stays(self, org: Organization, alice: User) -> None:
        with pytest.raises(Conflict) as refusal:
            change_member_role(
                organization=org, actor="x", actor_role=Role.OWNER, membership=member(org, alice), role=Role.ADMIN
            )
        assert refusal.value.code == "last_owner"

    def test_last_owner_may_be_told_to_stay_owner(self, org: Organization, alice: User) -> None:
        change_member_role(
            organization=org, actor="x", actor_role=Role.OWNER, membership=member(org, alice), role=Role.OWNER
        )


@pytest.mark.django_db
class TestRemove:
    def test_admin_removes_a_viewer(self, org: Organization, bob: User) -> None:
        remove_member(organization=org, actor="user:a", actor_role=Role.ADMIN, membership=member(org, bob))

        assert roles(org) == {"Alice": "owner"}
        assert AuditEntry.objects.for_organization(org).latest("id").action == "member.removed"

    def test_anybody_leaves_by_themselves(self, org: Organization, bob: User) -> None:
        remove_member(organization=org, actor=f"user:{bob.email}", actor_role=Role.VIEWER, membership=member(org, bob))

        assert roles(org) == {"Alice": "owner"}
        assert AuditEntry.objects.for_organization(org).latest("id").action == "member.left"

    def test_last_owner_cannot_leave(self, org: Organization, alice: User) -> None:
        with pytest.raises(Conflict):
            remove_member(
                organization=org, actor=f"user:{alice.email}", actor_role=Role.OWNER, membership=member(org, alice)
            )

    def test_who_is_gone_already_is_not_found(self, org: Organization, bob: User) -> None:
        gone = member(org, bob)
        Membership.objects.for_organization(org).filter(pk=gone.pk).delete()

        with pytest.raises(NotFound):
            remove_member(organization=org, actor="x", actor_role=Role.OWNER, membership=gone)


@pytest.mark.django_db(transaction=True)
def test_two_owners_leaving_at_once_leave_one(org: Organization, alice: User) -> None:
    dora = factories.make_user(name="Dora")
    factories.make_membership(organization=org, user=dora, role=Role.OWNER)
    together = threading.Barrier(2)
    outcomes: list[str] = []

    def leave(user: User, membership: Membership) -> None:
        together.wait()
        try:
            remove_member(organization=org, actor=f"user:{user.email}", actor_role=Role.OWNER, membership=membership)
            outcomes.append("left")
        except ApplicationError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=leave, args=(user, member(org, user))) for user in (alice, dora)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["last_owner", "left"]
    assert list(roles(org).values()) == ["owner"]


@pytest.mark.django_db
class TestInvite:
    def invite(
        self,
        org: Organization,
        now: datetime,
        *,
        email: str = "Eve@Example.test",
        role: Role = Role.DEVELOPER,
        actor_role: Role = Role.ADMIN,
    ) -> IssuedInvitation:
        return invite_member(organization=org, actor="user:a", actor_role=actor_role, email=email, role=role, now=now)

    def test_invited_person_joins_with_the_role(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)
        eve = factories.make_user(name="Eve")

        membership = accept_invitation(token=issued.token, user=eve, now=now + WEEK - timedelta(seconds=1))

        assert (membership.organization, membership.role) == (org, "developer")
        actions = AuditEntry.objects.for_organization(org).order_by("id").values_list("action", "actor")
        assert list(actions)[-2:] == [("invitation.created", "user:a"), ("member.joined", "user:eve@example.test")]

    def test_token_is_kept_as_a_hash(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)

        stored = Invitation.objects.for_organization(org).get()
        assert issued.token.encode() not in bytes(stored.token_hash)
        assert len(bytes(stored.token_hash)) == 32

    def test_works_once(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)
        eve = factories.make_user(name="Eve")
        accept_invitation(token=issued.token, user=eve, now=now)

        with pytest.raises(NotFound):
            accept_invitation(token=issued.token, user=eve, now=now)

    @pytest.mark.parametrize("token", ["", "x", "\x00", "ä", "\ud800", "x" * 100_000])
    def test_odd_tokens_are_not_found(self, bob: User, now: datetime, token: str) -> None:
        with pytest.raises(NotFound):
            accept_invitation(token=token, user=bob, now=now)

    def test_ends_after_a_week(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)

        with pytest.raises(NotFound):
            accept_invitation(token=issued.token, user=factories.make_user(name="Eve"), now=now + WEEK)

    def test_is_for_the_invited_person_alone(self, org: Organization, charlie: User, now: datetime) -> None:
        issued = self.invite(org, now)

        with pytest.raises(PermissionRefused):
            accept_invitation(token=issued.token, user=charlie, now=now)
        assert "Charlie" not in roles(org)

    def test_withdrawn_is_not_found(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)
        revoke_invitation(organization=org, actor="user:a", invitation=issued.invitation, now=now)

        with pytest.raises(NotFound):
            accept_invitation(token=issued.token, user=factories.make_user(name="Eve"), now=now)
        with pytest.raises(Conflict):
            revoke_invitation(organization=org, actor="user:a", invitation=issued.invitation, now=now)

    def test_second_invitation_replaces_the_first(self, org: Organization, now: datetime) -> None:
        first, second = self.invite(org, now), self.invite(org, now, role=Role.VIEWER)
        eve = factories.make_user(name="Eve")

        with pytest.raises(NotFound):
            accept_invitation(token=first.token, user=eve, now=now)
        assert accept_invitation(token=second.token, user=eve, now=now).role == "viewer"

    def test_member_is_not_invited_again(self, org: Organization, bob: User, now: datetime) -> None:
        with pytest.raises(Conflict):
            self.invite(org, now, email="BOB@example.test")

    def test_who_became_a_member_meanwhile_keeps_the_role(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now, role=Role.VIEWER)
        eve = factories.make_user(name="Eve")
        factories.make_membership(organization=org, user=eve, role=Role.ADMIN)

        assert accept_invitation(token=issued.token, user=eve, now=now).role == "admin"

    @pytest.mark.parametrize(
        ("actor_role", "role"),
        [(Role.ADMIN, Role.OWNER), (Role.DEVELOPER, Role.VIEWER), (Role.VIEWER, Role.VIEWER)],
    )
    def test_nobody_gives_more_than_they_may(
        self, org: Organization, now: datetime, actor_role: Role, role: Role
    ) -> None:
        with pytest.raises(PermissionRefused):
            self.invite(org, now, actor_role=actor_role, role=role)
        assert not Invitation.objects.for_organization(org).exists()

    def test_mail_goes_out_after_the_commit_with_the_link(
        self, org: Organization, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks, eager_tasks: None
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True):
            issued = self.invite(org, timezone.now())
            assert mail.outbox == []

        [message] = mail.outbox
        assert message.to == ["eve@example.test"]
        assert f"/invitations/{issued.token}" in message.body
        assert "Initech" in message.subject

    def test_no_mail_for_an_invitation_that_is_settled(self, org: Organization, now: datetime) -> None:
        issued = self.invite(org, now)
        revoke_invitation(organization=org, actor="user:a", invitation=issued.invitation, now=now)

        send_invitation_mail(issued.invitation.pk, issued.token)

        assert mail.outbox == []
