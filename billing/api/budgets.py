"""The API of a subscription's budget: set it, remove it, and see how it stands."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.domain import Scope
from billing.api import budget_serializers as shapes
from billing.api.subscriptions import refuse_metric_bound
from billing.models import Budget, Subscription
from billing.queries.budgets import get_budget, get_standing
from billing.queries.spend import get_current_spend
from billing.queries.subscriptions import get_subscription
from billing.services.budgets import remove_budget, set_budget


class SubscriptionBudgetView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PUT": Scope.BILLING_WRITE, "DELETE": Scope.BILLING_WRITE}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_budget", responses=shapes.BudgetRead)
    def get(self, request: Request, subscription_id: int) -> Response:
        subscription = self._subscription(subscription_id)
        return _answer(subscription, get_budget(subscription=subscription))

    @extend_schema(
        operation_id="set_budget",
        description="Another amount is another question: levels of the current period that were told are told again "
        "once they are reached. A budget stops nothing.",
        request=shapes.BudgetWrite,
        responses=shapes.BudgetRead,
    )
    def put(self, request: Request, subscription_id: int) -> Response:
        subscription = self._subscription(subscription_id)
        body = self.read_body(shapes.BudgetWrite)
        budget = set_budget(subscription=subscription, actor=self.caller.actor, now=timezone.now(), **body)
        return _answer(subscription, budget)

    @extend_schema(operation_id="remove_budget", responses={204: None})
    def delete(self, request: Request, subscription_id: int) -> Response:
        remove_budget(subscription=self._subscription(subscription_id), actor=self.caller.actor)
        return Response(status=HTTP_204_NO_CONTENT)

    def _subscription(self, subscription_id: int) -> Subscription:
        refuse_metric_bound(self.caller)
        return get_subscription(
            organization=self.caller.organization, subscription_id=subscription_id, customer_id=self.caller.customer_id
        )


def _answer(subscription: Subscription, budget: Budget) -> Response:
    spend = get_current_spend(subscription=subscription, now=timezone.now()).spend
    standing = get_standing(budget=budget, spend=spend)
    return Response(shapes.budget_json(standing, customer=subscription.customer.external_id))
