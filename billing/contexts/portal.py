"""Pages of the customer portal: what a customer sees of itself. Drafts, and what is the seller's own, are not shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse

from accounts.models import Customer
from accounts.pages import text_parameter, with_parameters
from billing.contexts.budgets import BudgetBar, budget_bar
from billing.contexts.customers import SpendCard, period_text, spend_card, try_spend
from billing.contexts.spend_days import find_cost_chart
from billing.contexts.words import STATUS_BADGES
from billing.documents.printed import PrintedInvoice, document_title, print_invoice
from billing.domain.currencies import money_text
from billing.domain.periods import BillingPeriod
from billing.forms.budgets import BudgetForm
from billing.models import Budget, Invoice, InvoiceState, Subscription, SubscriptionPause, SubscriptionPhase
from billing.portal import PortalVisitor
from billing.queries.budgets import current_currency, find_budgets, get_standing
from billing.queries.credits import list_balances
from billing.queries.invoices import (
    Standing,
    get_content,
    get_invoice,
    list_credit_notes,
    list_invoices,
    standing_of,
)
from billing.queries.profiles import get_profile
from billing.queries.settings import get_settings
from billing.queries.spend import Spend
from billing.queries.subscriptions import current_phase, list_of_customer, list_pauses_of, list_phases_of, pause_from
from billing.services.portal_links import PortalLink
from common.api import take_page
from common.errors import ApplicationError, NotFound
from common.models import TenantQuerySet
from metering.charts import Bucket, Chart, ChartLine, multi_line, stacked_bars
from metering.contexts.words import bucket_tick, bucket_title, metric_name
from metering.domain import Granularity
from metering.models import ADDITIVE, Metric
from metering.queries import get_series

# Each costs a read of usage per metric.
MAX_SUBSCRIPTIONS = 20
MAX_CHARTS = 12
# A long trial's chart shows the last days of it.
MAX_DAYS = 62
RECENT_INVOICES = 3
PAGE_SIZE = 25
STANDING_BADGES = {
    Standing.OPEN: "is-accent",
    Standing.OVERDUE: "is-warning",
    Standing.PAID: "is-success",
    Standing.VOID: "",
    Standing.CREDIT_NOTE: "",
}


@dataclass(frozen=True, slots=True)
class PortalShell:
    """What surrounds the content: who sells, who visits and until when."""

    seller: str
    customer: str
    section: str
    zone: str
    expires_at: datetime


def get_portal_shell(visitor: PortalVisitor, *, section: str, zone: ZoneInfo) -> PortalShell:
    customer = visitor.customer
    return PortalShell(
        seller=get_settings(customer.organization).seller_name or customer.organization.name,
        customer=get_profile(customer=customer).name or customer.name or customer.external_id,
        section=section,
        zone=zone.key,
        expires_at=visitor.expires_at,
    )


# --- overview -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortalSubscription:
    id: int
    plan: str
    status: str
    badge: str
    # What is to come: another plan, the end.
    notes: list[str]
    # None: it cannot be told; `problem` says why.
    spend: SpendCard | None
    problem: str
    charts: list[Chart]
    bar: BudgetBar | None
    has_budget: bool
    # None: it has ended.
    form: BudgetForm | None
    budget_url: str


@dataclass(frozen=True, slots=True)
class Balance:
    currency: str
    balance: str
    # Empty: all of it.
    available: str


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    number: str
    title: str
    period: str
    issued_at: datetime | None
    total: str
    # Empty: nothing is owed on it.
    due: str
    due_at: datetime | None
    standing: str
    badge: str
    url: str
    pdf_url: str
    csv_url: str


@dataclass(frozen=True, slots=True)
class OverviewPage:
    subscriptions: list[PortalSubscription]
    is_cut: bool
    balances: list[Balance]
    invoices: list[InvoiceRow]


def get_overview(customer: Customer, now: datetime) -> OverviewPage:
    subscriptions = list_of_customer(organization=customer.organization, customer=customer)
    shown = subscriptions[:MAX_SUBSCRIPTIONS]
    phases = list_phases_of(shown, organization=customer.organization)
    pauses = list_pauses_of([subscription.pk for subscription in shown], organization=customer.organization)
    budgets = find_budgets(shown, organization=customer.organization)
    recent = _list_issued(customer).order_by("-pk")[:RECENT_INVOICES]
    return OverviewPage(
        subscriptions=[
            _subscription(
                subscription,
                phases[subscription.pk],
                pause_from(pauses.get(subscription.pk, []), now),
                budgets.get(subscription.pk),
                now,
            )
            for subscription in shown
        ],
        is_cut=len(subscriptions) > MAX_SUBSCRIPTIONS,
        balances=[
            Balance(
                currency=each.currency,
                balance=money_text(each.balance_minor, each.currency),
                available=""
                if each.available_minor == each.balance_minor
                else money_text(each.available_minor, each.currency),
            )
            for each in list_balances(customer=customer, now=now)
        ],
        invoices=[_invoice_row(invoice, now) for invoice in recent],
    )


def _subscription(
    subscription: Subscription,
    phases: list[SubscriptionPhase],
    pause: SubscriptionPause | None,
    budget: Budget | None,
    now: datetime,
) -> PortalSubscription:
    current = current_phase(phases, subscription, now)
    zone, status = ZoneInfo(subscription.zone), subscription.status_at(now, pause)
    spend, problem = try_spend(subscription, now)
    is_over = status == "ended"
    return PortalSubscription(
        id=subscription.pk,
        plan=current.version.plan.name,
        status=status,
        badge=STATUS_BADGES[status],
        notes=list(_notes(subscription, phases, current, zone, is_over=is_over)),
        spend=None if spend is None else spend_card(spend, zone),
        problem=problem,
        charts=[] if spend is None or is_over else list(_charts(subscription, spend, now)),
        bar=None if budget is None or spend is None else budget_bar(get_standing(budget=budget, spend=spend)),
        has_budget=budget is not None,
        form=None if is_over else portal_budget_form(current_currency(subscription, now, phases=phases), budget=budget),
        budget_url=reverse("billing:portal_budget", args=[subscription.pk]),
    )


def _notes(
    subscription: Subscription,
    phases: Sequence[SubscriptionPhase],
    current: SubscriptionPhase,
    zone: ZoneInfo,
    *,
    is_over: bool,
) -> Iterator[str]:
    for phase in phases:
        if phase.starts_at > current.starts_at:
            yield f"Changes to {phase.version.plan.name} on {phase.starts_at.astimezone(zone):%-d %b %Y}."
    if subscription.ends_at is not None:
        verb = "Ended" if is_over else "Ends"
        yield f"{verb} on {subscription.ends_at.astimezone(zone):%-d %b %Y}."


def portal_budget_form(currency: str, *, budget: Budget | None = None, data: object = None) -> BudgetForm:
    """Return the form of a budget without its address: who is written to is the seller's to say."""
    form = BudgetForm(data, currency=currency, budget=budget)
    del form.fields["email"]
    return form


