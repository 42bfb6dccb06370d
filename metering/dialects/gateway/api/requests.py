"""`POST /v1/requests`: the hot path of gateways, plain Django below DRF like `POST /v1/events`."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from accounts.access import authenticate_request
from accounts.models import Scope
from common.bodies import read_body
from common.errors import FieldError, InvalidInput, UnsupportedMediaType
from metering.api.ingest import MAX_BODY_BYTES, answer_result, limits_of
from metering.dialects.gateway.recording import decode_records
from metering.dialects.gateway.services.recording import RecordingResult, record_requests

JSON_TYPE = "application/json"

_encoder = msgspec.json.Encoder()


@csrf_exempt  # keys carry no cookies; for sessions `authenticate_request` checks the token itself
@require_POST
def post_requests(request: HttpRequest) -> HttpResponse:
    """Store the records of requests; a verdict for each."""
    caller = authenticate_request(request)
    caller.require(Scope.EVENTS_WRITE)
    _refuse_parameters(request)
    if (request.content_type or JSON_TYPE) != JSON_TYPE:
        raise UnsupportedMediaType(f"Send {JSON_TYPE}.")
    records = decode_records(read_body(request, max_bytes=MAX_BODY_BYTES))
    result = record_requests(
        organization=caller.organization,
        records=records,
        now=timezone.now(),
        limits=limits_of(caller),
        actor=caller.actor,
    )
    return _answer(result, len(records))


def _refuse_parameters(request: HttpRequest) -> None:
    errors = [FieldError(name[:100], "unknown_parameter", "This parameter is not known.") for name in request.GET]
    if errors:
        raise InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors)


def _answer(result: RecordingResult, count: int) -> HttpResponse:
    if not result.is_tracked:
        body = {"stored": 0, "duplicates": 0, "rejected": 0, "errors": [], "first_offset": None, "last_offset": None}
        untold = {"accepted": count, "tracking_enabled": False}
        return HttpResponse(_encoder.encode(body | untold), content_type=JSON_TYPE)
    extra: dict[str, Any] = {}
    if result.metering_errors:
        extra["metering_errors"] = [error.as_json() for error in result.metering_errors]
    return answer_result(result.verdicts, extra=extra)
