"""The API of the rate table."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import tax_rate_serializers as shapes
from billing.queries.tax_rates import get_tax_rate, list_tax_rates
from billing.services.tax_rates import TaxRateDefinition, archive_tax_rate, create_tax_rate
from common.api import take_page


class TaxRateListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": shapes.TaxRateListQuery}

    @extend_schema(
        operation_id="list_tax_rates", parameters=[shapes.TaxRateListQuery], responses=page_of(shapes.TaxRateRead)
    )
    def get(self, request: Request) -> Response:
        rows = list_tax_rates(organization=self.caller.organization)
        if "country" in self.query:
            rows = rows.filter(country=self.query.pop("country"))
        page = take_page(rows, field="code", **self.query)
        return Response({"data": [shapes.tax_rate_json(row) for row in page.rows], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="create_tax_rate",
        description="A rate never changes. Another one takes its place from a day on: name the code it `replaces`.",
        request=shapes.TaxRateWrite,
        responses={201: shapes.TaxRateRead},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.TaxRateWrite)
        replaced = body.pop("replaces", None)
        rate = create_tax_rate(
            organization=self.caller.organization,
            definition=TaxRateDefinition(**body),
            replaces=None if replaced is None else get_tax_rate(organization=self.caller.organization, code=replaced),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.tax_rate_json(rate), status=HTTP_201_CREATED)


class TaxRateView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "DELETE": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_tax_rate", responses=shapes.TaxRateRead)
    def get(self, request: Request, code: str) -> Response:
        return Response(shapes.tax_rate_json(get_tax_rate(organization=self.caller.organization, code=code)))

    @extend_schema(
        operation_id="archive_tax_rate",
        description="Archives it: no invoice that is finalised from now on has it, drafts neither.",
        responses=shapes.TaxRateRead,
    )
    def delete(self, request: Request, code: str) -> Response:
        rate = get_tax_rate(organization=self.caller.organization, code=code)
        archived = archive_tax_rate(tax_rate=rate, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.tax_rate_json(archived))
