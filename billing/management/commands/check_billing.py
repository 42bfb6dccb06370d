"""`manage.py check_billing`: compare billed usage now, or derive invoices again, and say what differs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Organization
from billing.models import Invoice, InvoiceState
from billing.queries.invoices import list_invoices
from billing.queries.rederivation import rederive_invoice
from billing.queries.usage_checks import list_checks
from billing.services.usage_checks import check_usage
from common.errors import ApplicationError
from common.numbers import exact_text

MAX_SHOWN = 50
PAGE = 100


class Command(BaseCommand):
    help = (
        "Compare events, rollups, invoiced and reported usage of billed periods. With --rederive: derive the newest "
        "invoices again from raw events. Ends with an error where something differs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", type=int, help="Only this one, by its id; else all of them.")
        parser.add_argument("--rederive", action="store_true", help="Derive invoices again instead.")
        parser.add_argument("--limit", type=int, help="So many invoices of each organization, the newest; else all.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["limit"] is not None and (options["limit"] < 1 or not options["rederive"]):
            raise CommandError("--limit takes a number of invoices, together with --rederive.")
        organizations = Organization.objects.order_by("pk")
        if options["organization"] is not None:
            organizations = organizations.filter(pk=options["organization"])
            if not organizations.exists():
                raise CommandError("There is no such organization.")
        differing = 0
        for organization in organizations:
            if options["rederive"]:
                differing += self._rederive(organization, options["limit"])
            else:
                differing += self._check(organization)
        if differing:
            raise CommandError(f"{differing} differ.")

    def _check(self, organization: Organization) -> int:
        try:
            run = check_usage(organization=organization, now=datetime.now(UTC))
        except ApplicationError as error:
            raise CommandError(f"{organization}: {error.message}") from error
        self.stdout.write(f"{organization}: {run.periods} periods, {run.compared} usages, {run.differing} differ")
        for row in list_checks(organization=organization, agrees=False).order_by("pk")[:MAX_SHOWN]:
            quantities = (row.events_quantity, row.rollups_quantity, row.invoiced_quantity, row.reported_quantity)
            texts = ["-" if quantity is None else exact_text(quantity) for quantity in quantities]
            self.stderr.write(
                f"  {row.period.subscription.customer}, {row.metric}, {row.period}: "
                f"events {texts[0]}, rollups {texts[1]}, invoiced {texts[2]}, reported {texts[3]}"
            )
        return run.differing

    def _rederive(self, organization: Organization, limit: int | None) -> int:
        derived = differing = lost = 0
        for invoice in _iterate_invoices(organization, limit):
            found = rederive_invoice(invoice=invoice)
            derived += 1
            if found.agrees is None:
                lost += 1
            elif not found.agrees:
                differing += 1
                self.stderr.write(
                    f"  {invoice.number}: says {found.stored_total_minor}, comes to {found.derived_total_minor}"
                )
        self.stdout.write(
            f"{organization}: {derived} invoices, {derived - differing - lost} derived to the same, "
            f"{differing} differ, {lost} no longer derivable"
        )
        return differing


def _iterate_invoices(organization: Organization, limit: int | None) -> Iterator[Invoice]:
    """Yield the final and void invoices, the newest first; a hundred at once in memory."""
    rows = list_invoices(organization=organization).exclude(state=InvoiceState.DRAFT).order_by("-pk")
    left, last = limit, None
    while left is None or left > 0:
        page = list((rows if last is None else rows.filter(pk__lt=last))[: PAGE if left is None else min(PAGE, left)])
        yield from page
        if not page:
            return
        last = page[-1].pk
        left = None if left is None else left - len(page)
