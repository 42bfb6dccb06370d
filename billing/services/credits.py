"""Writes of the credit ledger. Entries are only ever added; what is left of a grant is their sum and never negative.

Whoever takes from grants holds the row lock of their customer, so that nothing is taken twice. What pays an invoice
is decided by `billing.domain.credits`; invoices themselves are written elsewhere, with what is returned here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, Sum
from django.db.models.functions import Coalesce

from accounts.models import Customer, Organization
from accounts.services import record_audit
from accounts.services.audit import refuse_invalid
from billing.domain.credits import Grant, apply_credits
from billing.domain.currencies import EXPONENTS
from billing.models import BillingPeriod, CreditEntry, CreditGrant, EntryKind, GrantKind, Invoice
from billing.queries.credits import get_grant, list_grants_to_expire, list_usable_grants
from billing.services.subscriptions import KeyReused
from common.errors import Conflict, InvalidInput

# A trillion of most currencies; sums of it still fit the column.
MAX_AMOUNT_MINOR = 10**14
MAX_PRIORITY = 1000
DEFAULT_PRIORITY = 100
# It was the customer's money before any grant.
CARRIED_OVER_PRIORITY = 0
MAX_AHEAD = timedelta(days=36525)
# So many customers at once lose what has expired.
CHUNK = 500


class CreditSpent(Conflict):
    code = "credit_spent"


@dataclass(frozen=True, slots=True)
class Granted:
    """`is_new` is False where the request was a repeated one."""

    grant: CreditGrant
    is_new: bool


@transaction.atomic
def grant_credits(
    *,
    organization: Organization,
    customer: Customer,
    currency: str,
    amount_minor: int,
    kind: GrantKind,
    actor: str,
    now: datetime,
    name: str = "",
    priority: int = DEFAULT_PRIORITY,
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    idempotency_key: str = "",
) -> Granted:
    """Give a customer credit, in force from `effective_at` (None: now) up to, and without, `expires_at`.

    Repeating a request under its idempotency key answers with the same grant, whatever became of it. Raises
    `KeyReused` for a key of another request.
    """
    grant = CreditGrant(
        organization=organization,
        customer=customer,
        kind=kind,
        name=name,
        currency=currency,
        amount_minor=amount_minor,
        priority=priority,
        effective_at=effective_at or now,
        expires_at=expires_at,
        idempotency_key=idempotency_key,
        created_at=now,
    )
    earlier = _find_earlier(grant, is_effective_at_once=effective_at is None)
    if earlier is not None:
        return Granted(earlier, is_new=False)
    _refuse_bad(grant, now)
    try:
        with transaction.atomic():
            grant.save()
    except IntegrityError:
        # Another request under this key was just faster.
        earlier = _find_earlier(grant, is_effective_at_once=effective_at is None)
        assert earlier is not None  # no other constraint is left to break
        return Granted(earlier, is_new=False)
    _add_entries([_entry(grant, EntryKind.GRANTED, amount_minor, now)])
    details = {"kind": str(kind), "currency": currency, "amount_minor": amount_minor, "priority": priority}
    _record(grant, "credit.granted", actor, details)
    return Granted(get_grant(organization=organization, grant_id=grant.pk), is_new=True)


@transaction.atomic
def void_grant(*, grant: CreditGrant, actor: str, now: datetime) -> CreditGrant:
    """Take back what is left of a grant; what it has paid stays paid. Of one with nothing left: nothing."""
    organization = grant.organization
    _lock_customers(organization, [grant.customer_id])
    locked = get_grant(organization=organization, grant_id=grant.pk)
    left = _remaining(locked)
    if locked.voided_at is not None or left == 0:
        return locked
    locked.voided_at = now
    locked.save(update_fields=["voided_at"])
    _add_entries([_entry(locked, EntryKind.VOIDED, -left, now)])
    _record(locked, "credit.voided", actor, {"currency": locked.currency, "amount_minor": left})
    return get_grant(organization=organization, grant_id=grant.pk)


def expire_grants(*, organization: Organization, now: datetime) -> int:
    """Book what is left of grants that can pay nothing any more; return of how many. Again: nothing.

    So many customers at a time, each time in a transaction.
    """
    due = list_grants_to_expire(organization=organization, now=now)
    customer_ids = sorted(set(due.values_list("customer_id", flat=True)))
    return sum(
        _expire_of_customers(organization, customer_ids[start : start + CHUNK], now)
        for start in range(0, len(customer_ids), CHUNK)
    )


@transaction.atomic
def _expire_of_customers(organization: Organization, customer_ids: Sequence[int], now: datetime) -> int:
    _lock_customers(organization, customer_ids)
    due = list(list_grants_to_expire(organization=organization, now=now).filter(customer_id__in=customer_ids))
    _add_entries([_entry(grant, EntryKind.EXPIRED, -_remaining(grant), now) for grant in due])
    return len(due)


# --- invoices -------------------------------------------------------------------------------------------------


@transaction.atomic
def apply_grants_to(invoices: Sequence[Invoice], *, now: datetime) -> dict[int, int]:
    """Pay invoices of one organization from the credits of their customers; return how much of each, by its id.

    Call it once for an invoice, in the transaction that finalises it: the invoice has its total and its row, and gets
    what is returned here from the caller. A grant pays where it is in force at the end of the invoice's period;
    of several invoices of a customer, the one whose period ended first is paid first. An invoice that comes to
    nothing or less is left alone. Locks the customers that have grants, by id. Four queries and one insert, however
    many the invoices; two where no customer has anything.
    """
    paid = {invoice.pk: 0 for invoice in invoices}
    due = [invoice for invoice in invoices if invoice.total_minor > 0]
    if not due:
        return paid
    organization_id = due[0].organization_id
    customer_ids = _lock_customers(organization_id, {invoice.customer_id for invoice in due}, with_grants_only=True)
    if not customer_ids:
        return paid
    # Read under the locks: nobody takes from them meanwhile.
    usable = list_usable_grants(organization=organization_id, customer_ids=customer_ids)
    ends = _period_ends(organization_id, due)
    entries: list[CreditEntry] = []
    for invoice in sorted(due, key=lambda invoice: (ends[invoice.period_id], invoice.pk)):
        grants = usable.get((invoice.customer_id, invoice.currency), [])
        taken = dict(apply_credits(invoice.total_minor, grants, at=ends[invoice.period_id]))
        usable[invoice.customer_id, invoice.currency] = _without(grants, taken)
        paid[invoice.pk] = sum(taken.values())
        entries += [
            CreditEntry(
                organization_id=organization_id,
                grant_id=grant_id,
                customer_id=invoice.customer_id,
                kind=EntryKind.APPLIED,
                amount_minor=-amount,
                invoice=invoice,
                created_at=now,
            )
            for grant_id, amount in taken.items()
        ]
    _add_entries(entries)
    return paid


@transaction.atomic
def return_credits(*, invoice: Invoice, now: datetime) -> int:
    """Undo what an invoice did to the credits, as it is voided; return how much was paid with them. Again: nothing.

    What it took goes back to the grants it came from: a voided one keeps nothing of it, an expired one until it
    expires anew. What it carried over is voided; raises `CreditSpent` where that has paid another invoice meanwhile,
    which is to be voided first.
    """
    organization_id = invoice.organization_id
    _lock_customers(organization_id, [invoice.customer_id])
    rows = CreditEntry.objects.for_organization(organization_id).filter(invoice=invoice)
    applied = list(rows.filter(kind=EntryKind.APPLIED).select_related("grant").order_by("pk"))
    returned = set(rows.filter(kind=EntryKind.RETURNED).values_list("grant_id", flat=True))
    due = [entry for entry in applied if entry.grant_id not in returned]
    entries = [_entry(entry.grant, EntryKind.RETURNED, -entry.amount_minor, now, invoice) for entry in due]
    entries += [
        _entry(entry.grant, EntryKind.VOIDED, entry.amount_minor, now, invoice)
        for entry in due
        if entry.grant.voided_at is not None
    ]
    _add_entries(entries)
    _take_back_carried_over(invoice, now)
    return -sum(entry.amount_minor for entry in applied)


@transaction.atomic
def carry_over(*, invoice: Invoice, now: datetime) -> CreditGrant | None:
    """Make a grant of what an invoice comes to below nothing, less what of a credit note settled the invoice that it
    credits; None where nothing is left. Again: the same grant.

    It is in force from the end of the invoice's period on, so that the next invoice has it, before any other grant.
    """
    amount_minor = -invoice.total_minor - invoice.credits_minor
    if amount_minor <= 0:
        return None
    rows = CreditGrant.objects.for_organization(invoice.organization_id)
    earlier: CreditGrant | None = rows.filter(source_invoice=invoice).first()
    if earlier is not None:
        return earlier
    grant: CreditGrant = CreditGrant.objects.create(
        organization_id=invoice.organization_id,
        customer_id=invoice.customer_id,
        kind=GrantKind.CARRIED_OVER,
        currency=invoice.currency,
        amount_minor=amount_minor,
        priority=CARRIED_OVER_PRIORITY,
        effective_at=_period_ends(invoice.organization_id, [invoice])[invoice.period_id],
        source_invoice=invoice,
        created_at=now,
    )
    _add_entries([_entry(grant, EntryKind.GRANTED, grant.amount_minor, now)])
    return grant


def _take_back_carried_over(invoice: Invoice, now: datetime) -> None:
    rows = CreditGrant.objects.for_organization(invoice.organization_id)
    grant: CreditGrant | None = rows.filter(source_invoice=invoice).first()
    if grant is None:
        return
    entries = CreditEntry.objects.for_organization(grant.organization_id).filter(grant=grant)
    is_of_invoices = Q(kind__in=(EntryKind.APPLIED, EntryKind.RETURNED))
    sums = entries.aggregate(left=Sum("amount_minor"), spent=Coalesce(Sum("amount_minor", filter=is_of_invoices), 0))
    # Of one that is void too: only what was left of it was taken back.
    if sums["spent"]:
        raise CreditSpent("What this invoice carried over has paid another invoice; void that one first.")
    if grant.voided_at is not None:
        return
    grant.voided_at = now
    grant.save(update_fields=["voided_at"])
    _add_entries([_entry(grant, EntryKind.VOIDED, -sums["left"], now)])


# --- the ledger -----------------------------------------------------------------------------------------------


def _find_earlier(grant: CreditGrant, *, is_effective_at_once: bool) -> CreditGrant | None:
    """Return the grant that was made under the same key. Raises `KeyReused` if it is of something else."""
    if not grant.idempotency_key:
        return None
    rows = CreditGrant.objects.for_organization(grant.organization_id).filter(idempotency_key=grant.idempotency_key)
    earlier: CreditGrant | None = rows.first()
    if earlier is None:
        return None
    names = ("customer_id", "kind", "name", "currency", "amount_minor", "priority", "expires_at")
    is_same = all(getattr(earlier, name) == getattr(grant, name) for name in names)
    # One that was to be in force at once was so when it was made, and not when it is asked for again.
    effective_at = earlier.created_at if is_effective_at_once else grant.effective_at
    if not is_same or earlier.effective_at != effective_at:
        raise KeyReused("This idempotency key was used for another grant.")
    return get_grant(organization=grant.organization, grant_id=earlier.pk)


def _refuse_bad(grant: CreditGrant, now: datetime) -> None:
    """Raise `InvalidInput` for a grant that nobody may make."""
    if grant.currency not in EXPONENTS:
        raise InvalidInput.of("currency", "Use a currency of ISO 4217, like EUR.", "invalid_currency")
    if grant.kind not in {GrantKind.PREPAID, GrantKind.PROMOTIONAL}:
        raise InvalidInput.of("kind", "A grant is prepaid or promotional.", "invalid_choice")
    if not 1 <= grant.amount_minor <= MAX_AMOUNT_MINOR:
        raise InvalidInput.of("amount_minor", f"From 1 to {MAX_AMOUNT_MINOR}.", "out_of_range")
    if not 0 <= grant.priority <= MAX_PRIORITY:
        raise InvalidInput.of("priority", f"From 0 to {MAX_PRIORITY}.", "out_of_range")
    for name in ("effective_at", "expires_at"):
        at: datetime | None = getattr(grant, name)
        if at is not None and at > now + MAX_AHEAD:
            raise InvalidInput.of(name, "A time within a hundred years.", "out_of_range")
    if grant.expires_at is not None and grant.expires_at <= grant.effective_at:
        raise InvalidInput.of("expires_at", "It expires after it comes into force.", "invalid_combination")
    refuse_invalid(grant)


def _lock_customers(
    organization: Organization | int, customer_ids: Collection[int], *, with_grants_only: bool = False
) -> list[int]:
    """Lock customers until the end of the transaction, in the order of their ids, as everybody does; return which."""
    rows = Customer.objects.for_organization(organization).filter(pk__in=customer_ids)
    if with_grants_only:
        grants = CreditGrant.objects.for_organization(organization).filter(
            customer=OuterRef("pk"), voided_at__isnull=True
        )
        rows = rows.filter(Exists(grants))
    return list(rows.order_by("pk").select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))


def _period_ends(organization_id: int, invoices: Sequence[Invoice]) -> dict[int, datetime]:
    rows = BillingPeriod.objects.for_organization(organization_id)
    return dict(rows.filter(pk__in={invoice.period_id for invoice in invoices}).values_list("pk", "ends_at"))


def _without(grants: Sequence[Grant], taken: dict[int, int]) -> list[Grant]:
    return [replace(grant, remaining_minor=grant.remaining_minor - taken.get(grant.id, 0)) for grant in grants]


def _remaining(grant: CreditGrant) -> int:
    """Return what is left of a grant that `billing.queries.credits` read."""
    return int(grant.remaining_minor)  # type: ignore[attr-defined]  # annotated


def _entry(
    grant: CreditGrant, kind: EntryKind, amount_minor: int, now: datetime, invoice: Invoice | None = None
) -> CreditEntry:
    return CreditEntry(
        organization_id=grant.organization_id,
        grant=grant,
        customer_id=grant.customer_id,
        kind=kind,
        amount_minor=amount_minor,
        invoice=invoice,
        created_at=now,
    )


def _add_entries(entries: Sequence[CreditEntry]) -> None:
    CreditEntry.objects.bulk_create(entries, batch_size=1000)


def _record(grant: CreditGrant, action: str, actor: str, details: dict[str, object]) -> None:
    record_audit(
        organization=grant.organization,
        actor=actor,
        action=action,
        target=f"{grant.pk} of {grant.customer.external_id}"[:320],
        details=details,
    )
