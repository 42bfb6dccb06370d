"""The API of single events: list, look up, void, replace; and of the inbox of unmatched ones."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.domain import Scope
from common.api import decode_cursor, encode_cursor, invalid_input, take_page
from common.errors import InvalidInput, NotFound
from common.moments import rfc3339
from common.numbers import exact_text
from common.times import parse_time
from metering import queries
from metering.api import serializers as shapes
from metering.api.base import FreeNamesView, get_visible_customer, get_visible_metric
from metering.api.ingest import limits_of
from metering.incoming import IncomingEvent
from metering.models import InboxEvent, Metric
from metering.queries.events import EventPosition, EventRow
from metering.services.inbox import discard_inbox, replay_inbox
from metering.services.voids import check_reason, replace_event, void_event

MAX_PROPERTY_FILTERS = 16
# Writes exact decimals in properties as JSON numbers, which DRF's encoder would turn into text.
_encoder = msgspec.json.Encoder(decimal_format="number")


def event_json(event: EventRow) -> dict[str, Any]:
    """Return an event as the API shows it: the fields of ingest, when it arrived, and whether it was taken back."""
    return {
        "idempotency_key": event.idempotency_key,
        "customer": event.customer,
        "type": event.type,
        "value": event.member if event.value is None else exact_text(event.value),
        "timestamp": rfc3339(event.timestamp),
        "received_at": rfc3339(event.received_at),
        "properties": event.properties,
        "operation": event.operation,
        "offset": str(event.offset),
        "voided_at": None if event.voided_at is None else rfc3339(event.voided_at),
        "void_reason": event.void_reason,
        "replaced_by": event.replacement_key or None,
    }


def _exact_response(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(_encoder.encode(body), content_type="application/json")


class EventListView(FreeNamesView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": shapes.EventListQuery}
    methods_for_bound_keys = frozenset({"GET"})
    free_name = re.compile(r"property\.(.{1,256})\Z", re.DOTALL)

    @extend_schema(operation_id="list_events", parameters=[shapes.EventListQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = self.query["limit"], self.query.get("cursor")
        customer = get_visible_customer(self.caller, self.query.get("customer"))
        metric = get_visible_metric(self.caller, self.query["metric"]) if "metric" in self.query else None
        if metric is None and self.caller.metric_codes:
            raise InvalidInput.of("metric", "This key is bound to metrics; name one.", "required")
        rows = queries.list_events(
            organization=self.caller.organization,
            customer_id=customer.pk if customer else None,
            metric=metric,
            start=self.query.get("from"),
            end=self.query.get("to"),
            properties=self._properties(),
            before=_position(cursor) if cursor else None,
            limit=limit + 1,
        )
        page = rows[:limit]
        next_cursor = encode_cursor(rfc3339(page[-1].timestamp), page[-1].offset) if len(rows) > limit else None
        return _exact_response({"data": [event_json(event) for event in page], "next_cursor": next_cursor})

    def _properties(self) -> dict[str, str]:
        for name, values in self.free.items():
            if len(values) > 1 or "\x00" in name + values[0]:
                raise InvalidInput.of(f"property.{name[:100]}", "Give one value, without NUL.", "invalid")
        if len(self.free) > MAX_PROPERTY_FILTERS:
            raise InvalidInput.of("property", f"Filter by at most {MAX_PROPERTY_FILTERS} properties.", "too_many")
        return {name: values[0] for name, values in self.free.items()}


def _position(cursor: str) -> EventPosition:
    moment, offset = decode_cursor(cursor, length=2)
    try:
        if isinstance(offset, int):
            return EventPosition(parse_time(moment), offset)
    except ValueError:
        pass  # falls through to the one refusal of a cursor that is not ours
    raise InvalidInput.of("cursor", "Use the `next_cursor` of the page before, unchanged.", "invalid_cursor")


class EventView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_event", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, key: str) -> HttpResponse:
        event = queries.find_event(organization=self.caller.organization, idempotency_key=key)
        customer = get_visible_customer(self.caller, None)
        if event is None or (customer is not None and event.customer != customer.external_id):
            raise NotFound("There is no such event.")
        metrics = Metric.objects.for_organization(self.caller.organization).filter(pk__in=event.metric_ids)
        codes = set(metrics.values_list("code", flat=True))
        if self.caller.metric_codes and not codes & self.caller.metric_codes:
            raise NotFound("There is no such event.")
        return _exact_response({**event_json(event), "metrics": sorted(codes)})


class EventVoidView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}

    @extend_schema(operation_id="void_event", request=shapes.VoidWrite, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, key: str) -> Response:
        void = void_event(
            organization=self.caller.organization,
            idempotency_key=key,
            actor=self.caller.actor,
            now=timezone.now(),
            **self.read_body(shapes.VoidWrite),
        )
        return Response(
            {"idempotency_key": key, "reason": void.reason, "actor": void.actor, "voided_at": void.voided_at}
        )


class EventReplaceView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}

    @extend_schema(operation_id="replace_event", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, key: str) -> Response:
        """Void an event and store another: the new event's fields and a `reason` in one object."""
        if not isinstance(request.data, dict):
            raise InvalidInput.of("body", "Send the new event with a `reason`.")
        fields = dict(request.data)
        reason = fields.pop("reason", "")
        if not isinstance(reason, str):
            raise InvalidInput.of("reason", "Say why, as text.", "reason_required")
        check_reason(reason)
        replacement = replace_event(
            organization=self.caller.organization,
            idempotency_key=key,
            event=_to_event(fields),
            reason=reason,
            actor=self.caller.actor,
            now=timezone.now(),
            limits=limits_of(self.caller),
        )
        return Response(
            {"voided": key, "idempotency_key": replacement.void.replacement_key, "reason": reason},
            status=HTTP_201_CREATED,
        )


def _to_event(fields: dict[str, Any]) -> IncomingEvent:
    try:
        return msgspec.convert(fields, IncomingEvent)
    except msgspec.ValidationError as error:
        raise invalid_input({"event": [str(error)]}) from None


# --- the inbox ------------------------------------------------------------------------------------------------


class InboxView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": shapes.InboxListQuery}

    @extend_schema(operation_id="list_inbox", parameters=[shapes.InboxListQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> HttpResponse:
        state = self.query.pop("state")
        rows = InboxEvent.objects.for_organization(self.caller.organization).filter(state=state)
        page = take_page(rows, is_newest_first=True, **self.query)
        return _exact_response({"data": [_inbox_json(row) for row in page.rows], "next_cursor": page.next_cursor})


def _inbox_json(row: InboxEvent) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "idempotency_key": row.idempotency_key,
        "type": row.event_type,
        "code": row.code,
        "message": row.message,
        "state": row.state,
        "received_at": rfc3339(row.received_at),
        "event": msgspec.Raw(row.payload.encode()),
    }


class InboxReplayView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}

    @extend_schema(operation_id="replay_inbox", request=shapes.InboxIds, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request) -> Response:
        result = replay_inbox(
            organization=self.caller.organization,
            ids=self.read_body(shapes.InboxIds).get("ids"),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response({"counted": result.counted, "still_waiting": result.still_waiting})


class InboxDiscardView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}

    @extend_schema(operation_id="discard_inbox", request=shapes.InboxIds, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request) -> Response:
        discarded = discard_inbox(
            organization=self.caller.organization,
            ids=self.read_body(shapes.InboxIds).get("ids", []),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response({"discarded": discarded})