def _charts(subscription: Subscription, spend: Spend, now: datetime) -> Iterator[Chart]:
    """Yield the cost and the usage of each priced metric by day, from the period's start up to now."""
    cost = find_cost_chart(subscription, now)
    if cost is not None:
        yield cost
    end = min(now, spend.period.end)
    start = max(spend.period.start, end - timedelta(days=MAX_DAYS))
    metrics = {line.charge.metric.pk: line.charge.metric for line in spend.lines if line.charge.metric is not None}
    if start >= end:
        return
    for metric in list(metrics.values())[:MAX_CHARTS]:
        try:
            yield _chart(subscription, metric, start, end, now)
        except ApplicationError:
            continue  # its usage is no longer kept by the day; what it costs is told above


def _chart(subscription: Subscription, metric: Metric, start: datetime, end: datetime, now: datetime) -> Chart:
    zone = ZoneInfo(subscription.zone)
    series = get_series(
        organization=subscription.organization,
        metric=metric,
        start=start,
        end=end,
        granularity=Granularity.DAY,
        zone=subscription.zone,
        now=now,
        customer_id=subscription.customer_id,
    )
    points = series.lines[0].points
    values = [point.value for point in points]
    is_stackable = metric.aggregation in ADDITIVE and all(value >= 0 for value in values)
    draw = stacked_bars if is_stackable else multi_line
    unit = f", {metric.unit}" if metric.unit else ""
    period = period_text(BillingPeriod(start, end), zone)
    return draw(
        title=f"{metric_name(metric)} by day{unit}",
        summary=f"{len(points)} days, {period}",
        buckets=[
            Bucket(
                bucket_tick(point.start, Granularity.DAY, zone),
                bucket_title(point.start, Granularity.DAY, zone),
                "in part" if point.is_partial else "",
            )
            for point in points
        ],
        lines=[ChartLine(metric_name(metric), "1", [value or Decimal(0) for value in values])],
    )


