"""The API of prepaid credits: grants, and a customer's balances with the ledger behind them."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_200_OK, HTTP_201_CREATED

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import credit_serializers as shapes
from billing.api.idempotency import KEY_PARAMETER, read_idempotency_key
from billing.api.subscriptions import refuse_metric_bound
from billing.models import CreditGrant, GrantKind
from billing.queries.credits import get_grant, list_balances, list_entries, list_grants
from billing.services.credits import grant_credits, void_grant
from common.api import ListQuery, take_page
from metering.api.base import get_named_customer, get_visible_customer


class CreditListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": shapes.CreditListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="list_credits", parameters=[shapes.CreditListQuery], responses=page_of(shapes.CreditRead)
    )
    def get(self, request: Request) -> Response:
        refuse_metric_bound(self.caller)
        rows = list_grants(organization=self.caller.organization)
        customer = get_visible_customer(self.caller, self.query.pop("customer", None))
        if customer is not None:
            rows = rows.filter(customer=customer)
        if "currency" in self.query:
            rows = rows.filter(currency=self.query.pop("currency"))
        page = take_page(rows, **self.query)
        return Response({"data": [shapes.credit_json(row) for row in page.rows], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="grant_credit",
        description="A repeated request with the same idempotency key answers 200 with the same grant.",
        parameters=[KEY_PARAMETER],
        request=shapes.CreditWrite,
        responses={201: shapes.CreditRead, 200: shapes.CreditRead},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.CreditWrite)
        customer = get_named_customer(self.caller, body.pop("customer"))
        body["idempotency_key"] = read_idempotency_key(request, body)
        granted = grant_credits(
            organization=self.caller.organization,
            customer=customer,
            kind=GrantKind(body.pop("kind")),
            actor=self.caller.actor,
            now=timezone.now(),
            **body,
        )
        status = HTTP_201_CREATED if granted.is_new else HTTP_200_OK
        return Response(shapes.credit_json(granted.grant), status=status)


class CreditView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_credit", responses=shapes.CreditRead)
    def get(self, request: Request, credit_id: int) -> Response:
        return Response(shapes.credit_json(_grant(self.caller, credit_id)))


class VoidCreditView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(
        operation_id="void_credit",
        description="Takes back what is left; what the grant has paid stays paid.",
        request=None,
        responses=shapes.CreditRead,
    )
    def post(self, request: Request, credit_id: int) -> Response:
        grant = _grant(self.caller, credit_id)
        voided = void_grant(grant=grant, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.credit_json(voided))


class CustomerCreditsView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    queries = {"GET": ListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_customer_credits", parameters=[ListQuery], responses=shapes.CUSTOMER_CREDITS)
    def get(self, request: Request, external_id: str) -> Response:
        refuse_metric_bound(self.caller)
        customer = get_named_customer(self.caller, external_id)
        page = take_page(list_entries(customer=customer), is_newest_first=True, **self.query)
        return Response(
            {
                "customer": customer.external_id,
                "balances": [
                    shapes.balance_json(balance) for balance in list_balances(customer=customer, now=timezone.now())
                ],
                "data": [shapes.entry_json(entry) for entry in page.rows],
                "next_cursor": page.next_cursor,
            }
        )


def _grant(caller: Caller, grant_id: int) -> CreditGrant:
    refuse_metric_bound(caller)
    grant = get_grant(organization=caller.organization, grant_id=grant_id, customer_id=caller.customer_id)
    grant.organization = caller.organization
    return grant
