"""Reads of requests that were refused because their expression gave no number, as far as the inbox still has them."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import msgspec

from accounts.models import Customer, Organization
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.recording import METERING_ERROR
from metering.domain import Span
from metering.models import InboxEvent, InboxState

# How far ahead of our clock a request's own may be.
CLOCK_SKEW = timedelta(days=1)


class _Payload(msgspec.Struct):
    """What was kept of a refused request, as far as it is looked at."""

    customer: str
    timestamp: datetime
    properties: dict[str, Any]


_decoder = msgspec.json.Decoder(_Payload)


def count_refused(
    *, organization: Organization, span: Span, customer_id: int | None = None, route: str | None = None
) -> dict[str, int]:
    """Return how many requests of the range were refused for each reason, the most first.

    Of the newest that are kept, and without those that were counted later all the same. Reads each of them.
    """
    customer = _name_of(organization, customer_id)
    rows = InboxEvent.objects.for_organization(organization).filter(
        event_type=EVENT_TYPE, code=METERING_ERROR, received_at__gte=span.start - CLOCK_SKEW
    )
    counts: Counter[str] = Counter()
    for text in rows.exclude(state=InboxState.REPLAYED).values_list("payload", flat=True):
        refused = _decoder.decode(text)
        if (
            span.start <= refused.timestamp < span.end
            and customer in (None, refused.customer)
            and route in (None, refused.properties.get("route_id"))
        ):
            counts[str(refused.properties.get("metering_error"))] += 1
    return dict(counts.most_common())


def describe_refused(row: InboxEvent) -> dict[str, Any]:
    """Return what names the request of a row: its route, method and path, as far as they are kept."""
    if row.code != METERING_ERROR:
        return {}
    properties = _decoder.decode(row.payload).properties
    return {name: properties[name] for name in ("route_id", "method", "path") if name in properties}


def _name_of(organization: Organization, customer_id: int | None) -> str | None:
    if customer_id is None:
        return None
    return Customer.objects.for_organization(organization).values_list("external_id", flat=True).get(pk=customer_id)
