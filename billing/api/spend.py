"""The API of prices at work: previews of a draft plan, and the billing usage of a gateway's customer."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import billing_usage_serializers as usage_shapes
from billing.api import spend_serializers as shapes
from billing.api.plan_serializers import version_definition
from billing.queries.billing_usage import UNITS_METRIC, find_month, get_billing_usage
from billing.queries.charges import Charge
from billing.queries.preview import GivenUsage, preview_given, preview_month
from billing.services.plans import resolve_charges
from common.errors import FieldError, InvalidInput
from metering.api.base import get_named_customer, get_visible_customer, get_visible_metric

_encoder = msgspec.json.Encoder(decimal_format="number")


class PreviewView(CallerView):
    scopes = {"POST": Scope.BILLING_READ}

    @extend_schema(operation_id="preview_plan", request=shapes.PreviewWrite, responses=shapes.PreviewRead)
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.PreviewWrite)
        currency = body["plan"]["currency"]
        charges = self._resolve(body["plan"])
        if "usage" in body:
            usage = [GivenUsage(**given) for given in body["usage"]]
            return Response(shapes.given_json(preview_given(charges, usage, currency=currency)))
        customer = get_named_customer(self.caller, body["customer"])
        spend = preview_month(
            organization=self.caller.organization,
            customer=customer,
            charges=charges,
            currency=currency,
            month=body.get("period"),
            now=timezone.now(),
        )
        return Response(shapes.spend_json(spend))

    def _resolve(self, plan: dict[str, Any]) -> list[Charge]:
        try:
            return resolve_charges(organization=self.caller.organization, definition=version_definition(plan))
        except InvalidInput as error:
            problems = [FieldError(f"plan.{each.field}", each.code, each.message) for each in error.errors]
            raise InvalidInput(f"plan.{error.message}", errors=problems) from None


class BillingUsageView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": usage_shapes.BillingUsageQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="get_billing_usage",
        parameters=[usage_shapes.BillingUsageQuery],
        responses=usage_shapes.BillingUsageRead,
        description="Units included, used and beyond in the billing periods that begin in a month, and their cost.",
    )
    def get(self, request: Request) -> HttpResponse:
        customer = get_visible_customer(self.caller, self.query.get("user"))
        if customer is None:
            raise InvalidInput.of("user", "Say whose usage.", "required")
        metric, now = get_visible_metric(self.caller, self.query.get("metric", UNITS_METRIC)), timezone.now()
        year, month = find_month(self.query["period"], customer=customer, metric=metric, now=now)
        usage = get_billing_usage(
            organization=self.caller.organization, customer=customer, metric=metric, year=year, month=month, now=now
        )
        answer = usage_shapes.billing_usage_json(usage, period=f"{year:04}-{month:02}")
        # Numbers, as the page has them, and exact ones, which DRF's own encoder does not write.
        return HttpResponse(_encoder.encode(answer), content_type="application/json")
