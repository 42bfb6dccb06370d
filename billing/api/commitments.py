"""The API of commitments, below the subscription that they are made on."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import commitment_serializers as shapes
from billing.api.subscriptions import refuse_metric_bound
from billing.models import Subscription
from billing.queries.commitments import get_commitment, list_commitments
from billing.queries.subscriptions import get_subscription
from billing.services.commitments import create_commitment, end_commitment
from common.api import ListQuery, take_page


class CommitmentListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": ListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="list_commitments", parameters=[ListQuery], responses=page_of(shapes.CommitmentRead))
    def get(self, request: Request, subscription_id: int) -> Response:
        page = take_page(list_commitments(subscription=_subscription(self.caller, subscription_id)), **self.query)
        return Response({"data": [shapes.commitment_json(row) for row in page.rows], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="create_commitment",
        description="The invoice of a term's last period charges what is lacking to the amount.",
        request=shapes.CommitmentWrite,
        responses={201: shapes.CommitmentRead},
    )
    def post(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        commitment = create_commitment(
            subscription=subscription,
            actor=self.caller.actor,
            now=timezone.now(),
            **self.read_body(shapes.CommitmentWrite),
        )
        return Response(shapes.commitment_json(commitment), status=HTTP_201_CREATED)


class CommitmentView(CallerView):
    scopes = {"DELETE": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="end_commitment",
        description="Ends it now: terms that are over are still charged, the one that goes on is not. Where no term "
        "was over it is deleted, and the answer is empty.",
        responses={200: shapes.CommitmentRead, 204: None},
    )
    def delete(self, request: Request, subscription_id: int, commitment_id: int) -> Response:
        commitment = get_commitment(
            subscription=_subscription(self.caller, subscription_id), commitment_id=commitment_id
        )
        ended = end_commitment(commitment=commitment, actor=self.caller.actor, now=timezone.now())
        if ended is None:
            return Response(status=HTTP_204_NO_CONTENT)
        return Response(shapes.commitment_json(ended))


def _subscription(caller: Caller, subscription_id: int) -> Subscription:
    refuse_metric_bound(caller)
    return get_subscription(
        organization=caller.organization, subscription_id=subscription_id, customer_id=caller.customer_id
    )
