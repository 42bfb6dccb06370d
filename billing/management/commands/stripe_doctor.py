"""`manage.py stripe_doctor`: look whether the account at Stripe is as reporting needs it. Changes nothing anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounts.models import Organization
from billing.clients.meters import SummaryUnavailable
from billing.clients.stripe import Meter, StripeMeters
from billing.domain.reporting import ReportState
from billing.models import StripeMeter
from billing.queries.reporting import (
    count_states,
    list_drifts,
    list_meters,
    list_organizations_that_report,
    list_stripe_customers,
    oldest_unsettled,
)
from billing.services.reporting import StripeNotConfigured, open_sink
from billing.services.stripe_meters import list_defects

# Reports are due within the hour; what waits for longer than two is stuck.
STUCK_AFTER = timedelta(hours=2)
GRACE_ADVICE = (
    "To be looked at by hand: how long Stripe keeps an invoice open after its period (the grace period in the "
    "account's billing settings). Usage is reported every hour; give it two hours or more."
)


class Command(BaseCommand):
    help = "Check the meters, customers and reports of every organization that reports to Stripe; changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--customers", type=int, default=100, help="Look up at most so many customers of each organization."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        organizations = list_organizations_that_report()
        problems = 0
        for organization in organizations:
            self.stdout.write(f"{organization} ({organization.pk})")
            for problem in self._examine(organization, options["customers"]):
                problems += 1
                self.stdout.write(self.style.ERROR(f"  {problem}"))
        if not organizations:
            self.stdout.write("Nobody reports to Stripe: no organization has named both a customer and a meter.")
        self.stdout.write(GRACE_ADVICE)
        if problems:
            raise SystemExit(1)

    def _examine(self, organization: Organization, customers: int) -> Iterator[str]:
        try:
            account = open_sink(organization=organization)
            found = {meter.event_name: meter for meter in account.list_meters() if meter.is_active}
        except (StripeNotConfigured, SummaryUnavailable) as error:
            yield str(error)
            return
        for named in list_meters(organization=organization):
            defects = list(_defects(named, found.get(named.event_name)))
            yield from defects
            if not defects:
                self.stdout.write(f"  {named.metric.code} → {named.event_name}: sound")
        yield from _missing_customers(account, organization, customers)
        yield from _stuck(organization)


def _defects(named: StripeMeter, meter: Meter | None) -> Iterator[str]:
    if meter is None:
        yield f"{named.event_name}: Stripe has no active meter of this event name."
        return
    yield from (f"{named.event_name}: {defect}" for defect in list_defects(meter))


def _missing_customers(account: StripeMeters, organization: Organization, limit: int) -> Iterator[str]:
    for named in list_stripe_customers(organization=organization).order_by("-id")[:limit]:
        try:
            is_there = account.has_customer(named.stripe_customer_id)
        except SummaryUnavailable as error:
            yield str(error)
            return
        if not is_there:
            yield f"{named.customer.external_id}: Stripe has no customer {named.stripe_customer_id}."


def _stuck(organization: Organization) -> Iterator[str]:
    drifts = list_drifts(organization=organization).count()
    if drifts:
        yield f"{drifts} days differ from what was used; GET /v1/billing/stripe/drifts lists them."
    rejected = count_states(organization=organization, months=None)[ReportState.REJECTED]
    if rejected:
        yield f"{rejected} reports were rejected; GET /v1/billing/report-usage?state=rejected lists them."
    waiting = oldest_unsettled(organization=organization, now=datetime.now(UTC))
    if waiting is not None and waiting > STUCK_AFTER:
        yield f"The oldest report that is not settled has been waiting for {waiting}."
