"""The API of what may become of an invoice: it is finalised, voided, credited, paid."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_200_OK, HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import invoice_serializers as shapes
from billing.api.idempotency import KEY_PARAMETER, read_idempotency_key
from billing.api.invoices import answer, visible_invoice
from billing.services.corrections import issue_credit_note, mark_paid, void_invoice
from billing.services.invoicing import finalise_invoice


class FinaliseInvoiceView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="finalize_invoice",
        description="Ends the grace of a draft now: it gets its number and never changes from then on.",
        request=None,
        responses=shapes.InvoiceDetailRead,
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
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
        description="Issues a credit note, which is an invoice of its own with negative lines. A repeated request with "
        "the same idempotency key answers 200 with the same note.",
        parameters=[KEY_PARAMETER],
        request=shapes.InvoiceCreditWrite,
        responses={201: shapes.InvoiceDetailRead, 200: shapes.InvoiceDetailRead},
    )
    def post(self, request: Request, invoice_id: int) -> Response:
        invoice, now = visible_invoice(self.caller, invoice_id), timezone.now()
        body = self.read_body(shapes.InvoiceCreditWrite)
        credited = issue_credit_note(
            invoice=invoice,
            amounts=shapes.credited_amounts(body.get("lines")),
            reason=body["reason"],
            idempotency_key=read_idempotency_key(request, body),
            actor=self.caller.actor,
            now=now,
        )
        status = HTTP_201_CREATED if credited.is_new else HTTP_200_OK
        return answer(visible_invoice(self.caller, credited.note.pk), now, status=status)


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