# --- invoices -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InvoiceListPage:
    rows: list[InvoiceRow]
    next_url: str
    first_url: str


@dataclass(frozen=True, slots=True)
class InvoicePage:
    row: InvoiceRow
    printed: PrintedInvoice
    credit_notes: list[InvoiceRow]
    # Empty: it is no credit note.
    credited_url: str
    # Where it is paid online; empty: nowhere, or it needs not be.
    pay_url: str


def get_invoice_list(request: HttpRequest, customer: Customer, now: datetime) -> InvoiceListPage:
    cursor = text_parameter(request, "cursor")
    page = take_page(_list_issued(customer), limit=PAGE_SIZE, cursor=cursor, is_newest_first=True)
    here = reverse("billing:portal_invoices")
    return InvoiceListPage(
        rows=[_invoice_row(invoice, now) for invoice in page.rows],
        next_url=with_parameters(here, {"cursor": page.next_cursor}) if page.next_cursor else "",
        first_url=here if cursor else "",
    )


def get_issued_invoice(customer: Customer, invoice_id: int) -> Invoice:
    """Return an invoice of the customer. Raises `NotFound` for a draft and another's like for an absent one."""
    found = get_invoice(organization=customer.organization, invoice_id=invoice_id, customer_id=customer.pk)
    if found.state == InvoiceState.DRAFT:
        raise NotFound("There is no such invoice.")
    return found


def get_invoice_page(invoice: Invoice, now: datetime) -> InvoicePage:
    row = _invoice_row(invoice, now)
    pushed = getattr(invoice, "stripe_invoice", None)
    is_to_pay = standing_of(invoice, now) in {Standing.OPEN, Standing.OVERDUE}
    return InvoicePage(
        row=row,
        printed=print_invoice(invoice, get_content(invoice=invoice, now=now)),
        credit_notes=[
            _invoice_row(note, now) for note in list_credit_notes(invoice) if note.state != InvoiceState.DRAFT
        ],
        credited_url=reverse("billing:portal_invoice", args=[invoice.credited_invoice_id])
        if invoice.credited_invoice_id
        else "",
        pay_url=pushed.hosted_url if pushed is not None and is_to_pay else "",
    )


def _list_issued(customer: Customer) -> TenantQuerySet:
    rows = list_invoices(organization=customer.organization, customer_id=customer.pk)
    return rows.exclude(state=InvoiceState.DRAFT)


def _invoice_row(invoice: Invoice, now: datetime) -> InvoiceRow:
    standing = standing_of(invoice, now)
    period = BillingPeriod(invoice.period.starts_at, invoice.period.ends_at)
    is_owed = standing in {Standing.OPEN, Standing.OVERDUE}
    return InvoiceRow(
        number=invoice.number,
        title=document_title(invoice),
        period=period_text(period, ZoneInfo(invoice.subscription.zone)),
        issued_at=invoice.issued_at,
        total=money_text(invoice.total_minor, invoice.currency),
        due=money_text(invoice.due_minor, invoice.currency) if is_owed else "",
        due_at=invoice.due_at if is_owed else None,
        standing=standing.value.replace("_", " "),
        badge=STANDING_BADGES[standing],
        url=reverse("billing:portal_invoice", args=[invoice.pk]),
        pdf_url=reverse("billing:portal_invoice_pdf", args=[invoice.pk]),
        csv_url=reverse("billing:portal_invoice_csv", args=[invoice.pk]),
    )


# --- for members ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortalLinkPage:
    """The page that shows a member a link to the portal, once."""

    customer: Customer
    link: PortalLink
    back_url: str


def get_portal_link_page(customer: Customer, link: PortalLink) -> PortalLinkPage:
    back_url = reverse("billing:customer_billing", args=[customer.organization_id, customer.pk])
    return PortalLinkPage(customer, link, back_url)
