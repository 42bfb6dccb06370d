"""Writes to who is who at the forward port: map and unmap instances, choose how an organization takes records in.

Authorisation is the caller's: the operator may map for any organization, an organization's admins where
`queries.is_port_open_to` says so.
"""

from __future__ import annotations

from django.db import IntegrityError, connection, transaction

from accounts.models import Organization
from accounts.services import record_audit
from accounts.services.audit import change_fields
from common.errors import Conflict, InvalidInput, PermissionRefused
from metering.dialects.weave.domain import MAX_WORD_CHARACTERS
from metering.dialects.weave.models import Instance, QuarantinedRecord, WeaveSettings
from metering.dialects.weave.services.quarantine import MAPPING_LOCK


class InstanceMapped(Conflict):
    """The instance is mapped already. Does not tell by whom: that may be another organization."""

    code = "already_mapped"


class PortClosed(PermissionRefused):
    """The operator did not open the forward port to the organization."""

    code = "port_closed"


def map_instance(
    *, organization: Organization, internal_instance_id: str, customer_external_id: str, actor: str
) -> Instance:
    """Count the instance's records for the customer from now on.

    What waits of it becomes the organization's and goes on waiting: see `release_quarantined`.
    Raises `InstanceMapped` when the instance is mapped, `InvalidInput` for what no instance or customer is called.
    """
    _check_word("internal_instance_id", internal_instance_id)
    _check_word("customer", customer_external_id)
    try:
        with transaction.atomic():
            lock_mappings()
            instance = Instance.objects.create(
                organization=organization,
                internal_instance_id=internal_instance_id,
                customer_external_id=customer_external_id,
            )
            QuarantinedRecord.objects.all_tenants().filter(
                organization=None, internal_instance_id=internal_instance_id
            ).update(organization=organization)
            record_audit(
                organization=organization,
                actor=actor,
                action="weave_instance.mapped",
                target=internal_instance_id,
                details={"customer": customer_external_id},
            )
    except IntegrityError:
        raise InstanceMapped(f"The instance {internal_instance_id!r} is mapped already.") from None
    return instance


@transaction.atomic
def unmap_instance(*, organization: Organization, internal_instance_id: str, actor: str) -> bool:
    """Quarantine the instance's records from now on; what was counted stays. Returns whether it was mapped."""
    lock_mappings()
    rows = Instance.objects.for_organization(organization).filter(internal_instance_id=internal_instance_id)
    count, _ = rows.delete()
    if count:
        record_audit(
            organization=organization, actor=actor, action="weave_instance.unmapped", target=internal_instance_id
        )
    return bool(count)


@transaction.atomic
def update_weave_settings(*, organization: Organization, is_metric_auto_created: bool, actor: str) -> WeaveSettings:
    """Choose whether unknown amount types become metrics."""
    WeaveSettings.objects.get_or_create(organization=organization)
    settings: WeaveSettings = WeaveSettings.objects.for_organization(organization).select_for_update().get()
    change_fields(
        settings,
        {"is_metric_auto_created": is_metric_auto_created},
        organization=organization,
        actor=actor,
        action="weave_settings.updated",
        target="weave",
    )
    return settings


def lock_mappings() -> None:
    """Be the only one in this transaction to change who is mapped to whom."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [MAPPING_LOCK])


def _check_word(field: str, word: str) -> None:
    if not word or len(word) > MAX_WORD_CHARACTERS or "\x00" in word:
        raise InvalidInput.of(field, f"This has 1 to {MAX_WORD_CHARACTERS} characters, no NUL.")
