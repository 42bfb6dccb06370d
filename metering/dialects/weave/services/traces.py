"""What the dialect keeps of a customer (`metering.traces`): their instances, and the records of these that wait.

Once they are let go, records of the instances are of nobody's, like those of any unknown instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import models
from django.db.models import Q

from accounts.models import AuditEntry, Customer, Organization
from common.models import TenantQuerySet
from metering.dialects.weave.models import Instance, QuarantinedRecord
from metering.dialects.weave.queries.instances import find_owners
from metering.dialects.weave.services.instances import lock_mappings


def iterate_rows(*, organization: Organization, customer: Customer) -> Iterator[models.Model]:
    yield from _list_instances(organization, customer).order_by("pk")
    yield from _list_waiting(organization, _list_names(organization, customer)).order_by("pk").iterator()


def let_go(*, organization: Organization, customer: Customer, by: str, now: datetime) -> None:
    """Unmap the instances, delete what waits of them, and take their ids out of the audit log."""
    lock_mappings()
    names = _list_names(organization, customer)
    entries = AuditEntry.objects.for_organization(organization).filter(action__startswith="weave_instance.")
    entries.filter(target__in=names).update(target=by, details={})
    entries.filter(details__customer=customer.external_id).update(target=by, details={})
    _list_waiting(organization, names).delete()
    _list_instances(organization, customer).delete()


def _list_instances(organization: Organization, customer: Customer) -> TenantQuerySet:
    return Instance.objects.for_organization(organization).filter(customer_external_id=customer.external_id)


def _list_names(organization: Organization, customer: Customer) -> list[str]:
    """Return the ids of the instances that are theirs, or were and are nobody else's now."""
    theirs = set(_list_instances(organization, customer).values_list("internal_instance_id", flat=True))
    mapped = AuditEntry.objects.for_organization(organization).filter(
        action="weave_instance.mapped", details__customer=customer.external_id
    )
    former = set(mapped.values_list("target", flat=True)) - theirs
    return sorted(theirs | (former - find_owners(former).keys()))


def _list_waiting(organization: Organization, names: list[str]) -> TenantQuerySet:
    """Return what waits of the instances: it is the organization's, or nobody's yet."""
    rows: TenantQuerySet = QuarantinedRecord.objects.all_tenants().filter(
        Q(organization=organization) | Q(organization=None), internal_instance_id__in=names
    )
    return rows
