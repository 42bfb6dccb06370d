"""The inbox of Stripe's webhooks: keep each as it came, handle it once, try it again where that failed.

An event is only a hint: invoices are asked for as they are now, so that neither the order in which events arrive nor
their repetition matters. What an event changes is committed together with the mark that it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from kombu.exceptions import OperationalError as BrokerError

from accounts.models import Organization
from accounts.services import record_audit
from billing.clients.failures import CallFailed
from billing.clients.invoices import RemoteInvoice
from billing.clients.stripe import StripeMeters
from billing.clients.stripe_events import StripeEvents
from billing.clients.stripe_invoices import REFERENCE, StripeInvoices
from billing.domain.notices import NoticeType
from billing.models import MAX_ERROR_CHARACTERS, InboxState, StripeCustomer, StripeEvent, StripeInvoice
from billing.queries.stripe_inbox import (
    find_push,
    list_due_events,
    list_identified_reports,
    list_named_customers,
    list_named_meters,
)
from billing.services.notices import write_notice
from billing.services.stripe_account import StripeNotConfigured
from billing.services.stripe_invoices import lock_push, record_remote
from common.errors import ApplicationError, Conflict

HANDLE_TASK = "billing.handle_stripe_event"
KEPT_FOR = timedelta(days=90)
# Of a report of errors: so many of Stripe's samples are looked at.
MAX_SAMPLES = 1000

# What an event changes, written in one transaction with the mark that it is done. Returns whose it was.
Effect = Callable[[datetime], Organization]
# Reads what an event is about, outside of any transaction; None: nothing of ours.
Handler = Callable[[StripeEvent], Effect | None]

logger = structlog.get_logger(__name__)


class NotFailed(Conflict):
    code = "not_failed"


def receive_event(*, event: Mapping[str, Any], now: datetime) -> bool:
    """Keep an event and have it handled. Returns False, and does nothing, for one that is here already."""
    try:
        with transaction.atomic():
            row = StripeEvent.objects.create(
                organization=None,
                stripe_event_id=event["id"],
                type=event["type"],
                payload=event,
                received_at=now,
            )
    except IntegrityError:
        return False
    transaction.on_commit(partial(_enqueue, row.pk))
    return True


def _enqueue(event_id: int) -> None:
    # Where the queue is away, the sweep finds it.
    with suppress(BrokerError):
        current_app.signature(HANDLE_TASK, args=[event_id]).apply_async(retry=False)


def handle_event(*, event_id: int, now: datetime) -> str:
    """Handle one event, unless that is done, and return the state it is in then.

    The attempt is counted before it is made: whatever ends it, a killed worker too, it is tried again later.
    """
    events = StripeEvent.objects.all_tenants().filter(pk=event_id)
    waiting = events.filter(state__in=(InboxState.RECEIVED, InboxState.FAILED))
    if not waiting.update(
        state=InboxState.FAILED, attempts=F("attempts") + 1, handled_at=now, error="The attempt did not end."
    ):
        return events.values_list("state", flat=True).first() or ""
    event = events.get()
    handler = HANDLERS.get(event.type)
    try:
        effect = None if handler is None else handler(event)
        if effect is None:
            waiting.update(state=InboxState.IGNORED, error="")
            return InboxState.IGNORED
        return _apply(event, effect, now)
    except (CallFailed, ApplicationError) as error:
        return _fail(event, str(error))
    except Exception as error:  # whatever an event says must not stop the ones after it
        logger.exception("Stripe event failed", stripe_event=event.stripe_event_id, type=event.type)
        return _fail(event, f"{type(error).__name__}: see the log.")


def _apply(event: StripeEvent, effect: Effect, now: datetime) -> str:
    with transaction.atomic():
        rows = StripeEvent.objects.all_tenants().filter(pk=event.pk)
        if rows.select_for_update(no_key=True).get().state == InboxState.DONE:
            return InboxState.DONE  # somebody else was quicker
        organization = effect(now)
        rows.update(state=InboxState.DONE, error="", organization=organization)
    return InboxState.DONE


def _fail(event: StripeEvent, message: str) -> str:
    rows = StripeEvent.objects.all_tenants().filter(pk=event.pk, state=InboxState.FAILED)
    rows.update(error=message[:MAX_ERROR_CHARACTERS])
    logger.warning("Stripe event not handled", stripe_event=event.stripe_event_id, type=event.type, message=message)
    return InboxState.FAILED


@transaction.atomic
def retry_event(*, event: StripeEvent, organization: Organization, actor: str) -> None:
    """Have an event that failed handled again soon, as if it had just arrived. Raises `NotFailed` for any other."""
    failed = StripeEvent.objects.for_organization(organization).filter(pk=event.pk, state=InboxState.FAILED)
    if not failed.update(state=InboxState.RECEIVED, attempts=0):
        raise NotFailed("Only an event that failed is handled again.")
    record_audit(
        organization=organization,
        actor=actor,
        action="stripe_event.retried",
        target=event.stripe_event_id,
        details={"error": event.error},
    )
    transaction.on_commit(partial(_enqueue, event.pk))


def handle_due_events(*, now: datetime, limit: int) -> int:
    """Handle what was not: a lost wake-up, a killed worker, a failure some time ago. Returns how many there were."""
    due = list(list_due_events(now=now).values_list("pk", flat=True)[:limit])
    for event_id in due:
        handle_event(event_id=event_id, now=now)
    return len(due)


def prune_events(*, now: datetime) -> int:
    """Forget what arrived more than 90 days ago."""
    deleted, _ = StripeEvent.objects.all_tenants().filter(received_at__lt=now - KEPT_FOR).delete()
    return deleted


# --- invoices -------------------------------------------------------------------------------------------------


def _read_invoice(event: StripeEvent, *, cause: str = "") -> Effect | None:
    told = _object_of(event.payload)
    organization_id, invoice_id = _parse_reference(told)
    push = find_push(
        stripe_invoice_id=str(told.get("id") or "-"),
        customer_id=str(told.get("customer")),
        organization_id=organization_id,
        invoice_id=invoice_id,
    )
    if push is None:
        return None
    # Whatever comes of it, the organization sees it.
    StripeEvent.objects.all_tenants().filter(pk=event.pk).update(organization=push.organization_id)
    account = StripeInvoices(api_key=_api_key(), api_base=settings.STRIPE_API_BASE)
    remote = account.get(str(told["id"]))
    return None if remote is None else partial(_record, push, remote, cause)


def _record(push: StripeInvoice, remote: RemoteInvoice, cause: str, now: datetime) -> Organization:
    record_remote(push=lock_push(push), remote=remote, cause=cause, now=now)
    return push.organization


def _parse_reference(told: Mapping[str, Any]) -> tuple[int, int]:
    """Return the organization and the invoice that an invoice's metadata name; zeros where they name none of ours."""
    metadata = told.get("metadata")
    reference = str(metadata.get(REFERENCE, "")) if isinstance(metadata, Mapping) else ""
    prefix, *numbers = reference.rsplit("-", 2)
    if prefix != settings.STRIPE_IDENTIFIER_PREFIX or not all(_is_id(number) for number in numbers):
        return 0, 0
    organization_id, invoice_id = map(int, numbers)
    return organization_id, invoice_id


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


