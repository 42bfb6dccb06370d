"""The Stripe pages: whether and how the installation is connected, who is who there, and what became of each thing.

Shows never a key or a secret, only whether there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import text_parameter, with_parameters
from accounts.queries import suggest_customers
from billing.domain.currencies import money_text
from billing.domain.reporting import ReportState, is_left_to_people
from billing.forms.stripe import StripeCustomerForm, StripeMeterForm
from billing.models import InboxState, StripeDrift, StripeEvent, StripeInvoice, UsageReport
from billing.queries.reporting import (
    PlannedReport,
    count_states,
    list_drifts,
    list_idle_customers,
    list_meters,
    list_reports,
    list_stripe_customers,
    list_unnamed_customers,
)
from billing.queries.stripe_inbox import list_events
from billing.queries.stripe_invoices import is_pushed, list_pushes
from billing.services.reporting import PlanRun
from billing.services.stripe_account import StripeNotConfigured, check_account
from billing.services.stripe_inbox import HANDLERS
from billing.services.stripe_meters import SyncedMeter
from common.api import take_page
from metering.contexts.breakdown import Link
from metering.models import ADDITIVE, Metric
from metering.queries import list_active_metrics

PAGE_SIZE = 50
NO_KEY = "No Stripe key is set, so nothing is sent. The operator of this installation sets STRIPE_API_KEY."
# More of them are in the API.
MAX_DRIFTS = 100
MAX_PREVIEWED = 200
MAX_GAPS = 100
# Whose usage is read for that when the page is shown; `stripe_doctor` looks at all.
MAX_LOOKED_AT = 1_000

STATE_CLASSES: Mapping[str, str] = {
    ReportState.DELIVERED: "is-success",
    ReportState.UNKNOWN: "is-warning",
    ReportState.REJECTED: "is-danger",
    ReportState.SENDING: "is-accent",
}
FIGURES = (
    ("Waiting", (ReportState.PENDING, ReportState.SENDING)),
    ("Delivered", (ReportState.DELIVERED,)),
    ("Unknown", (ReportState.UNKNOWN,)),
    ("Rejected", (ReportState.REJECTED,)),
)
STATUS_CLASSES = {"paid": "is-success", "open": "is-accent", "uncollectible": "is-danger", "void": ""}
# One that was just received is nobody's yet.
EVENT_STATES = [InboxState.DONE.value, InboxState.FAILED.value, InboxState.IGNORED.value]
EVENT_CLASSES: Mapping[str, str] = {InboxState.DONE: "is-success", InboxState.FAILED: "is-danger"}


@dataclass(frozen=True, slots=True)
class Connection:
    """Whether the account can be used. `problem`: why not, empty where it can."""

    problem: str
    is_webhook_set: bool
    webhook_path: str
    event_types: list[str]
    is_pushed: bool


@dataclass(frozen=True, slots=True)
class CustomerRow:
    external_id: str
    stripe_customer_id: str
    created_at: datetime
    forget_url: str


@dataclass(frozen=True, slots=True)
class MeterRow:
    metric: str
    event_name: str
    created_at: datetime
    forget_url: str


@dataclass(frozen=True, slots=True)
class DriftRow:
    customer: str
    metric: str
    day: datetime
    ledger: Decimal
    stripe: Decimal
    difference: Decimal
    found_at: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class GapRow:
    """A customer of whom nothing is reported, though it looks as if something should be."""

    external_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StateFigure:
    label: str
    count: int
    url: str


@dataclass(frozen=True, slots=True)
class StripePage:
    connection: Connection
    figures: list[StateFigure]
    customers: list[CustomerRow]
    next_url: str
    first_url: str
    meters: list[MeterRow]
    drifts: list[DriftRow]
    has_more_drifts: bool
    gaps: list[GapRow]
    has_more_gaps: bool
    # None: the role may not name any; the second also where no metric can be reported.
    customer_form: StripeCustomerForm | None
    meter_form: StripeMeterForm | None
    suggested: list[str]
    can_report: bool


def list_reportable_metrics(caller: Caller) -> list[Metric]:
    metrics = list_active_metrics(organization=caller.organization)
    return [metric for metric in metrics if metric.aggregation in ADDITIVE]


def get_stripe_page(
    request: HttpRequest,
    caller: Caller,
    *,
    customer_form: StripeCustomerForm | None = None,
    meter_form: StripeMeterForm | None = None,
) -> StripePage:
    organization, can_bill = caller.organization, caller.has(Scope.BILLING_WRITE)
    metrics = list_reportable_metrics(caller) if can_bill else []
    cursor = text_parameter(request, "cursor")
    named = take_page(
        list_stripe_customers(organization=organization), limit=PAGE_SIZE, cursor=cursor, is_newest_first=True
    )
    drifts = list(list_drifts(organization=organization).order_by("-day", "id")[: MAX_DRIFTS + 1])
    here = reverse("billing:stripe", args=[organization.pk])
    connection, gaps = get_connection(caller), _list_gaps(caller)
    return StripePage(
        connection=connection,
        figures=[*_figures(caller), StateFigure("Not reported", len(gaps), "#gaps")],
        customers=[
            CustomerRow(
                external_id=row.customer.external_id,
                stripe_customer_id=row.stripe_customer_id,
                created_at=row.created_at,
                forget_url=reverse("billing:forget_stripe_customer", args=[organization.pk, row.customer_id]),
            )
            for row in named.rows
        ],
        next_url=f"{with_parameters(here, {'cursor': named.next_cursor})}#customers" if named.next_cursor else "",
        first_url=f"{here}#customers" if cursor else "",
        meters=[
            MeterRow(
                metric=row.metric.code,
                event_name=row.event_name,
                created_at=row.created_at,
                forget_url=reverse("billing:forget_stripe_meter", args=[organization.pk, row.metric.code]),
            )
            for row in list_meters(organization=organization)
        ],
        drifts=[_drift_row(row) for row in drifts[:MAX_DRIFTS]],
        has_more_drifts=len(drifts) > MAX_DRIFTS,
        gaps=gaps[:MAX_GAPS],
        has_more_gaps=len(gaps) > MAX_GAPS,
        customer_form=(customer_form or StripeCustomerForm()) if can_bill else None,
        meter_form=(meter_form or StripeMeterForm(metrics=metrics)) if metrics else None,
        suggested=suggest_customers(organization) if can_bill else [],
        can_report=can_bill and not connection.problem,
    )


def get_connection(caller: Caller) -> Connection:
    problem = ""
    try:
        check_account(organization=caller.organization)
    except StripeNotConfigured as error:
        problem = error.message if settings.STRIPE_API_KEY else NO_KEY
    return Connection(
        problem=problem,
        is_webhook_set=bool(settings.STRIPE_WEBHOOK_SECRETS),
        webhook_path=reverse("billing_api:stripe-webhook"),
        event_types=sorted(HANDLERS),
        is_pushed=is_pushed(organization=caller.organization),
    )


def _figures(caller: Caller) -> list[StateFigure]:
    """How many reports have come how far, but those that another row says again."""
    here = reverse("billing:stripe_reports", args=[caller.organization.pk])
    counts = count_states(organization=caller.organization, months=None)
    return [
        StateFigure(label, sum(counts[state] for state in states), with_parameters(here, {"state": states[0]}))
        for label, states in FIGURES
    ]


def _list_gaps(caller: Caller) -> list[GapRow]:
    """Return whom nothing is reported of: first those who used something."""
    organization, now = caller.organization, timezone.now()
    unnamed = list_unnamed_customers(organization=organization, now=now, looks_at=MAX_LOOKED_AT)
    idle = list_idle_customers(organization=organization, now=now)[: MAX_GAPS + 1]
    return [
        *(GapRow(customer.external_id, "Used what is reported, and has no name at Stripe.") for customer in unnamed),
        *(GapRow(row.customer.external_id, f"Is {row.stripe_customer_id}, without a subscription.") for row in idle),
    ]


def _drift_row(row: StripeDrift) -> DriftRow:
    return DriftRow(
        customer=row.customer.external_id,
        metric=row.metric.code,
        day=row.day,
        ledger=row.ledger_quantity,
        stripe=row.stripe_quantity,
        difference=row.stripe_quantity - row.ledger_quantity,
        found_at=row.found_at,
        checked_at=row.checked_at,
    )


# --- lists ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportRow:
    pk: int
    customer: str
    metric: str
    month: str
    window_start: datetime
    window_end: datetime
    sequence: int
    quantity: Decimal
    state: str
    badge: str
    attempts: int
    last_error: str
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    # Empty: there is nothing to decide, or the role may not.
    confirm_url: str
    retry_url: str


@dataclass(frozen=True, slots=True)
class PushRow:
    pk: int
    number: str
    customer: str
    due: str
    stripe_invoice_id: str
    hosted_url: str
    status: str
    status_badge: str
    state: str
    badge: str
    attempts: int
    last_error: str
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    retry_url: str


@dataclass(frozen=True, slots=True)
class EventRow:
    stripe_event_id: str
    type: str
    state: str
    badge: str
    attempts: int
    error: str
    received_at: datetime
    handled_at: datetime | None
    retry_url: str


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of rows with the filters that it was chosen by."""

    rows: list[ReportRow] | list[PushRow] | list[EventRow]
    states: list[Link]
    state: str
    month: str
    is_filtered: bool
    here: str
    next_url: str
    first_url: str
    connection: Connection


