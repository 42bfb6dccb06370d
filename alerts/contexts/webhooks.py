"""Webhook endpoints: their list, one with its deliveries, one delivery with its attempts, and the form.

Whoever may only look sees of a URL where it leads to, not its path and query, which are often a secret.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Organization
from accounts.pages import page_before, text_parameter
from alerts.forms import EndpointForm
from alerts.models import Delivery, DeliveryState, WebhookEndpoint
from alerts.payloads import in_order
from alerts.queries.webhooks import list_attempts, list_deliveries, list_endpoints
from billing.domain.notices import NoticeType
from metering.contexts.breakdown import Link

PAGE_SIZE = 50

DELIVERY_CLASSES: dict[str, str] = {DeliveryState.DELIVERED: "is-success", DeliveryState.FAILED: "is-danger"}
BILLING_TYPES = frozenset(NoticeType)
STATE_LABELS = (("", "All"), *((state.value, state.label) for state in DeliveryState))


@dataclass(frozen=True, slots=True)
class EndpointRow:
    pk: int
    page_url: str
    # What it is called: its URL as far as the visitor may see it.
    name: str
    description: str
    state: str
    state_class: str
    note: str
    # Since when, for the note; None: without a time.
    since: datetime | None
    is_enabled: bool
    message_types: list[str]
    metric_codes: list[str]
    created_at: datetime
    previous_secret_until: datetime | None


@dataclass(frozen=True, slots=True)
class EndpointListPage:
    rows: list[EndpointRow]


def get_endpoint_list(caller: Caller) -> EndpointListPage:
    """All of them: an organization has few. One query."""
    endpoints = list_endpoints(organization=caller.organization).order_by("-pk")
    return EndpointListPage([_endpoint_row(caller, endpoint) for endpoint in endpoints])


def endpoint_name(caller: Caller, endpoint: WebhookEndpoint) -> str:
    """Return the URL; to whoever may only look, without what may be a secret in it."""
    if caller.has(Scope.METRICS_WRITE):
        return endpoint.url
    parts = urlsplit(endpoint.url)
    return f"{parts.scheme}://{parts.hostname}/\u2026"


def _endpoint_row(caller: Caller, endpoint: WebhookEndpoint) -> EndpointRow:
    state, css_class, note, since = _endpoint_state(endpoint)
    until = endpoint.previous_secret_until
    return EndpointRow(
        pk=endpoint.pk,
        page_url=reverse("alerts:webhook", args=[caller.organization.pk, endpoint.pk]),
        name=endpoint_name(caller, endpoint),
        description=endpoint.description,
        state=state,
        state_class=css_class,
        note=note,
        since=since,
        is_enabled=endpoint.disabled_at is None,
        message_types=endpoint.message_types,
        metric_codes=endpoint.metric_codes,
        created_at=endpoint.created_at,
        previous_secret_until=until if until and until > timezone.now() else None,
    )


def _endpoint_state(endpoint: WebhookEndpoint) -> tuple[str, str, str, datetime | None]:
    if endpoint.disabled_at is not None:
        if endpoint.disabled_reason:
            return "switched itself off", "is-danger", endpoint.disabled_reason, endpoint.disabled_at
        return "disabled", "", "by a member", endpoint.disabled_at
    if endpoint.failing_since is not None:
        return "failing", "is-warning", "every attempt failed since", endpoint.failing_since
    return "enabled", "is-success", "", None


# --- one endpoint ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    pk: int
    url: str
    created_at: datetime
    message_type: str
    # What it is about: an alert, or of billing's messages the customer. Empty: neither.
    subject: str
    subject_url: str
    state: str
    state_class: str
    attempt_count: int
    # Of a pending one.
    next_attempt_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShownSecret:
    """A secret on its one showing."""

    title: str
    text: str
    # Until then the one before signs along; None: there is none.
    previous_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class EndpointPage:
    row: EndpointRow
    deliveries: list[DeliveryRow]
    states: list[Link]
    is_filtered: bool
    next_url: str
    first_url: str
    issued: ShownSecret | None


def get_endpoint_page(
    request: HttpRequest, caller: Caller, endpoint: WebhookEndpoint, *, issued: ShownSecret | None = None
) -> EndpointPage:
    """The endpoint with a page of its deliveries, newest first."""
    state = text_parameter(request, "state")
    if state not in DeliveryState.values:
        state = ""
    deliveries = list_deliveries(endpoint=endpoint, state=state or None)
    page = page_before(
        request,
        deliveries.select_related("crossing__customer", "crossing__metric"),
        size=PAGE_SIZE,
        parameters={"state": state} if state else {},
    )
    return EndpointPage(
        row=_endpoint_row(caller, endpoint),
        deliveries=[_delivery_row(caller.organization, delivery) for delivery in page.rows],
        states=[Link(label, f"?state={value}#deliveries", value == state) for value, label in STATE_LABELS],
        is_filtered=bool(state),
        next_url=page.next_url,
        first_url=page.first_url,
        issued=issued,
    )


def _delivery_row(organization: Organization, delivery: Delivery) -> DeliveryRow:
    crossing = delivery.crossing
    told = delivery.payload["data"].get("customer") if delivery.message_type in BILLING_TYPES else None
    whose = (crossing.customer.external_id if crossing.customer else crossing.metric.code) if crossing else ""
    return DeliveryRow(
        pk=delivery.pk,
        url=reverse("alerts:delivery", args=[organization.pk, delivery.endpoint_id, delivery.pk]),
        created_at=delivery.created_at,
        message_type=delivery.message_type,
        subject=f"#{crossing.offset} {crossing.threshold_code}, {whose}" if crossing else str(told or ""),
        subject_url=reverse("alerts:alert", args=[organization.pk, crossing.offset]) if crossing else "",
        state=delivery.state,
        state_class=DELIVERY_CLASSES.get(delivery.state, ""),
        attempt_count=delivery.attempt_count,
        next_attempt_at=delivery.next_attempt_at if delivery.state == DeliveryState.PENDING else None,
        settled_at=delivery.settled_at,
    )


# --- one delivery ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptRow:
    attempted_at: datetime
    duration_ms: int
    status_code: int | None
    error: str
    # Empty to whoever may only look: it is the receiver's, and may say anything.
    answer: str
    is_success: bool


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    row: DeliveryRow
    endpoint: EndpointRow
    message_id: str
    payload_text: str
    # The newest first.
    attempts: list[AttemptRow]
    # A delivery to a disabled endpoint cannot be sent again.
    is_replayable: bool


def get_delivery_page(caller: Caller, delivery: Delivery) -> DeliveryPage:
    organization = caller.organization
    endpoint = _endpoint_row(caller, delivery.endpoint)
    may_read_answers = caller.has(Scope.METRICS_WRITE)
    return DeliveryPage(
        row=_delivery_row(organization, delivery),
        endpoint=endpoint,
        message_id=delivery.message_id,
        payload_text=json.dumps(in_order(delivery.payload), indent=2, ensure_ascii=False),
        attempts=[
            AttemptRow(
                attempted_at=attempt.attempted_at,
                duration_ms=attempt.duration_ms,
                status_code=attempt.status_code,
                error=attempt.error,
                answer=attempt.answer if may_read_answers else "",
                is_success=attempt.status_code is not None and 200 <= attempt.status_code < 300,
            )
            for attempt in reversed(list_attempts(delivery=delivery))
        ],
        is_replayable=endpoint.is_enabled,
    )


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndpointFormPage:
    title: str
    submit_label: str
    cancel_url: str
    form: EndpointForm
    # None: a new one.
    endpoint: WebhookEndpoint | None = None


def get_endpoint_form_page(
    caller: Caller, form: EndpointForm, endpoint: WebhookEndpoint | None = None
) -> EndpointFormPage:
    organization = caller.organization
    if endpoint is None:
        cancel_url = reverse("alerts:webhook_list", args=[organization.pk])
        return EndpointFormPage("New webhook endpoint", "Create endpoint", cancel_url, form)
    cancel_url = reverse("alerts:webhook", args=[organization.pk, endpoint.pk])
    return EndpointFormPage("Edit the endpoint", "Save", cancel_url, form, endpoint)
