"""The API of billing profiles: who pays a customer's invoices, and what decides their taxes."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.domain import Scope
from accounts.models import Customer
from billing.api import profile_serializers as shapes
from billing.api.subscriptions import refuse_metric_bound
from billing.queries.profiles import get_profile
from billing.services.profiles import ProfileDefinition, replace_profile
from metering.api.base import get_named_customer


class ProfileView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PUT": Scope.BILLING_WRITE}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="get_billing_profile",
        description="A customer without one answers with empty fields.",
        responses=shapes.ProfileRead,
    )
    def get(self, request: Request, external_id: str) -> Response:
        return Response(shapes.profile_json(get_profile(customer=self._customer(external_id))))

    @extend_schema(operation_id="replace_billing_profile", request=shapes.ProfileWrite, responses=shapes.ProfileRead)
    def put(self, request: Request, external_id: str) -> Response:
        customer = self._customer(external_id)
        definition = ProfileDefinition(**self.read_body(shapes.ProfileWrite))
        profile = replace_profile(customer=customer, definition=definition, actor=self.caller.actor)
        return Response(shapes.profile_json(profile))

    def _customer(self, external_id: str) -> Customer:
        refuse_metric_bound(self.caller)
        customer = get_named_customer(self.caller, external_id)
        customer.organization = self.caller.organization
        return customer
