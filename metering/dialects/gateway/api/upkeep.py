"""The API of what an organization keeps: settings, cleanup, a user's data out and away, and the log of all that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_200_OK, HTTP_202_ACCEPTED

from accounts.api.base import CallerView
from accounts.domain import Scope
from accounts.models import Customer, Organization
from common.api import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Flag, StrictSerializer, Text, WholeNumber
from common.errors import InvalidInput, NotFound, Unavailable
from metering.api.base import get_named_customer
from metering.api.events import event_json
from metering.dialects.gateway.queries.logs import LogEntry, list_usage_log
from metering.dialects.gateway.services.cleanup import Cleanup, clean_up_by_hand, parse_age
from metering.dialects.gateway.services.settings import (
    change_settings,
    get_setting,
    get_settings,
    list_values,
    require_setting,
)
from metering.queries.personal import iterate_events, iterate_month_totals, iterate_rows
from metering.services.erasure import erase_customer
from metering.services.queue import list_waiting
from metering.services.rollup import RollupBusy

# What one request does of a long work; the worker does the rest.
BUDGET = timedelta(seconds=20)
LOGS = ("usage",)

_encoder = msgspec.json.Encoder(decimal_format="number")
_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


# --- settings -------------------------------------------------------------------------------------------------


class SettingsView(CallerView):
    scopes = {"GET": None, "PUT": Scope.ADMIN, "PATCH": Scope.ADMIN}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_gateway_settings", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        return Response(list_values(get_settings(self.caller.organization)))

    @extend_schema(operation_id="change_gateway_settings", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def patch(self, request: Request) -> Response:
        """Change the named settings; the others stay."""
        if not isinstance(request.data, dict):
            raise InvalidInput.of("body", "Send an object of settings.")
        changed = change_settings(
            organization=self.caller.organization,
            actor=self.caller.actor,
            changes=request.data,
            now=timezone.now(),
        )
        return Response(list_values(changed))

    @extend_schema(operation_id="put_gateway_settings", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def put(self, request: Request) -> Response:
        """As PATCH: what is not named stays."""
        return self.patch(request)


class SettingView(CallerView):
    scopes = {"GET": None, "PUT": Scope.ADMIN, "PATCH": Scope.ADMIN}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_gateway_setting", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, name: str) -> Response:
        return Response({"name": name, "value": get_setting(self.caller.organization, name)})

    @extend_schema(operation_id="change_gateway_setting", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def patch(self, request: Request, name: str) -> Response:
        """Change one setting: `{"value": …}`."""
        require_setting(name)
        if not isinstance(request.data, dict) or request.data.keys() != {"value"}:
            raise InvalidInput.of("value", 'Send {"value": …}.', "required")
        changed = change_settings(
            organization=self.caller.organization,
            actor=self.caller.actor,
            changes={name: request.data["value"]},
            now=timezone.now(),
        )
        return Response({"name": name, "value": getattr(changed, name)})

    @extend_schema(operation_id="put_gateway_setting", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def put(self, request: Request, name: str) -> Response:
        """As PATCH."""
        return self.patch(request, name)


# --- cleanup --------------------------------------------------------------------------------------------------


class CleanupWrite(StrictSerializer):
    older_than = Text(required=False, max_length=20, help_text="30d; by default what `usage_retention_days` says.")
    dry_run = Flag(default=False, help_text="Only tell what would be deleted.")


class CleanupView(CallerView):
    scopes = {"POST": Scope.ADMIN}

    @extend_schema(
        operation_id="clean_up_usage",
        request=CleanupWrite,
        responses={200: OpenApiTypes.OBJECT, 202: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request) -> Response:
        """Delete old requests, and totals that are due. 202: it takes longer, and goes on by itself."""
        body = self.read_body(CleanupWrite)
        try:
            cleanup = clean_up_by_hand(
                organization=self.caller.organization,
                actor=self.caller.actor,
                now=timezone.now(),
                older_than=parse_age(body["older_than"]) if "older_than" in body else None,
                is_dry_run=body["dry_run"],
                budget=BUDGET,
            )
        except RollupBusy:
            raise _busy() from None
        status = HTTP_200_OK if cleanup.is_finished else HTTP_202_ACCEPTED
        return Response(_cleanup_json(cleanup), status=status)


def _cleanup_json(cleanup: Cleanup) -> dict[str, Any]:
    return {
        "data": {
            "type": "usage_cleanup",
            "attributes": {
                "dry_run": cleanup.is_dry_run,
                "finished": cleanup.is_finished,
                "requests_before": cleanup.requests_before,
                "totals_before": cleanup.totals_before,
                "rows": {kind: cleanup.deleted.rows.get(kind, 0) for kind in KINDS},
                # The first and the last of the single requests.
                "from": cleanup.deleted.earliest,
                "to": cleanup.deleted.latest,
            },
        }
    }


KINDS = ("events", "voids", "batches", "minutes", "hours", "days", "member_sets", "series")


def _busy() -> Unavailable:
    return Unavailable("The worker is at this organization's rollups. Try again.", headers={"Retry-After": "5"})


# --- a user's data --------------------------------------------------------------------------------------------


class ExportDataView(CallerView):
    scopes = {"GET": Scope.ADMIN}

    @extend_schema(operation_id="export_user_data", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, user_id: str) -> StreamingHttpResponse:
        """Everything that is held on the user, as one JSON document."""
        customer = get_named_customer(self.caller, user_id)
        # Before the first byte: Redis may be away.
        queued = list_waiting(organization=self.caller.organization, customer=customer.external_id)
        response = StreamingHttpResponse(
            _write_document(self.caller.organization, customer, queued, timezone.now()),
            content_type="application/json",
        )
        name = _FILE_NAME.sub("-", customer.external_id)[:80]
        response["Content-Disposition"] = f'attachment; filename="{name}.json"'
        response["Cache-Control"] = "no-store"
        return response


class DeleteUsageView(CallerView):
    scopes = {"POST": Scope.ADMIN, "DELETE": Scope.ADMIN}
    methods_without_body = frozenset({"POST", "DELETE"})

    @extend_schema(
        operation_id="delete_user_usage",
        request=None,
        responses={200: OpenApiTypes.OBJECT, 202: OpenApiTypes.OBJECT},
    )
    def delete(self, request: Request, user_id: str) -> HttpResponse:
        """Erase the user: requests and name go, totals stay without them. 202: it goes on by itself."""
        _refuse_nul(user_id)
        try:
            erased = erase_customer(
                organization=self.caller.organization,
                external_id=user_id,
                actor=self.caller.actor,
                now=timezone.now(),
                budget=BUDGET,
            )
        except RollupBusy:
            raise _busy() from None
        body = {
            "data": {
                "type": "usage_deletion",
                "id": erased.customer,
                "attributes": {
                    "finished": erased.is_finished,
                    "deleted_events": erased.event_count,
                    "remaining_customer": erased.customer,
                },
            }
        }
        return Response(body, status=HTTP_200_OK if erased.is_finished else HTTP_202_ACCEPTED)

    @extend_schema(
        operation_id="post_delete_user_usage",
        request=None,
        responses={200: OpenApiTypes.OBJECT, 202: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request, user_id: str) -> HttpResponse:
        """As DELETE."""
        return self.delete(request, user_id)


def _refuse_nul(user_id: str) -> None:
    if "\x00" in user_id:
        raise NotFound("There is no such customer.")


def _write_document(
    organization: Organization, customer: Customer, queued: list[Any], now: datetime
) -> Iterator[bytes]:
    """Yield the document in pieces, so that its size does not matter."""
    head = {
        "user_id": customer.external_id,
        "exported_at": now,
        "customer": {
            "external_id": customer.external_id,
            "name": customer.name,
            "zone": customer.zone,
            "billing_cycle_day": customer.billing_cycle_day,
            "created_at": customer.created_at,
        },
    }
    yield _encoder.encode(head)[:-1]
    totals = iterate_month_totals(organization=organization, customer=customer, now=now)
    yield from _write_list("usage", totals)
    events = (event_json(row) for row in iterate_events(organization=organization, customer=customer))
    yield from _write_list("events", events)
    yield from _write_list("queued_events", (msgspec.to_builtins(event) for event in queued))
    rows = iterate_rows(organization=organization, customer=customer)
    yield from _write_list("records", ({"table": table, **columns} for table, columns in rows))
    yield b"}\n"


def _write_list(name: str, rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    yield b",\n" + _encoder.encode(name) + b":["
    separator = b"\n"
    for row in rows:
        yield separator + _encoder.encode(row)
        separator = b",\n"
    yield b"]"


# --- log ------------------------------------------------------------------------------------------------------


class LogQuery(StrictSerializer):
    filter = Text(default="usage", max_length=20, help_text="usage: what became of the recording of requests.")
    limit = WholeNumber(min_value=1, max_value=MAX_PAGE_SIZE, default=DEFAULT_PAGE_SIZE)


class LogView(CallerView):
    scopes = {"GET": Scope.ADMIN}
    queries = {"GET": LogQuery}

    @extend_schema(operation_id="list_logs", parameters=[LogQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """What is worth knowing lately, the newest first."""
        if self.query["filter"] not in LOGS:
            raise InvalidInput.of("filter", f"There is a log of {', '.join(LOGS)}.", "unknown_filter")
        entries = list_usage_log(organization=self.caller.organization, now=timezone.now(), limit=self.query["limit"])
        return Response({"data": [_entry_json(entry) for entry in entries]})


def _entry_json(entry: LogEntry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "level": entry.level,
        "code": entry.code,
        "message": entry.message,
        "details": entry.details,
    }
