"""The tables of billing. Owns no usage number (`metering.queries`) and no rule of money (`billing.domain`)."""

from billing.models.credits import CreditEntry, CreditGrant, EntryKind, GrantKind
from billing.models.invoices import (
    BillingPeriod,
    BillingProfile,
    BillingSettings,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceRun,
    InvoiceState,
    LineKind,
    NumberSeries,
    PeriodState,
    TaxRate,
)
from billing.models.plans import Plan, PlanVersion, Price, VersionState
from billing.models.reports import MAX_ERROR_CHARACTERS, StripeCustomer, StripeDrift, StripeMeter, UsageReport
from billing.models.stripe import InboxState, StripeEvent, StripeInvoice
from billing.models.subscriptions import Commitment, Subscription, SubscriptionPause, SubscriptionPhase
from billing.models.watching import Budget, BudgetCrossing, Notice, UsageCheck

__all__ = [
    "MAX_ERROR_CHARACTERS",
    "BillingPeriod",
    "BillingProfile",
    "BillingSettings",
    "Budget",
    "BudgetCrossing",
    "Commitment",
    "CreditEntry",
    "CreditGrant",
    "EntryKind",
    "GrantKind",
    "InboxState",
    "Invoice",
    "InvoiceKind",
    "InvoiceLine",
    "InvoiceRun",
    "InvoiceState",
    "LineKind",
    "Notice",
    "NumberSeries",
    "PeriodState",
    "Plan",
    "PlanVersion",
    "Price",
    "StripeCustomer",
    "StripeDrift",
    "StripeEvent",
    "StripeInvoice",
    "StripeMeter",
    "Subscription",
    "SubscriptionPause",
    "SubscriptionPhase",
    "TaxRate",
    "UsageCheck",
    "UsageReport",
    "VersionState",
]
