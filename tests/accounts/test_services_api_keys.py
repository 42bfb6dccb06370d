"""Issuing, rotating and revoking keys."""

from datetime import datetime, timedelta

import pytest

from accounts.models import ApiKey, AuditEntry, Organization
from accounts.services import IssuedKey, issue_api_key, revoke_api_key, rotate_api_key
from common.errors import Conflict, InvalidInput
from tests import factories

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def audit_of(organization: Organization) -> list[tuple[str, str]]:
    return list(AuditEntry.objects.for_organization(organization).order_by("id").values_list("action", "target"))


class TestIssue:
    def test_stores_the_rights_once_and_in_order(self, org: Organization) -> None:
        issued = issue_api_key(
            organization=org,
            actor="test",
            name="importer",
            scopes=["usage:read", "events:write", "usage:read"],
            metric_codes=["b", "a", "a"],
        )

        stored = ApiKey.objects.for_organization(org).get(pk=issued.api_key.pk)
        assert (stored.scopes, stored.metric_codes) == (["events:write", "usage:read"], ["a", "b"])
        assert issued.text.startswith(f"mb_{stored.prefix}_")
        assert audit_of(org)[-1] == ("api_key.created", stored.prefix)

    def test_needs_a_scope(self, org: Organization) -> None:
        with pytest.raises(InvalidInput):
            issue_api_key(organization=org, actor="test", name="idle", scopes=[])

    def test_refuses_the_customer_of_another_organization(self, org: Organization, other_org: Organization) -> None:
        foreign = factories.make_customer(organization=other_org)

        with pytest.raises(InvalidInput):
            issue_api_key(organization=org, actor="test", name="x", scopes=["usage:read"], customer=foreign)


class TestRotate:
    def test_successor_has_the_same_rights_and_another_secret(self, org: Organization, now: datetime) -> None:
        customer = factories.make_customer(organization=org)
        old = factories.make_api_key(
            organization=org, scopes=("usage:read",), customer=customer, metric_codes=("calls",)
        )

        new = rotate_api_key(organization=org, actor="test", api_key=old.api_key, now=now)

        assert new.text != old.text
        assert (new.api_key.scopes, new.api_key.customer, new.api_key.metric_codes, new.api_key.expires_at) == (
            ["usage:read"],
            customer,
            ["calls"],
            None,
        )
        stored = ApiKey.objects.for_organization(org).get(pk=old.api_key.pk)
        assert (stored.replaced_by, stored.expires_at) == (new.api_key, now + DAY)
        assert audit_of(org)[-1] == ("api_key.rotated", old.api_key.prefix)

    def test_grace_never_lengthens_the_old_keys_life(self, org: Organization, now: datetime) -> None:
        old = factories.make_api_key(organization=org, expires_at=now + timedelta(hours=1))

        rotate_api_key(organization=org, actor="test", api_key=old.api_key, now=now, grace=DAY)

        assert ApiKey.objects.for_organization(org).get(pk=old.api_key.pk).expires_at == now + timedelta(hours=1)

    def test_successor_lives_as_long_as_the_old_one_was_meant_to(self, org: Organization, now: datetime) -> None:
        old = factories.make_api_key(organization=org, expires_at=now + DAY)
        ApiKey.objects.for_organization(org).filter(pk=old.api_key.pk).update(created_at=now - 89 * DAY)

        new = rotate_api_key(organization=org, actor="test", api_key=old.api_key, now=now)

        assert new.api_key.expires_at == now + 90 * DAY

    def test_only_a_key_in_use_and_only_once(self, org: Organization, now: datetime) -> None:
        rotated, revoked = (factories.make_api_key(organization=org) for _ in range(2))
        expired = factories.make_api_key(organization=org, expires_at=now)
        rotate_api_key(organization=org, actor="test", api_key=rotated.api_key, now=now)
        revoke_api_key(organization=org, actor="test", api_key=revoked.api_key, now=now)
        count = ApiKey.objects.for_organization(org).count()

        for key in (rotated, revoked, expired):
            with pytest.raises(Conflict):
                rotate_api_key(organization=org, actor="test", api_key=key.api_key, now=now)
        assert ApiKey.objects.for_organization(org).count() == count

    @pytest.mark.parametrize("grace", [timedelta(seconds=-1), 30 * DAY + timedelta(seconds=1)])
    def test_grace_has_bounds(self, org: Organization, api_key: IssuedKey, now: datetime, grace: timedelta) -> None:
        with pytest.raises(InvalidInput):
            rotate_api_key(organization=org, actor="test", api_key=api_key.api_key, now=now, grace=grace)


class TestRevoke:
    def test_twice_is_once(self, org: Organization, api_key: IssuedKey, now: datetime) -> None:
        for moment in (now, now + DAY):
            key = revoke_api_key(organization=org, actor="test", api_key=api_key.api_key, now=moment)

        assert key.revoked_at == now
        assert [action for action, _ in audit_of(org)].count("api_key.revoked") == 1