# --- customers and meters -------------------------------------------------------------------------------------


def _read_deleted_customer(event: StripeEvent) -> Effect | None:
    named = list(list_named_customers(stripe_customer_id=str(_object_of(event.payload).get("id"))))
    return partial(_tell_deleted, named) if named else None


def _tell_deleted(named: list[StripeCustomer], now: datetime) -> Organization:
    """Tell whoever reports to the customer. What it is called stays: what was told of it is to be found by that."""
    for customer in named:
        payload = {
            "kind": "customer_deleted",
            "customer": customer.customer.external_id,
            "stripe_customer_id": customer.stripe_customer_id,
        }
        write_notice(organization=customer.organization, type=NoticeType.STRIPE_DRIFT, payload=payload, now=now)
    return named[0].organization


def _read_meter_errors(event: StripeEvent) -> Effect | None:
    """Find whose events a meter refused after it had accepted them. Stripe tells samples of them only."""
    payload = event.payload
    data = payload.get("data")
    if not isinstance(data, Mapping) or "reason" not in data:
        data = StripeEvents(api_key=_api_key(), api_base=settings.STRIPE_API_BASE).get_data(str(payload["id"]))
    samples = dict(_list_samples(data))
    organizations: dict[int, Organization] = {}
    for report in list_identified_reports(identifiers=list(samples)):
        organizations.setdefault(report.organization_id, report.organization)
    meter_id = str(_mapping(payload.get("related_object")).get("id", ""))
    event_name = ""
    if not organizations and meter_id:
        event_name = _find_event_name(meter_id)
        for meter in list_named_meters(event_name=event_name):
            organizations.setdefault(meter.organization_id, meter.organization)
    if not organizations:
        return None
    return partial(_tell_errors, list(organizations.values()), samples, data)


