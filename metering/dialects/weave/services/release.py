"""Letting records out of the quarantine, after their instance was mapped or the cause of their refusal was fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import msgspec
from django.db import transaction
from django.db.models import Q, QuerySet

from accounts.models import Organization
from accounts.services import record_audit
from metering.dialects.weave.domain import Arrival, Refused
from metering.dialects.weave.models import Instance, QuarantinedRecord
from metering.dialects.weave.queries.instances import Owner
from metering.dialects.weave.services.intake import count_amounts, read_arrivals

BATCH_RECORDS = 1_000
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What a release did: how many records are counted now (or were already), and how many still wait."""

    counted: int
    still_waiting: int


def release_quarantined(
    *,
    organization: Organization,
    internal_instance_id: str | None = None,
    ids: Sequence[int] | None = None,
    actor: str,
    now: datetime,
) -> ReleaseResult:
    """Ingest waiting records of the organization's mapped instances again; those that are counted leave.

    All of them, or those of one instance, or those with the ids. Each keeps its arrival. Safe to repeat, and when
    it is cut off: what was counted and still waits is a duplicate the next time.
    """
    waiting = _list_waiting(organization, internal_instance_id, ids)
    counted = still_waiting = after = 0
    while rows := list(waiting.filter(pk__gt=after).order_by("pk")[:BATCH_RECORDS]):
        after = rows[-1].pk
        refused = _release(organization, rows, now)
        counted += len(rows) - refused
        still_waiting += refused
    if counted:
        record_audit(
            organization=organization,
            actor=actor,
            action="weave_quarantine.released",
            target=f"{counted} records",
            details={"still_waiting": still_waiting},
        )
    return ReleaseResult(counted, still_waiting)


def _list_waiting(
    organization: Organization, internal_instance_id: str | None, ids: Sequence[int] | None
) -> QuerySet[QuarantinedRecord]:
    """Return what may be released: whole records of the organization's instances that no other organization has."""
    instances = Instance.objects.for_organization(organization)
    if internal_instance_id is not None:
        instances = instances.filter(internal_instance_id=internal_instance_id)
    rows: QuerySet[QuarantinedRecord] = QuarantinedRecord.objects.all_tenants().filter(
        Q(organization=organization) | Q(organization=None),
        is_whole=True,
        internal_instance_id__in=instances.values("internal_instance_id"),
    )
    return rows if ids is None else rows.filter(pk__in=ids)


def _release(organization: Organization, rows: Sequence[QuarantinedRecord], now: datetime) -> int:
    """Count what can be counted now and forget that it waited; note of the rest why not. Return how many that are."""
    arrivals = {row.pk: Arrival(_decode(row.record), row.peer, row.received_at) for row in rows}
    refused = read_arrivals(arrivals.values())
    readable = [arrival for arrival in arrivals.values() if arrival.amount is not None]
    names = {arrival.instance_id for arrival in readable}
    instances = Instance.objects.for_organization(organization).filter(internal_instance_id__in=names)
    owners = {row.internal_instance_id: Owner(organization.pk, row.customer_external_id) for row in instances}
    # One that was unmapped in this moment is left as it is.
    readable = [arrival for arrival in readable if arrival.instance_id in owners]
    if readable:
        refused += count_amounts(organization=organization, arrivals=readable, owners=owners, now=now)
    return _settle(organization, arrivals, readable, refused)


@transaction.atomic
def _settle(
    organization: Organization, arrivals: dict[int, Arrival], readable: list[Arrival], refused: list[Refused]
) -> int:
    why = {id(refusal.arrival): refusal for refusal in refused}
    released = {id(arrival) for arrival in readable} - why.keys()
    done = [pk for pk, arrival in arrivals.items() if id(arrival) in released]
    for pk, arrival in arrivals.items():
        refusal = why.get(id(arrival))
        if refusal is not None:
            QuarantinedRecord.objects.all_tenants().filter(pk=pk).update(
                organization=organization, reason=refusal.reason, message=refusal.message
            )
    QuarantinedRecord.objects.all_tenants().filter(pk__in=done).delete()
    return len(arrivals) - len(done)
