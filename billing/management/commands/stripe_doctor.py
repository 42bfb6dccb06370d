"""`manage.py stripe_doctor`: look whether the account at Stripe is as reporting needs it. Changes nothing anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounts.models import Organization
from billing.clients.failures import CallFailed
from billing.clients.stripe import Meter, StripeMeters
from billing.domain.reporting import ReportState
from billing.models import StripeMeter
from billing.queries.reporting import (
    count_left_to_people,
    count_states,
    list_drifts,
    list_idle_customers,
    list_meters,
    list_organizations_that_report,
    list_stripe_customers,
    list_unnamed_customers,
    oldest_unsettled,
)
from billing.queries.stripe_inbox import count_failed_events
from billing.queries.stripe_invoices import list_organizations_that_push, list_pushes
from billing.services.stripe_account import StripeNotConfigured, open_invoices, open_sink
from billing.services.stripe_meters import list_defects
from billing.services.stripe_pace import Pace, TokenBucket

# Reports are due within the hour; what waits for longer than two is stuck.
STUCK_AFTER = timedelta(hours=2)
# Usage is reported every hour: the last run before an invoice is final has to come after its period.
LEAST_GRACE = timedelta(hours=2)
MAX_NAMED = 20
GRACE_ADVICE = (
    "To be looked at by hand: how long Stripe keeps an invoice open after its period (the grace period in the "
    "account's billing settings). Usage is reported every hour; give it two hours or more."
)


class Command(BaseCommand):
    help = "Check the meters, customers, reports, invoices and events of every organization that uses Stripe."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--customers", type=int, default=100, help="Look up at most so many customers of each organization."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        reporting = list_organizations_that_report()
        organizations = sorted({*reporting, *list_organizations_that_push()}, key=lambda each: each.pk)
        problems = 0
        for organization in organizations:
            self.stdout.write(f"{organization} ({organization.pk})")
            problems += self._tell(self._examine(organization, max(0, options["customers"])))
        if not organizations:
            self.stdout.write(
                "Nobody uses Stripe: no organization has named both a customer and a meter, or pushes invoices."
            )
        problems += self._tell(self._examine_installation(reporting))
        if problems:
            raise SystemExit(1)

    def _tell(self, problems: Iterator[str]) -> int:
        count = 0
        for problem in problems:
            self.stdout.write(self.style.ERROR(f"  {problem}"))
            count += 1
        return count

    def _examine(self, organization: Organization, customers: int) -> Iterator[str]:
        try:
            account = open_sink(organization=organization)
            yield from self._examine_meters(account, organization)
            yield from self._examine_customers(account, organization, customers)
        except (StripeNotConfigured, CallFailed) as error:
            yield str(error)
        now = datetime.now(UTC)
        unnamed = list_unnamed_customers(organization=organization, now=now)
        if unnamed:
            told = _enumerate([customer.external_id for customer in unnamed])
            yield f"Used what is reported, and have no name at Stripe: {told}."
        idle = list_idle_customers(organization=organization, now=now)
        if idle:
            told = _enumerate([named.customer.external_id for named in idle])
            self.stdout.write(f"  Named at Stripe, and without a subscription to report: {told}.")
        yield from _list_stuck(organization, now)

    def _examine_meters(self, account: StripeMeters, organization: Organization) -> Iterator[str]:
        named = list_meters(organization=organization)
        # A key for invoices alone may not read meters.
        found = {meter.event_name: meter for meter in account.list_meters() if meter.is_active} if named else {}
        for meter in named:
            defects = list(_defects(meter, found.get(meter.event_name)))
            yield from defects
            if not defects:
                self.stdout.write(f"  {meter.metric.code} → {meter.event_name}: sound")

    def _examine_customers(self, account: StripeMeters, organization: Organization, limit: int) -> Iterator[str]:
        bucket = TokenBucket(pace=Pace())
        rows = list_stripe_customers(organization=organization)
        for named in rows.order_by("-id")[:limit]:
            bucket.take()
            if not account.has_customer(named.stripe_customer_id):
                yield f"{named.customer.external_id}: Stripe has no customer {named.stripe_customer_id}."
        count = rows.count()
        if count > limit:
            self.stdout.write(f"  {count - limit} of {count} customers were not looked up; see --customers.")

    def _examine_installation(self, reporting: Sequence[Organization]) -> Iterator[str]:
        """What concerns the account and no organization alone."""
        failed = count_failed_events(organization=None)
        if failed:
            yield f"{failed} events of Stripe's failed before it was known whose they are; the admin lists them."
        graces: list[tuple[str, timedelta]] = []
        for organization in reporting:
            try:
                graces = open_invoices(organization=organization).list_graces()
            except (StripeNotConfigured, CallFailed):
                continue  # said of the organization, or the key may not read invoices
            break
        short = [f"{invoice} {grace}" for invoice, grace in graces if grace < LEAST_GRACE]
        if short:
            yield f"Stripe keeps invoices open for less than {LEAST_GRACE} after their periods: {_enumerate(short)}."
        if not graces:
            self.stdout.write(GRACE_ADVICE)


def _defects(named: StripeMeter, meter: Meter | None) -> Iterator[str]:
    if meter is None:
        yield f"{named.event_name}: Stripe has no active meter of this event name."
        return
    yield from (f"{named.event_name}: {defect}" for defect in list_defects(meter))


def _list_stuck(organization: Organization, now: datetime) -> Iterator[str]:
    """Yield what waits for people, or waits for too long."""
    drifts = list_drifts(organization=organization).count()
    if drifts:
        yield f"{drifts} days differ from what was used; GET /v1/billing/stripe/drifts lists them."
    rejected = count_states(organization=organization, months=None)[ReportState.REJECTED]
    if rejected:
        yield f"{rejected} reports were rejected; GET /v1/billing/report-usage?state=rejected lists them."
    unknown = count_left_to_people(organization=organization, now=now)
    if unknown:
        yield f"Of {unknown} reports nobody knows whether they arrived; GET /v1/billing/report-usage?state=unknown."
    waiting = oldest_unsettled(organization=organization, now=now)
    if waiting is not None and waiting > STUCK_AFTER:
        yield f"The oldest report that is not settled has been waiting for {waiting}."
    pushes = list_pushes(organization=organization).filter(state=ReportState.REJECTED).count()
    if pushes:
        yield f"{pushes} invoices were rejected; GET /v1/billing/stripe/invoices?state=rejected lists them."
    failed = count_failed_events(organization=organization)
    if failed:
        yield f"{failed} events of Stripe's failed; the page of events has a button for each."


def _enumerate(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