def get_report_list(request: HttpRequest, caller: Caller) -> ListPage:
    """The reports, newest first. Two queries."""
    rows = list_reports(organization=caller.organization)
    month = text_parameter(request, "month")[:7]
    if month:
        rows = rows.filter(month=month)
    return _list_page(request, caller, rows, "billing:stripe_reports", month=month)


def get_push_list(request: HttpRequest, caller: Caller) -> ListPage:
    return _list_page(request, caller, list_pushes(organization=caller.organization), "billing:stripe_invoices")


def get_event_list(request: HttpRequest, caller: Caller) -> ListPage:
    return _list_page(request, caller, list_events(organization=caller.organization), "billing:stripe_events")


def _list_page(request: HttpRequest, caller: Caller, rows: object, route: str, *, month: str = "") -> ListPage:
    states = EVENT_STATES if route == "billing:stripe_events" else [state.value for state in ReportState]
    state, cursor = text_parameter(request, "state"), text_parameter(request, "cursor")
    if state not in states:
        state = ""
    if state:
        rows = rows.filter(state=state)  # type: ignore[attr-defined]  # of three models
    page = take_page(rows, limit=PAGE_SIZE, cursor=cursor, is_newest_first=True)  # type: ignore[arg-type]
    here = reverse(route, args=[caller.organization.pk])
    kept = {"month": month} if month else {}
    chosen = kept | ({"state": state} if state else {})
    return ListPage(
        rows=[_row(caller, row) for row in page.rows],  # type: ignore[arg-type]  # of one model each
        states=[
            Link(value or "all", with_parameters(here, kept | ({"state": value} if value else {})), value == state)
            for value in ("", *states)
        ],
        state=state,
        month=month,
        is_filtered=bool(chosen),
        here=here,
        next_url=with_parameters(here, chosen | {"cursor": page.next_cursor}) if page.next_cursor else "",
        first_url=with_parameters(here, chosen) if cursor else "",
        connection=get_connection(caller),
    )


