"""The API of how an organization invoices."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import billing_settings_serializers as shapes
from billing.queries.settings import get_settings
from billing.services.settings import update_settings


class BillingSettingsView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PATCH": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_billing_settings", responses=shapes.BillingSettingsRead)
    def get(self, request: Request) -> Response:
        return Response(shapes.billing_settings_json(get_settings(self.caller.organization)))

    @extend_schema(
        operation_id="update_billing_settings",
        request=shapes.BillingSettingsChange,
        responses=shapes.BillingSettingsRead,
    )
    def patch(self, request: Request) -> Response:
        changes = self.read_body(shapes.BillingSettingsChange, is_partial=True)
        settings = update_settings(organization=self.caller.organization, changes=changes, actor=self.caller.actor)
        return Response(shapes.billing_settings_json(settings))
