"""The API of links to the customer portal. The portal itself is pages (`billing.views.portal`)."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import portal_serializers as shapes
from billing.services.portal_links import create_portal_link
from metering.api.base import get_named_customer


class PortalLinkView(CallerView):
    # Not for bound keys: a link shows more than usage, and may outlive the key.
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="create_portal_link",
        description="Makes a short-lived link by which the customer sees its own spend, usage, invoices and budget.",
        request=shapes.PortalLinkWrite,
        responses={201: shapes.PortalLinkRead},
    )
    def post(self, request: Request, external_id: str) -> Response:
        customer = get_named_customer(self.caller, external_id)
        customer.organization = self.caller.organization
        body = self.read_body(shapes.PortalLinkWrite) if request.data else {}
        link = create_portal_link(customer=customer, actor=self.caller.actor, now=timezone.now(), **body)
        answer = Response(shapes.portal_link_json(link), status=HTTP_201_CREATED)
        answer["Cache-Control"] = "no-store"
        return answer