def _row(caller: Caller, row: UsageReport | StripeInvoice | StripeEvent) -> ReportRow | PushRow | EventRow:
    match row:
        case UsageReport():
            return _report_row(caller, row)
        case StripeInvoice():
            return _push_row(caller, row)
    return EventRow(
        stripe_event_id=row.stripe_event_id,
        type=row.type,
        state=row.state,
        badge=EVENT_CLASSES.get(row.state, ""),
        attempts=row.attempts,
        error=row.error,
        received_at=row.received_at,
        handled_at=row.handled_at,
        retry_url=_address_of(caller, row, "billing:retry_stripe_event") if row.state == InboxState.FAILED else "",
    )


def _report_row(caller: Caller, row: UsageReport) -> ReportRow:
    is_ours = is_left_to_people(row.progress, now=timezone.now())
    return ReportRow(
        pk=row.pk,
        customer=row.subscription.customer.external_id,
        metric=row.metric.code,
        month=row.month,
        window_start=row.window_start,
        window_end=row.window_end,
        sequence=row.sequence,
        quantity=row.quantity,
        state=row.state,
        badge=STATE_CLASSES.get(row.state, ""),
        attempts=row.attempts,
        last_error=row.last_error,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        confirm_url=_address_of(caller, row, "billing:confirm_stripe_report") if is_ours else "",
        retry_url=_retry_url(caller, row, "billing:retry_stripe_report", is_ours=is_ours),
    )


