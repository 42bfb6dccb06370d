"""The page of the forward port: the listener, the instances, what waits; and the form that maps an instance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import text_parameter
from accounts.queries import suggest_customers
from metering.dialects.weave.access import list_visible_records, may_map
from metering.dialects.weave.contexts.listener import ListenerState, get_listener_state
from metering.dialects.weave.forms import MapForm, SettingsForm
from metering.dialects.weave.models import Instance, QuarantineReason
from metering.dialects.weave.queries import (
    get_weave_settings,
    is_port_open_to,
    list_instances,
    list_waiting_instances,
)

PAGE_SIZE = 50
# Instances with waiting records, on this page; the quarantine has all.
WAITING_SIZE = 10


@dataclass(frozen=True, slots=True)
class InstanceRow:
    internal_instance_id: str
    customer: str
    # Empty until the first amount makes the customer.
    customer_url: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """What waits of one instance for one reason."""

    internal_instance_id: str
    reason: str
    label: str
    count: int
    first_received_at: datetime
    last_received_at: datetime
    records_url: str
    # Empty where mapping would not help, or is not the visitor's.
    map_url: str


@dataclass(frozen=True, slots=True)
class ForwardingPage:
    listener: ListenerState
    is_open: bool
    may_map: bool
    instances: list[InstanceRow]
    next_url: str
    first_url: str
    waiting: list[WaitingRow]
    settings_form: SettingsForm
    is_metric_auto_created: bool


def get_forwarding_page(request: HttpRequest, caller: Caller) -> ForwardingPage:
    """A page of instances in the order of their ids; `after` is the id of the page before's last row."""
    organization = caller.organization
    after = text_parameter(request, "after")
    rows = list_instances(organization).filter(internal_instance_id__gt=after)
    found = list(rows[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    settings = get_weave_settings(organization)
    return ForwardingPage(
        listener=get_listener_state(request),
        is_open=is_port_open_to(organization),
        may_map=may_map(caller),
        instances=_instance_rows(organization, shown),
        next_url="?" + urlencode({"after": shown[-1].internal_instance_id}) if len(found) > PAGE_SIZE else "",
        first_url="?" if after else "",
        waiting=_waiting_rows(caller),
        settings_form=SettingsForm(initial={"is_metric_auto_created": settings.is_metric_auto_created}),
        is_metric_auto_created=settings.is_metric_auto_created,
    )


def _instance_rows(organization: Organization, instances: list[Instance]) -> list[InstanceRow]:
    external_ids = {instance.customer_external_id for instance in instances}
    customers = Customer.objects.for_organization(organization).filter(external_id__in=external_ids)
    ids = dict(customers.values_list("external_id", "pk"))
    return [
        InstanceRow(
            internal_instance_id=instance.internal_instance_id,
            customer=instance.customer_external_id,
            customer_url=reverse("metering:customer", args=[organization.pk, ids[instance.customer_external_id]])
            if instance.customer_external_id in ids
            else "",
            created_at=instance.created_at,
        )
        for instance in instances
    ]


def _waiting_rows(caller: Caller) -> list[WaitingRow]:
    organization, is_mapper = caller.organization, may_map(caller)
    quarantine_url = reverse("weave:quarantine", args=[organization.pk])
    map_url = reverse("weave:map_instance", args=[organization.pk])
    waiting = list_waiting_instances(list_visible_records(caller), limit=WAITING_SIZE)
    return [
        WaitingRow(
            internal_instance_id=group.internal_instance_id,
            reason=group.reason,
            label=reason_label(group.reason),
            count=group.record_count,
            first_received_at=group.first_received_at,
            last_received_at=group.last_received_at,
            records_url=f"{quarantine_url}?{urlencode({'instance': group.internal_instance_id})}",
            map_url=f"{map_url}?{urlencode({'instance': group.internal_instance_id})}"
            if is_mapper and group.reason == QuarantineReason.UNKNOWN_INSTANCE
            else "",
        )
        for group in waiting
    ]


def reason_label(reason: str) -> str:
    """Return our own reasons in words; the codes of refused events speak for themselves."""
    return dict(QuarantineReason.choices).get(reason, reason)


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapPage:
    form: MapForm
    customers: list[str]
    cancel_url: str


def get_map_page(caller: Caller, form: MapForm) -> MapPage:
    return MapPage(
        form=form,
        customers=suggest_customers(caller.organization),
        cancel_url=reverse("weave:forwarding", args=[caller.organization.pk]),
    )
