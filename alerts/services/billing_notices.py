"""What billing has to tell, made into webhook messages.

One transaction takes the notices and writes the messages, so that each is told exactly once and none is lost, whoever
is killed in between. From there on they are deliveries like all others. Does not own what is told
(`billing.services.notices`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from django.db import transaction

from accounts.models import Organization
from alerts.models import AlertLog, Delivery, WebhookEndpoint
from alerts.services.deliveries import new_delivery
from alerts.services.log import announce, ensure_log
from billing.models import Notice
from billing.services.notices import take_notices

MAX_NOTICES = 500


@dataclass(frozen=True, slots=True)
class Told:
    """What one step did. Fewer messages than notices: nobody wanted some; more: several endpoints did."""

    notices: int
    messages: int

    @property
    def is_unfinished(self) -> bool:
        return self.notices == MAX_NOTICES


@transaction.atomic
def tell_notices() -> Told:
    """Take the oldest notices and write the messages for whoever wants them. A notice that nobody wants is dropped.

    Safe to call at any time and by several at once.
    """
    notices = take_notices(limit=MAX_NOTICES)
    by_organization: dict[int, list[Notice]] = defaultdict(list)
    for notice in notices:
        by_organization[notice.organization_id].append(notice)
    messages = 0
    # In one order, so that two at once, who have notices of the same organizations, do not wait for each other.
    for organization_id, own in sorted(by_organization.items()):
        messages += _tell_organization(organization_id, own)
    return Told(len(notices), messages)


def _tell_organization(organization_id: int, notices: Sequence[Notice]) -> int:
    if not _list_enabled(organization_id):
        return 0
    _hold_off_deletions(organization_id)
    deliveries = list(_write(_list_enabled(organization_id), notices))
    Delivery.objects.bulk_create(deliveries)
    if deliveries:
        announce(organization_id=organization_id)
    return len(deliveries)


def _hold_off_deletions(organization_id: int) -> None:
    """Lock the end of the log: whoever deletes an endpoint touches it first, and then finds what we wrote for it."""
    ensure_log(Organization.objects.get(pk=organization_id))
    AlertLog.objects.for_organization(organization_id).select_for_update(no_key=True).get()


def _list_enabled(organization_id: int) -> list[WebhookEndpoint]:
    endpoints = WebhookEndpoint.objects.for_organization(organization_id).filter(disabled_at__isnull=True)
    return sorted(endpoints, key=attrgetter("pk"))


def _write(endpoints: Sequence[WebhookEndpoint], notices: Sequence[Notice]) -> Iterator[Delivery]:
    for notice in notices:
        for endpoint in endpoints:
            if _is_wanted(endpoint, notice.type, notice.payload):
                yield new_delivery(endpoint, notice.type, notice.payload, notice.created_at)


def _is_wanted(endpoint: WebhookEndpoint, message_type: str, payload: dict[str, Any]) -> bool:
    """Tell whether the endpoint names the type, and its filter of metrics, which is for messages about one, agrees."""
    if message_type not in endpoint.message_types:
        return False
    metric = payload.get("metric")
    return not endpoint.metric_codes or metric is None or metric in endpoint.metric_codes
