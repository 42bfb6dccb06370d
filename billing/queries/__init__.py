"""Reads of billing. Usage numbers come from `metering.queries`, money from `billing.domain.rating`."""

from billing.queries.billed import find_billed_until, find_unbilled_from
from billing.queries.included import find_included_quantity
from billing.queries.plans import (
    find_current_version,
    find_default_version,
    get_plan,
    get_version,
    list_plans,
    list_versions,
)
from billing.queries.spend import Spend, SpendLine, SubscriptionSpend, get_current_spend, get_period_spend, rate_period
from billing.queries.subscriptions import get_subscription, list_subscriptions

__all__ = [
    "Spend",
    "SpendLine",
    "SubscriptionSpend",
    "find_billed_until",
    "find_current_version",
    "find_default_version",
    "find_included_quantity",
    "find_unbilled_from",
    "get_current_spend",
    "get_period_spend",
    "get_plan",
    "get_subscription",
    "get_version",
    "list_plans",
    "list_subscriptions",
    "list_versions",
    "rate_period",
]
