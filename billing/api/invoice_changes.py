"""The API of what may become of an invoice: it is finalised, voided, credited, paid."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import invoice_serializers as shapes
from billing.api.invoices import answer, visible_invoice
from billing.services.corrections import issue_credit_note, mark_paid, void_invoice
from billing.services.invoicing import finalise_invoice
from common.api import StrictSerializer


class FinaliseInvoiceView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="finalize_invoice",
        description="Ends the grace of a draft now: it gets its number and never changes from then on.",
        request=None,
        responses=shapes.InvoiceDetailRead,
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
        if request.data:
            self.read_body(StrictSerializer)
        finalise_invoice(invoice=invoice, actor=self.caller.actor, now=now)
        return answer(visible_invoice(self.caller, invoice_id), now)


class VoidInvoiceView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(operation_id="void_invoice", request=shapes.InvoiceVoidWrite, responses=shapes.InvoiceDetailRead)
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
        body = self.read_body(shapes.InvoiceVoidWrite)
        void_invoice(
            invoice=invoice, reason=body["reason"], is_reissued=body["reissue"], actor=self.caller.actor, now=now
        )
        return answer(visible_invoice(self.caller, invoice_id), now)


class CreditInvoiceView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="credit_invoice",
        description="Issues a credit note, which is an invoice of its own with negative lines.",
        request=shapes.InvoiceCreditWrite,
        responses={201: shapes.InvoiceDetailRead},
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
        body = self.read_body(shapes.InvoiceCreditWrite)
        note = issue_credit_note(
            invoice=invoice,
            amounts=shapes.credited_amounts(body.get("lines")),
            reason=body["reason"],
            actor=self.caller.actor,
            now=now,
        )
        return answer(visible_invoice(self.caller, note.pk), now, status=HTTP_201_CREATED)


class InvoicePaidView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="mark_invoice_paid", request=shapes.InvoicePaidWrite, responses=shapes.InvoiceDetailRead
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
        body = self.read_body(shapes.InvoicePaidWrite)
        mark_paid(invoice=invoice, reference=body["reference"], actor=self.caller.actor, now=now)
        return answer(visible_invoice(self.caller, invoice_id), now)
