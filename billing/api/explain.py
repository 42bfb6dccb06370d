"""The API of trust: why a line is what it is, an invoice derived again, and what the daily check found."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import explain_serializers as shapes
from billing.api.invoices import visible_invoice
from billing.queries.explain import explain_line
from billing.queries.rederivation import rederive_invoice
from billing.queries.usage_checks import adjusted_from, list_checks
from common.api import decode_cursor, take_page
from common.errors import InvalidInput


class ExplainLineView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": shapes.ExplainQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="explain_invoice_line",
        description="From the events known at the invoice's cut-off, over quantity and steps, to the amount. Events "
        "come in pages; `agrees` is about all of them. Up to 100,000 events of a metric are folded one by one. "
        "409 `not_finalised` for a draft.",
        parameters=[shapes.ExplainQuery],
        responses=shapes.LineExplanationRead,
    )
    def get(self, request: Request, invoice_id: int, position: int) -> Response:
        invoice = visible_invoice(self.caller, invoice_id)
        after = _read_offset(self.query.get("cursor"))
        found = explain_line(invoice=invoice, position=position, after=after, limit=self.query["limit"])
        return Response(shapes.explanation_json(found))


class VerifyInvoiceView(CallerView):
    """Reads alone, so whoever may read may ask; POST, because it takes its time and is never cached."""

    scopes = {"POST": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"POST"})
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="verify_invoice",
        description="Derives the invoice again from the raw events that its cut-off knows. Changes nothing.",
        request=None,
        responses=shapes.RederivationRead,
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        found = rederive_invoice(invoice=visible_invoice(self.caller, invoice_id))
        return Response(shapes.rederivation_json(found))


class UsageCheckListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": shapes.CheckListQuery}

    @extend_schema(
        operation_id="list_usage_checks",
        description="Each billed period and metric as the daily check found it: events, rollups, invoiced, reported.",
        parameters=[shapes.CheckListQuery],
        responses=page_of(shapes.UsageCheckRead),
    )
    def get(self, request: Request) -> Response:
        query = self.query
        rows = list_checks(organization=self.caller.organization, agrees=query.pop("agrees", None))
        page = take_page(rows, **query)
        since = adjusted_from(organization=self.caller.organization, now=timezone.now())
        return Response({"data": [shapes.check_json(row, since) for row in page.rows], "next_cursor": page.next_cursor})


def _read_offset(cursor: str | None) -> int | None:
    if not cursor:
        return None
    [offset] = decode_cursor(cursor, length=1)
    if not isinstance(offset, int):
        raise InvalidInput.of("cursor", "Use the `next_cursor` of the page before, unchanged.", "invalid_cursor")
    return offset