def _push_row(caller: Caller, row: StripeInvoice) -> PushRow:
    invoice = row.invoice
    return PushRow(
        pk=row.pk,
        number=invoice.number,
        customer=invoice.customer.external_id,
        due=money_text(invoice.due_minor, invoice.currency),
        stripe_invoice_id=row.stripe_invoice_id,
        hosted_url=row.hosted_url,
        status=row.stripe_status,
        status_badge=STATUS_CLASSES.get(row.stripe_status, ""),
        state=row.state,
        badge=STATE_CLASSES.get(row.state, ""),
        attempts=row.attempts,
        last_error=row.last_error,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        created_at=row.created_at,
        retry_url=_retry_url(caller, row, "billing:retry_stripe_invoice"),
    )


def _retry_url(caller: Caller, row: UsageReport | StripeInvoice, route: str, *, is_ours: bool = False) -> str:
    return _address_of(caller, row, route) if is_ours or row.state == ReportState.REJECTED else ""


def _address_of(caller: Caller, row: UsageReport | StripeInvoice | StripeEvent, route: str) -> str:
    """Return where an action on a row is called; empty: the role may not."""
    return reverse(route, args=[caller.organization.pk, row.pk]) if caller.has(Scope.BILLING_WRITE) else ""


# --- previews -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreviewRow:
    customer: str
    stripe_customer_id: str
    metric: str
    event_name: str
    window_start: datetime
    window_end: datetime
    sequence: int
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class PreviewPage:
    rows: list[PreviewRow]
    count: int
    is_cut: bool
    # There was no time to look at all of them.
    is_partial: bool
    failures: list[str]
    connection: Connection


def get_preview_page(caller: Caller, plan: PlanRun) -> PreviewPage:
    return PreviewPage(
        rows=[_preview_row(planned) for planned in plan.planned[:MAX_PREVIEWED]],
        count=len(plan.planned),
        is_cut=len(plan.planned) > MAX_PREVIEWED,
        is_partial=plan.resume_from is not None,
        failures=[
            f"{failure.subscription.customer.external_id}, {failure.meter.metric.code}, {failure.month}: "
            f"{failure.error.message}"
            for failure in plan.failures[:MAX_DRIFTS]
        ],
        connection=get_connection(caller),
    )


def _preview_row(planned: PlannedReport) -> PreviewRow:
    return PreviewRow(
        customer=planned.target.subscription.customer.external_id,
        stripe_customer_id=planned.target.stripe_customer_id,
        metric=planned.meter.metric.code,
        event_name=planned.meter.event_name,
        window_start=planned.window.start,
        window_end=planned.window.end,
        sequence=planned.part.sequence,
        quantity=planned.part.quantity,
    )


@dataclass(frozen=True, slots=True)
class SyncPage:
    meters: list[SyncedMeter]
    # How many would be made.
    lacking: int


def get_sync_page(meters: list[SyncedMeter]) -> SyncPage:
    return SyncPage(meters, sum(meter.outcome == "created" for meter in meters))