def _tell_errors(
    organizations: list[Organization], samples: dict[str, str], data: Mapping[str, Any], now: datetime
) -> Organization:
    """Note the error at the reports among the samples, and tell all whom it may concern."""
    reason = _mapping(data.get("reason"))
    for report in list_identified_reports(identifiers=list(samples)):
        report.last_error = f"Stripe refused it later: {samples[report.identifier]}"[:MAX_ERROR_CHARACTERS]
        report.save(update_fields=["last_error"])
    summary = {
        "kind": "events_refused",
        "error_count": str(reason.get("error_count", "")),
        "errors": {str(each.get("code")): str(each.get("error_count")) for each in _mappings(reason, "error_types")},
        "summary": str(data.get("developer_message_summary", ""))[:MAX_ERROR_CHARACTERS],
        "validation_start": data.get("validation_start"),
        "validation_end": data.get("validation_end"),
    }
    logger.error("Stripe refused meter events later", **summary)
    for organization in organizations:
        write_notice(organization=organization, type=NoticeType.STRIPE_DRIFT, payload=summary, now=now)
    return organizations[0]


def _list_samples(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the samples call each event, and its error.

    They say the call's idempotency key, which here is the event's identifier and the number of the attempt.
    """
    samples = [
        (str(_mapping(sample.get("request")).get("identifier", "")), str(sample.get("error_message", "")))
        for kind in _mappings(_mapping(data.get("reason")), "error_types")
        for sample in _mappings(kind, "sample_errors")
    ][:MAX_SAMPLES]
    return [(name, error) for key, error in samples for name in (key, key.rpartition("-")[0]) if name]


def _find_event_name(meter_id: str) -> str:
    account = StripeMeters(api_key=_api_key(), api_base=settings.STRIPE_API_BASE)
    return next((meter.event_name for meter in account.list_meters() if meter.id == meter_id), "")


def _api_key() -> str:
    if not settings.STRIPE_API_KEY:
        raise StripeNotConfigured("No Stripe key is set, so Stripe cannot be asked. Set STRIPE_API_KEY.")
    return str(settings.STRIPE_API_KEY)


def _object_of(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_mapping(payload.get("data")).get("object"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = value.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


# Whatever is not named is kept and ignored.
HANDLERS: Mapping[str, Handler] = {
    "invoice.finalized": _read_invoice,
    "invoice.paid": _read_invoice,
    "invoice.payment_failed": partial(_read_invoice, cause="payment_failed"),
    "invoice.voided": _read_invoice,
    "customer.deleted": _read_deleted_customer,
    "v1.billing.meter.error_report_triggered": _read_meter_errors,
}
