"""Until when usage is billed: what those ask who would let usage go (`settings.BILLED_UNTIL`)."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Min, Q

from accounts.models import Organization
from billing.models import Subscription


def find_billed_until(organization: Organization) -> datetime | None:
    """Return the time before which nothing is still to be billed; None where nobody is billed.

    As long as there are no invoices, no period of any subscription is billed, also of one that has ended: it is the
    earliest start of all. Subscriptions that ended before they began have no period. One query.
    """
    rows = Subscription.objects.for_organization(organization).filter(
        Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at"))
    )
    earliest: datetime | None = rows.aggregate(earliest=Min("starts_at"))["earliest"]
    return earliest
