"""Customers: made by hand, or on the first sight of an event that names them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import IntegrityError, connection, transaction

from accounts.models import Customer, Organization
from accounts.services.audit import change_fields, record_audit, refuse_invalid
from common.errors import Conflict

# On the ingest path: one statement for all that a batch brings. Uses customer_external_id_once.
_CREATE_MISSING = """
INSERT INTO accounts_customer (organization_id, external_id, name, created_at)
SELECT %(organization)s, external_id, '', now()
FROM unnest(%(external_ids)s::text[]) AS missing(external_id)
ORDER BY external_id COLLATE "C"
ON CONFLICT DO NOTHING
"""


@transaction.atomic
def create_customer(
    *,
    organization: Organization,
    actor: str,
    external_id: str,
    name: str = "",
    zone: str | None = None,
    billing_cycle_day: int | None = None,
) -> Customer:
    """Raises `InvalidInput`, and `Conflict` where the organization has this external id already."""
    customer = Customer(
        organization=organization,
        external_id=external_id,
        name=name,
        zone=zone,
        billing_cycle_day=billing_cycle_day,
    )
    refuse_invalid(customer)
    try:
        with transaction.atomic():
            customer.save(force_insert=True)
    except IntegrityError:
        raise Conflict("A customer with this external_id exists.", code="already_exists") from None
    record_audit(organization=organization, actor=actor, action="customer.created", target=external_id)
    return customer


@transaction.atomic
def update_customer(
    *, organization: Organization, actor: str, customer: Customer, changes: Mapping[str, Any]
) -> Customer:
    """Change name, zone or cycle day. Periods are computed on reading, so a change also moves those of the past."""
    current = Customer.objects.for_organization(organization).select_for_update(no_key=True).get(pk=customer.pk)
    change_fields(
        current,
        changes,
        organization=organization,
        actor=actor,
        action="customer.updated",
        target=current.external_id,
    )
    return current


def ensure_customers(*, organization: Organization, external_ids: Iterable[str]) -> dict[str, int]:
    """Return the ids of these customers, creating those that are new. Safe against a racing twin.

    Inserts in the order of the external id, so that two racing batches cannot deadlock. Customers that events
    bring are not in the audit log: nobody decided anything.
    """
    wanted = sorted(set(external_ids))
    known = _customer_ids(organization, wanted)
    missing = [external_id for external_id in wanted if external_id not in known]
    if missing:
        with connection.cursor() as cursor:
            cursor.execute(_CREATE_MISSING, {"organization": organization.pk, "external_ids": missing})
        known |= _customer_ids(organization, missing)
    return known


def _customer_ids(organization: Organization, external_ids: Sequence[str]) -> dict[str, int]:
    rows = Customer.objects.for_organization(organization).filter(external_id__in=external_ids)
    return dict(rows.values_list("external_id", "pk"))
