"""`/v1/invoice-runs`: having everything invoiced that is due, and how far that is."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_202_ACCEPTED

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.models import InvoiceRun
from billing.queries.invoice_runs import get_run, list_runs
from billing.services.invoice_runs import request_run
from common.api import ListQuery, take_page


class InvoiceRunRead(serializers.Serializer):
    id = serializers.CharField()
    total = serializers.IntegerField(help_text="Billing periods that were due when it began.")
    drafted = serializers.IntegerField()
    finalised = serializers.IntegerField()
    failed = serializers.IntegerField(help_text="Periods that could not be invoiced; tried again by the next run.")
    started_by = serializers.CharField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class InvoiceRunListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": ListQuery}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="list_invoice_runs", parameters=[ListQuery], responses=page_of(InvoiceRunRead))
    def get(self, request: Request) -> Response:
        page = take_page(list_runs(organization=self.caller.organization), **self.query)
        return Response({"data": [_json(run) for run in page.rows], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="start_invoice_run",
        description="Drafts of periods that have ended, and final invoices of those whose grace is over. A run that is "
        "under way is joined. Workers do it; ask for the run to see how far it is.",
        request=None,
        responses={202: InvoiceRunRead},
    )
    def post(self, request: Request) -> Response:
        run = request_run(organization=self.caller.organization, actor=self.caller.actor, now=timezone.now())
        return Response(_json(run), status=HTTP_202_ACCEPTED)


class InvoiceRunView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}

    @extend_schema(operation_id="get_invoice_run", responses=InvoiceRunRead)
    def get(self, request: Request, run_id: int) -> Response:
        return Response(_json(get_run(organization=self.caller.organization, run_id=run_id)))


def _json(run: InvoiceRun) -> dict[str, Any]:
    return {
        "id": str(run.pk),
        "total": run.total,
        "drafted": run.drafted,
        "finalised": run.finalised,
        "failed": run.failed,
        "started_by": run.started_by,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }
