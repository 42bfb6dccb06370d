"""The API of what would be: past usage under other prices, and the invoice of a period that goes on."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import simulation_serializers as shapes
from billing.api.plan_serializers import version_definition
from billing.api.subscriptions import refuse_metric_bound
from billing.queries.charges import list_charges
from billing.queries.invoice_preview import get_period_to_preview
from billing.queries.invoicing import preview_period
from billing.queries.plans import find_current_version, get_plan, get_version
from billing.queries.simulation import Draft, SimulatedCustomer, SimulationTotals, iterate_simulation
from billing.queries.subscriptions import get_subscription
from billing.services.plans import resolve_charges
from common.api import decode_cursor, encode_cursor
from common.errors import FieldError, InvalidInput


class SimulationView(CallerView):
    scopes = {"POST": Scope.BILLING_READ}

    @extend_schema(
        operation_id="simulate_plan",
        description="Prices the billing periods that begin in `[from, to)` as they were and under other prices. "
        "Nothing is stored. Every page computes all of it.",
        request=shapes.SimulationWrite,
        responses=shapes.SimulationRead,
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.SimulationWrite)
        after = _read_cursor(body.get("cursor"))
        draft = _draft(self.caller, body["plan"])
        rows = iterate_simulation(
            organization=self.caller.organization,
            draft=draft,
            start=body["from"],
            end=body["to"],
            now=timezone.now(),
            customers=body.get("customers"),
        )
        limit = body["limit"]
        totals, shown = SimulationTotals(), list[SimulatedCustomer]()
        for row in rows:
            totals.add(row)
            if row.customer.pk > after and len(shown) <= limit:
                shown.append(row)
        page, is_last = shown[:limit], len(shown) <= limit
        next_cursor = None if is_last else encode_cursor(page[-1].customer.pk)
        return Response(shapes.simulation_json(draft.currency, totals, page, next_cursor))


class InvoicePreviewView(CallerView):
    scopes = {"POST": Scope.BILLING_READ}
    # It only reads.
    methods_for_bound_keys = frozenset({"POST"})

    @extend_schema(
        operation_id="preview_invoice",
        description="What the invoice of the subscription's current period would say now: its lines, adjustments of "
        "earlier periods, taxes and credits. Nothing is stored.",
        request=shapes.InvoicePreviewWrite,
        responses=shapes.InvoicePreviewRead,
    )
    def post(self, request: Request) -> Response:
        refuse_metric_bound(self.caller)
        body = self.read_body(shapes.InvoicePreviewWrite)
        subscription = get_subscription(
            organization=self.caller.organization,
            subscription_id=body["subscription"],
            customer_id=self.caller.customer_id,
        )
        now = timezone.now()
        period = get_period_to_preview(subscription=subscription, now=now)
        return Response(shapes.invoice_preview_json(period, preview_period(period=period, now=now)))


def _draft(caller: Caller, plan: dict[str, Any]) -> Draft:
    """Return the prices to try. Raises `NotFound` for a plan or version that is not there, and `InvalidInput`."""
    if "code" not in plan:
        currency = plan["currency"]
        try:
            definition = version_definition(plan)
            return Draft(resolve_charges(organization=caller.organization, definition=definition), currency)
        except InvalidInput as error:
            problems = [FieldError(f"plan.{each.field}", each.code, each.message) for each in error.errors]
            raise InvalidInput(f"plan.{error.message}", errors=problems) from None
    named = get_plan(organization=caller.organization, code=plan["code"])
    if "version" in plan:
        version = get_version(plan=named, number=plan["version"])
    elif (found := find_current_version(plan=named)) is not None:
        version = found
    else:
        raise InvalidInput.of("plan.version", "The plan has no active version: name one.", "required")
    return Draft(list_charges(version), version.currency)


def _read_cursor(cursor: str | None) -> int:
    """Return the id of the last customer of the page before; 0 without one."""
    if not cursor:
        return 0
    [after] = decode_cursor(cursor, length=1)
    if not isinstance(after, int):
        raise InvalidInput.of("cursor", "Use the `next_cursor` of the page before, unchanged.", "invalid_cursor")
    return after
