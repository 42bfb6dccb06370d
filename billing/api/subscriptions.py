"""The API of subscriptions and what they cost so far."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_200_OK, HTTP_201_CREATED

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import serializers as shapes
from billing.models import Plan, PlanVersion, Subscription
from billing.queries.plans import get_plan, get_version
from billing.queries.spend import get_current_spend
from billing.queries.subscriptions import get_subscription, list_phases, list_phases_of, list_subscriptions
from billing.services.subscriptions import (
    SubscriptionDefinition,
    When,
    cancel_subscription,
    change_plan,
    create_subscription,
)
from common.api import take_page
from common.errors import InvalidInput, PermissionRefused
from metering.api.base import get_visible_customer

KEY_HEADER = "Idempotency-Key"


class SubscriptionListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": shapes.SubscriptionListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="list_subscriptions",
        parameters=[shapes.SubscriptionListQuery],
        responses=page_of(shapes.SubscriptionRead),
    )
    def get(self, request: Request) -> Response:
        refuse_metric_bound(self.caller)
        rows = list_subscriptions(organization=self.caller.organization)
        customer = get_visible_customer(self.caller, self.query.pop("customer", None))
        if customer is not None:
            rows = rows.filter(customer=customer)
        page, now = take_page(rows, **self.query), timezone.now()
        phases = list_phases_of(page.rows, organization=self.caller.organization)
        data = [shapes.subscription_json(row, phases[row.pk], now) for row in page.rows]
        return Response({"data": data, "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="create_subscription",
        description="A repeated request with the same idempotency key answers 200 with the same subscription. Without "
        "a key a second subscription to a plan that the customer has is refused with 409 already_subscribed.",
        parameters=[OpenApiParameter(KEY_HEADER, str, OpenApiParameter.HEADER, required=False)],
        request=shapes.SubscriptionWrite,
        responses={201: shapes.SubscriptionRead, 200: shapes.SubscriptionRead},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.SubscriptionWrite)
        customer = get_visible_customer(self.caller, body["customer"])
        assert customer is not None  # it is named
        plan, version = _plan_of(self.caller, body["plan"], body.get("plan_version"))
        definition = SubscriptionDefinition(
            customer=customer,
            plan=plan,
            version=version,
            starts_at=body.get("start"),
            anchor_day=body.get("anchor_day"),
            zone=body.get("zone"),
            trial_days=body.get("trial_days"),
            idempotency_key=_idempotency_key(request, body),
        )
        made = create_subscription(
            organization=self.caller.organization,
            definition=definition,
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return _answer(made.subscription, status=HTTP_201_CREATED if made.is_new else HTTP_200_OK)


class SubscriptionView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_subscription", responses=shapes.SubscriptionRead)
    def get(self, request: Request, subscription_id: int) -> Response:
        return _answer(_subscription(self.caller, subscription_id))


class SubscriptionCancelView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(operation_id="cancel_subscription", request=shapes.CancelWrite, responses=shapes.SubscriptionRead)
    def post(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        body = self.read_body(shapes.CancelWrite)
        canceled = cancel_subscription(
            subscription=subscription, when=When(body["when"]), actor=self.caller.actor, now=timezone.now()
        )
        return _answer(canceled)


class SubscriptionChangePlanView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="change_plan",
        description="Nothing is prorated: `now` charges the whole current period under the new plan, `period_end` "
        "(the default) begins with the next period.",
        request=shapes.ChangePlanWrite,
        responses=shapes.SubscriptionRead,
    )
    def post(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        body = self.read_body(shapes.ChangePlanWrite)
        plan, version = _plan_of(self.caller, body["plan"], body.get("plan_version"))
        changed = change_plan(
            subscription=subscription,
            plan=plan,
            version=version,
            when=When(body["when"]),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return _answer(changed)


class SubscriptionSpendView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_subscription_spend", responses=shapes.SubscriptionSpendRead)
    def get(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        found = get_current_spend(subscription=subscription, now=timezone.now())
        return Response(shapes.subscription_spend_json(found))


def refuse_metric_bound(caller: Caller) -> None:
    """Raise `PermissionRefused` for a key that sees only some metrics: a plan and its costs are of several."""
    if caller.metric_codes:
        raise PermissionRefused("A key bound to metrics may not do this.", code="bound_key")


def _subscription(caller: Caller, subscription_id: int) -> Subscription:
    refuse_metric_bound(caller)
    return get_subscription(
        organization=caller.organization, subscription_id=subscription_id, customer_id=caller.customer_id
    )


def _idempotency_key(request: Request, body: dict[str, Any]) -> str:
    """Return the key of the header or the body; empty without. Raises `InvalidInput` where they differ."""
    given: str = body.get("idempotency_key", "")
    header = request.headers.get(KEY_HEADER)
    if header is None:
        return given
    try:
        key: str = shapes.IdempotencyKey().run_validation(header)
    except ValidationError as error:
        raise InvalidInput.of(KEY_HEADER, str(error.detail[0]), "invalid") from None  # type: ignore[index]
    if given and given != key:
        raise InvalidInput.of("idempotency_key", f"It differs from the header {KEY_HEADER}.", "invalid_combination")
    return key


def _plan_of(caller: Caller, code: str, number: int | None) -> tuple[Plan, PlanVersion | None]:
    plan = get_plan(organization=caller.organization, code=code)
    return plan, None if number is None else get_version(plan=plan, number=number)


def _answer(subscription: Subscription, *, status: int = 200) -> Response:
    body = shapes.subscription_json(subscription, list_phases(subscription), timezone.now())
    return Response(body, status=status)
