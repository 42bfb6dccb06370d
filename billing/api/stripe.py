"""The API of what Stripe is given besides usage: meters that are made there, and invoices that are pushed."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api.reporting import agreeing
from billing.api.reporting_serializers import QueryFlag
from billing.domain.reporting import ReportState
from billing.models import StripeInvoice
from billing.queries.stripe_invoices import get_push, list_pushes
from billing.services.stripe_account import open_sink
from billing.services.stripe_invoices import retry_push
from billing.services.stripe_meters import MeterOutcome, sync_meters
from common.api import Flag, ListQuery, StrictSerializer, take_page


class SyncQuery(StrictSerializer):
    dry_run = QueryFlag(required=False, help_text="true: say what would be made, and make nothing.")


class SyncWrite(StrictSerializer):
    """The same as the query; one of them says it."""

    dry_run = Flag(required=False, help_text="true: say what would be made, and make nothing.")


class SyncedMeterRead(serializers.Serializer[Any]):
    metric = serializers.CharField()
    event_name = serializers.CharField()
    outcome = serializers.ChoiceField(choices=[outcome.value for outcome in MeterOutcome])
    problems = serializers.ListField(child=serializers.CharField())


class SyncRead(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField()
    meters = SyncedMeterRead(many=True)


class SyncStripeMetersView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    queries = {"POST": SyncQuery}

    @extend_schema(
        operation_id="sync_stripe_meters",
        parameters=[SyncQuery],
        request=SyncWrite,
        responses=SyncRead,
        description="Makes at Stripe the meters that are named here and lacking there. Deletes and changes none.",
    )
    def post(self, request: Request) -> Response:
        organization = self.caller.organization
        asked = self.query | agreeing(self.query, self.read_body(SyncWrite))
        is_dry_run = bool(asked.get("dry_run"))
        synced = sync_meters(
            organization=organization,
            account=open_sink(organization=organization),
            actor=self.caller.actor,
            now=timezone.now(),
            is_dry_run=is_dry_run,
        )
        return Response(SyncRead({"dry_run": is_dry_run, "meters": synced}).data)


class StripeInvoiceListQuery(ListQuery):
    state = serializers.ChoiceField(choices=[state.value for state in ReportState], required=False)


class StripeInvoiceRead(serializers.Serializer[Any]):
    id = serializers.CharField()
    invoice = serializers.CharField(source="invoice_id")
    number = serializers.CharField(source="invoice.number")
    customer = serializers.CharField(source="invoice.customer.external_id")
    stripe_customer_id = serializers.CharField()
    stripe_invoice_id = serializers.CharField(help_text="Empty until Stripe has answered.")
    stripe_status = serializers.CharField(help_text="draft, open, paid, uncollectible, void, or deleted.")
    hosted_url = serializers.CharField()
    state = serializers.ChoiceField(choices=[state.value for state in ReportState])
    attempts = serializers.IntegerField()
    last_error = serializers.CharField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    delivered_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class StripeInvoiceListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": StripeInvoiceListQuery}

    @extend_schema(
        operation_id="list_stripe_invoices",
        parameters=[StripeInvoiceListQuery],
        responses=page_of(StripeInvoiceRead),
        description="The invoices that are pushed to Stripe, and how far each has come.",
    )
    def get(self, request: Request) -> Response:
        rows = list_pushes(organization=self.caller.organization)
        if state := self.query.pop("state", None):
            rows = rows.filter(state=state)
        return take_page(rows, **self.query).response(StripeInvoiceRead)


class RetryStripeInvoiceView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="retry_stripe_invoice",
        request=None,
        responses=StripeInvoiceRead,
        description="Has a rejected push tried again, from where it stands.",
    )
    def post(self, request: Request, push_id: int) -> Response:
        push: StripeInvoice = get_push(organization=self.caller.organization, push_id=push_id)
        return Response(StripeInvoiceRead(retry_push(push=push, actor=self.caller.actor, now=timezone.now())).data)
