"""The API of invoices: what there are, and what each says as JSON, PDF and CSV."""

from __future__ import annotations

from datetime import datetime
from itertools import chain

from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import invoice_serializers as shapes
from billing.api.subscriptions import refuse_metric_bound
from billing.documents import tables
from billing.documents.files import PDF, answer_csv, answer_pdf
from billing.models import Invoice
from billing.queries.invoices import (
    Standing,
    get_content,
    get_invoice,
    iterate_issued_lines,
    list_credit_notes,
    list_invoices,
    with_standing,
)
from common.api import take_page
from common.errors import InvalidInput
from metering.api.base import get_visible_customer


class InvoiceListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": shapes.InvoiceListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="list_invoices",
        description="The newest first. A draft's amounts are those of its `known_at`; the invoice itself has them now.",
        parameters=[shapes.InvoiceListQuery],
        responses=page_of(shapes.InvoiceRead),
    )
    def get(self, request: Request) -> Response:
        refuse_metric_bound(self.caller)
        now, query = timezone.now(), self.query
        customer = get_visible_customer(self.caller, query.pop("customer", None))
        standing = query.pop("status", None)
        rows = list_invoices(
            organization=self.caller.organization,
            customer_id=customer.pk if customer else None,
            subscription_id=query.pop("subscription", None),
            **{name: query.pop(name, None) for name in ("state", "kind", "number")},
        )
        if standing is not None:
            rows = with_standing(rows, Standing(standing), now)
        page = take_page(rows, is_newest_first=True, **query)
        data = [shapes.invoice_json(invoice, now) for invoice in page.rows]
        return Response({"data": data, "next_cursor": page.next_cursor})


class InvoiceView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="get_invoice",
        description="With its lines and their steps. A draft is computed now.",
        responses=shapes.InvoiceDetailRead,
    )
    def get(self, request: Request, invoice_id: int) -> Response:
        return answer(visible_invoice(self.caller, invoice_id), timezone.now())


class InvoicePdfView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_invoice_pdf", responses={(200, PDF): OpenApiTypes.BINARY})
    def get(self, request: Request, invoice_id: int) -> HttpResponse:
        return answer_pdf(visible_invoice(self.caller, invoice_id), timezone.now())


class InvoiceCsvView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_invoice_csv", responses={(200, tables.CONTENT_TYPE): OpenApiTypes.BINARY})
    def get(self, request: Request, invoice_id: int) -> HttpResponse:
        return answer_csv(visible_invoice(self.caller, invoice_id), timezone.now())


class InvoiceExportView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": shapes.InvoiceExportQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="export_invoices",
        description="The lines of every invoice and credit note issued in `[from, to)`, without void ones.",
        parameters=[shapes.InvoiceExportQuery],
        responses={(200, tables.CONTENT_TYPE): OpenApiTypes.BINARY},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        refuse_metric_bound(self.caller)
        start, end = self.query["from"], self.query["to"]
        if start >= end:
            raise InvalidInput.of("from", "`from` lies before `to`.", "invalid_range")
        customer = get_visible_customer(self.caller, self.query.get("customer"))
        lines = iterate_issued_lines(
            organization=self.caller.organization,
            start=start,
            end=end,
            customer_id=customer.pk if customer else None,
        )
        pieces = tables.lines_csv(lines)
        # What is refused is refused with a status, before the file has begun.
        first = [next(pieces), next(pieces, b"")]
        file = StreamingHttpResponse(chain(first, pieces), content_type=tables.CONTENT_TYPE)
        file["Content-Disposition"] = f'attachment; filename="invoices-{start:%Y-%m-%d}-{end:%Y-%m-%d}.csv"'
        return file


def visible_invoice(caller: Caller, invoice_id: int) -> Invoice:
    refuse_metric_bound(caller)
    return get_invoice(organization=caller.organization, invoice_id=invoice_id, customer_id=caller.customer_id)


def answer(invoice: Invoice, now: datetime, *, status: int = 200) -> Response:
    content = get_content(invoice=invoice, now=now)
    notes = list(list_credit_notes(invoice))
    return Response(shapes.invoice_detail_json(invoice, content, notes, now), status=status)
