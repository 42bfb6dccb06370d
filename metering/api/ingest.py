"""`POST /v1/events` and its dry run: the hot path, plain Django below DRF.

A DRF view would cost more than storing a small batch. The wire formats are told apart by the content type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from accounts.access import Caller, authenticate_request
from accounts.models import Customer, Scope
from common.bodies import read_body
from common.errors import FieldError, InvalidInput, UnsupportedMediaType
from metering.admission import AdmittedEvent, EventError, FeedPlan
from metering.dialects import cloudevents, native
from metering.incoming import IncomingEvent, MalformedEvent
from metering.services.ingest import IngestLimits, IngestResult, examine_events, ingest_events, validate_events
from metering.services.queue import Acceptance, accept_events

# A full batch of the largest events that the contract allows, with room for their other fields.
MAX_BODY_BYTES = 48 * 1024 * 1024

Events = list[IncomingEvent | MalformedEvent]

DECODERS: dict[str, Callable[[bytes], Events]] = {
    native.JSON_TYPE: native.decode_json,
    native.NDJSON_TYPE: native.decode_ndjson,
    cloudevents.EVENT_TYPE: cloudevents.decode_cloudevents,
    cloudevents.BATCH_TYPE: cloudevents.decode_cloudevents,
}

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """The query parameters of an ingest request."""

    is_async: bool = False
    is_atomic: bool = False


@csrf_exempt  # keys carry no cookies; for sessions `authenticate_request` checks the token itself
def post_events(request: HttpRequest) -> HttpResponse:
    """Store a batch (`durability=sync`, the default) or queue it (`async`)."""
    caller = authenticate_request(request)
    caller.require(Scope.EVENTS_WRITE)
    options = _read_options(request)
    events = _read_events(request)
    limits = limits_of(caller)
    if options.is_async and not any(_insists_on_sync(event) for event in events):
        acceptance = accept_events(organization=caller.organization, events=events, now=timezone.now(), limits=limits)
        return _answer_acceptance(acceptance)
    result = ingest_events(
        organization=caller.organization,
        events=events,
        now=timezone.now(),
        limits=limits,
        is_atomic=options.is_atomic,
    )
    return answer_result(result)


@csrf_exempt
@require_POST
def post_validation(request: HttpRequest) -> HttpResponse:
    """Answer what a batch would do, and which metrics each event would change; store nothing."""
    caller = authenticate_request(request)
    caller.require(Scope.EVENTS_WRITE)
    _read_options(request)
    events = _read_events(request)
    names: dict[str, Any] = {"organization": caller.organization, "now": timezone.now(), "limits": limits_of(caller)}
    result = validate_events(events=events, **names)
    admitted, _, plans = examine_events(events=events, **names)
    refused = {error.index for error in result.errors}  # a conflict shows only when stored
    changes = [
        _describe(event, events[event.index], plans[event.feed_id]) for event in admitted if event.index not in refused
    ]
    return answer_result(result, extra={"events": changes, "first_offset": None, "last_offset": None})


def limits_of(caller: Caller) -> IngestLimits:
    """Return what the caller's key may send; one query for a key bound to a customer, else none."""
    customer = None
    if caller.customer_id is not None:
        customer = Customer.objects.for_organization(caller.organization).get(pk=caller.customer_id).external_id
    return IngestLimits(only_customer=customer, only_metrics=caller.metric_codes)


def _read_options(request: HttpRequest) -> IngestOptions:
    if not request.META.get("QUERY_STRING"):
        return IngestOptions()
    allowed = {"durability": {"sync", "async"}, "atomic": {"true", "false"}}
    errors = [
        FieldError(name[:100], "unknown_parameter", "This parameter is not known.")
        if name not in allowed
        else FieldError(name, "invalid", f"Use one of {', '.join(sorted(allowed[name]))}.")
        for name, values in request.GET.lists()
        if name not in allowed or len(values) != 1 or values[0] not in allowed[name]
    ]
    options = IngestOptions(request.GET.get("durability") == "async", request.GET.get("atomic") == "true")
    if options.is_async and options.is_atomic:
        errors.append(FieldError("atomic", "invalid", "Only durability=sync can be atomic."))
    if errors:
        raise InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors)
    return options


def _read_events(request: HttpRequest) -> Events:
    content_type = request.content_type or native.JSON_TYPE
    decoder = DECODERS.get(content_type)
    if decoder is None:
        raise UnsupportedMediaType(f"Send one of: {', '.join(DECODERS)}.")
    return decoder(read_body(request, max_bytes=MAX_BODY_BYTES))


def _insists_on_sync(event: IncomingEvent | MalformedEvent) -> bool:
    return isinstance(event, IncomingEvent) and event.delivery == "sync"


def answer_result(result: IngestResult, *, extra: Mapping[str, Any] | None = None) -> HttpResponse:
    """Answer the verdicts: 200 where anything was stored or known, else 422 in the shape of an error."""
    body: dict[str, Any] = {
        "stored": result.stored,
        "duplicates": result.duplicates,
        "rejected": result.rejected,
        "errors": [error.as_json() for error in result.errors],
        "first_offset": None if result.first_offset is None else str(result.first_offset),
        "last_offset": None if result.last_offset is None else str(result.last_offset),
    }
    if result.generated_keys:
        body["generated_keys"] = {str(index): key for index, key in result.generated_keys.items()}
    body.update(extra or {})
    if result.stored or result.duplicates:
        return _json(body)
    return _json(_refused(body, result.errors), status=422)


def _answer_acceptance(acceptance: Acceptance) -> HttpResponse:
    body = {
        "accepted": acceptance.accepted,
        "rejected": len(acceptance.errors),
        "errors": [error.as_json() for error in acceptance.errors],
    }
    return _json(body, status=202) if acceptance.accepted else _json(_refused(body, acceptance.errors), status=422)


def _refused(body: dict[str, Any], errors: Sequence[EventError]) -> dict[str, Any]:
    """Return the verdicts in the shape of an error: nothing of the request was stored."""
    return {"code": errors[0].code, "message": f"Nothing was stored: {errors[0].message}", **body}


def _describe(admitted: AdmittedEvent, event: IncomingEvent | MalformedEvent, plan: FeedPlan) -> dict[str, Any]:
    assert isinstance(event, IncomingEvent)  # a malformed one is never admitted
    return {
        "index": admitted.index,
        "idempotency_key": admitted.key,
        "metrics": [metric.code for metric in plan.metrics if plan.feeds(metric, event)],
    }


def _json(body: dict[str, Any], *, status: int = 200) -> HttpResponse:
    return HttpResponse(_encoder.encode(body), status=status, content_type="application/json")
