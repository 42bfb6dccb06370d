"""The installation's one account at Stripe: which organizations may use it, and who opens it for what."""

from __future__ import annotations

from django.conf import settings

from accounts.models import Organization
from billing.clients.stripe import StripeMeters
from billing.clients.stripe_invoices import StripeInvoices
from common.errors import Conflict


class StripeNotConfigured(Conflict):
    code = "stripe_not_configured"


class NotMapped(Conflict):
    """A customer or a metric has no name at Stripe."""

    code = "not_mapped"


def check_account(*, organization: Organization) -> None:
    """Raise `StripeNotConfigured` where there is no account at Stripe that this organization may use."""
    if not settings.STRIPE_API_KEY:
        raise StripeNotConfigured(
            "No Stripe key is set, so nothing can be reported; `dry_run` shows what would be. Set STRIPE_API_KEY."
        )
    if settings.STRIPE_ORGANIZATIONS and organization.pk not in settings.STRIPE_ORGANIZATIONS:
        raise StripeNotConfigured("This organization may not report to the installation's Stripe account.")


def open_sink(*, organization: Organization) -> StripeMeters:
    """Return the account's meters. Raises `StripeNotConfigured`."""
    check_account(organization=organization)
    return StripeMeters(api_key=settings.STRIPE_API_KEY, api_base=settings.STRIPE_API_BASE)


def open_invoices(*, organization: Organization) -> StripeInvoices:
    """Return the account's invoices. Raises `StripeNotConfigured`."""
    check_account(organization=organization)
    return StripeInvoices(api_key=settings.STRIPE_API_KEY, api_base=settings.STRIPE_API_BASE)
