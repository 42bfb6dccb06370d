"""An auditor for tests: what must hold of all invoices and credits of an organization, whatever happened to them.

Adds up stored rows by itself; what a period costs now it asks the engine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal

from accounts.models import Organization
from billing.domain.periods import BillingPeriod as Span
from billing.models import (
    BillingPeriod,
    BillingSettings,
    CreditEntry,
    CreditGrant,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceState,
    PeriodState,
    Subscription,
)
from billing.queries.spend import rate_terms
from billing.queries.terms import list_period_terms


def audit(organization: Organization) -> None:
    """Check every invoice by itself, the numbers, the credits, and that periods are contiguous."""
    invoices = list(Invoice.objects.for_organization(organization))
    lines = defaultdict(list)
    for line in InvoiceLine.objects.for_organization(organization).order_by("position"):
        lines[line.invoice_id].append(line)
        assert sum(Decimal(step["amount"]) for step in line.steps) == line.amount_minor, (line.name, line.steps)
    for invoice in invoices:
        of_one = lines[invoice.pk]
        if invoice.state == InvoiceState.DRAFT:
            assert not of_one
            continue
        assert [line.position for line in of_one] == list(range(1, len(of_one) + 1))
        assert sum(line.amount_minor for line in of_one) == invoice.subtotal_minor
        assert sum(int(tax["amount_minor"]) for tax in invoice.taxes) == invoice.tax_minor
        assert invoice.subtotal_minor + invoice.tax_minor == invoice.total_minor
    _audit_numbers(invoices)
    _audit_credits(organization, invoices)
    _audit_periods(organization)


def audit_charges(organization: Organization) -> dict[int, int]:
    """Check that what was charged of each finalised period that is not waived is what it costs now; return that.

    Where credit notes gave something back, as much may be charged above that. What each adjustment said when it was
    made is checked as well.
    """
    _audit_adjustments(organization)
    rows = BillingPeriod.objects.for_organization(organization).filter(state=PeriodState.FINALISED, is_waived=False)
    periods = list(rows.select_related("subscription__customer", "subscription__organization").order_by("pk"))
    placed = [(row.subscription, Span(row.starts_at, row.ends_at, row.is_trial)) for row in periods]
    rated = rate_terms(list_period_terms(placed, organization=organization), organization=organization)
    costs = {row.pk: each.total_minor for row, each in zip(periods, rated, strict=True)}
    charged: Counter[int] = Counter({row.pk: 0 for row in periods})
    kinds = (InvoiceKind.PERIOD, InvoiceKind.ADJUSTMENT)
    final = InvoiceLine.objects.for_organization(organization).filter(
        invoice__state=InvoiceState.FINALISED, invoice__kind__in=kinds, period__in=charged
    )
    for line in final.exclude(kind="true_up"):
        charged[line.period_id] += line.amount_minor
    given: Counter[int] = Counter()
    notes = InvoiceLine.objects.for_organization(organization).filter(
        invoice__state=InvoiceState.FINALISED, invoice__kind=InvoiceKind.CREDIT_NOTE, period__in=charged
    )
    for line in notes:
        given[line.period_id] += max(0, -line.amount_minor)
    for pk, cost in costs.items():
        assert cost <= charged[pk] <= cost + given[pk], (pk, cost, charged[pk], given[pk])
    return costs


def _audit_adjustments(organization: Organization) -> None:
    """An adjustment brings its period to what it came to then, and below nothing only where that was not given back."""
    rows = InvoiceLine.objects.for_organization(organization).select_related("invoice")
    lines = list(rows.filter(invoice__state__in=(InvoiceState.FINALISED, InvoiceState.VOID)))
    for line in lines:
        if line.kind != "adjustment" or line.invoice.state == InvoiceState.VOID:
            continue
        at, charged, given = line.invoice.issued_at, 0, 0
        for other in lines:
            invoice = other.invoice
            is_held = invoice.voided_at is None or invoice.voided_at > at
            if other.period_id != line.period_id or not is_held:
                continue
            if invoice.kind == InvoiceKind.CREDIT_NOTE:
                given += max(0, -other.amount_minor) if invoice.issued_at <= at else 0
            elif (invoice.issued_at, invoice.number) < (at, line.invoice.number):
                charged += other.amount_minor
        comes_to = sum(Decimal(step["amount"]) for step in line.steps if step["kind"] == "recomputed")
        left = charged + line.amount_minor
        assert comes_to == (left if line.amount_minor > 0 else left - given), (line.steps, charged, given)


def _audit_numbers(invoices: list[Invoice]) -> None:
    """Numbers of a series are 1, 2, 3 …, those of void invoices too."""
    serials = defaultdict(list)
    for invoice in invoices:
        if invoice.number:
            prefix, _, serial = invoice.number.rpartition("-")
            serials[prefix].append(int(serial))
    for found in serials.values():
        assert sorted(found) == list(range(1, len(found) + 1))


def _audit_credits(organization: Organization, invoices: list[Invoice]) -> None:
    """No grant is overdrawn, none is created or lost on the way, and what invoices say was paid was taken."""
    left: Counter[int] = Counter()
    taken: Counter[int] = Counter()
    for entry in CreditEntry.objects.for_organization(organization):
        left[entry.grant_id] += entry.amount_minor
        if entry.kind in {"applied", "returned"}:
            taken[entry.invoice_id] -= entry.amount_minor
    for grant in CreditGrant.objects.for_organization(organization):
        assert 0 <= left[grant.pk] <= grant.amount_minor
        assert grant.voided_at is None or left[grant.pk] == 0
    for invoice in invoices:
        if invoice.state == InvoiceState.FINALISED and invoice.kind != InvoiceKind.CREDIT_NOTE:
            assert taken[invoice.pk] == invoice.credits_minor
            assert invoice.due_minor == max(0, invoice.total_minor - invoice.credits_minor)
        else:
            assert taken[invoice.pk] == 0


def _audit_periods(organization: Organization) -> None:
    for subscription in Subscription.objects.for_organization(organization):
        periods = list(BillingPeriod.objects.for_organization(organization).filter(subscription=subscription))
        periods.sort(key=lambda period: period.starts_at)
        ends = [subscription.starts_at, *(period.ends_at for period in periods)]
        assert [period.starts_at for period in periods] == ends[:-1]
        assert subscription.ends_at is None or ends[-1] <= subscription.ends_at


def settings_of(organization: Organization, **changes: object) -> BillingSettings:
    """Write how an organization invoices, whatever the bounds for people are."""
    row, _ = BillingSettings.objects.update_or_create(organization=organization, defaults=changes)
    return row
