"""The API of subscriptions and what they cost so far."""

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
from billing.api import spend_serializers as spend_shapes
from billing.api import subscription_serializers as shapes
from billing.api.idempotency import KEY_PARAMETER, read_idempotency_key
from billing.models import Plan, PlanVersion, Subscription
from billing.queries.plans import get_plan, get_version
from billing.queries.spend import get_current_spend
from billing.queries.spend_days import get_spend_days
from billing.queries.subscriptions import (
    find_pause,
    get_subscription,
    list_pauses_of,
    list_phases,
    list_phases_of,
    list_subscriptions,
    pause_from,
)
from billing.services.subscriptions import (
    SubscriptionDefinition,
    When,
    cancel_subscription,
    change_plan,
    create_subscription,
    pause_subscription,
    resume_subscription,
)
from common.api import take_page
from common.errors import PermissionRefused
from metering.api.base import get_named_customer, get_visible_customer


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
        pauses = list_pauses_of([row.pk for row in page.rows], organization=self.caller.organization)
        data = [
            shapes.subscription_json(row, phases[row.pk], pause_from(pauses.get(row.pk, []), now), now)
            for row in page.rows
        ]
        return Response({"data": data, "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="create_subscription",
        description="A repeated request with the same idempotency key answers 200 with the same subscription. Without "
        "a key a second subscription to a plan that the customer has is refused with 409 already_subscribed.",
        parameters=[KEY_PARAMETER],
        request=shapes.SubscriptionWrite,
        responses={201: shapes.SubscriptionRead, 200: shapes.SubscriptionRead},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.SubscriptionWrite)
        customer = get_named_customer(self.caller, body["customer"])
        plan, version = _plan_of(self.caller, body["plan"], body.get("plan_version"))
        definition = SubscriptionDefinition(
            customer=customer,
            plan=plan,
            version=version,
            starts_at=body.get("start"),
            anchor_day=body.get("anchor_day"),
            zone=body.get("zone"),
            trial_days=body.get("trial_days"),
            is_prorated=body["prorated"],
            idempotency_key=read_idempotency_key(request, body),
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
        description="`period_end` (the default) begins with the next period; `now` charges what is used from here on "
        "under the new plan and the fees of both in proportion (not prorated: the whole period under the new one).",
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


class SubscriptionPauseView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}

    @extend_schema(
        operation_id="pause_subscription",
        description="Nothing is charged while it is paused: no fees, and no usage, which goes on being counted.",
        request=shapes.PauseWrite,
        responses=shapes.SubscriptionRead,
    )
    def post(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        body = self.read_body(shapes.PauseWrite)
        paused = pause_subscription(
            subscription=subscription,
            when=When(body["when"]),
            resumes_at=body.get("resumes_at"),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return _answer(paused)


class SubscriptionResumeView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="resume_subscription", request=None, responses=shapes.SubscriptionRead)
    def post(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        return _answer(resume_subscription(subscription=subscription, actor=self.caller.actor, now=timezone.now()))


class SubscriptionSpendView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_subscription_spend", responses=spend_shapes.SubscriptionSpendRead)
    def get(self, request: Request, subscription_id: int) -> Response:
        subscription = _subscription(self.caller, subscription_id)
        found = get_current_spend(subscription=subscription, now=timezone.now())
        return Response(spend_shapes.subscription_spend_json(found))


class SubscriptionSpendDaysView(CallerView):
    scopes = {"GET": Scope.BILLING_READ}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="list_subscription_spend_days",
        responses=spend_shapes.SpendDaysRead,
        description="What each day of the current period added to what it costs so far; up to today.",
    )
    def get(self, request: Request, subscription_id: int) -> Response:
        found = get_spend_days(subscription=_subscription(self.caller, subscription_id), now=timezone.now())
        return Response(spend_shapes.spend_days_json(found))


def refuse_metric_bound(caller: Caller) -> None:
    """Raise `PermissionRefused` for a key that sees only some metrics: a plan and its costs are of several."""
    if caller.metric_codes:
        raise PermissionRefused("A key bound to metrics may not do this.", code="bound_key")


def _subscription(caller: Caller, subscription_id: int) -> Subscription:
    refuse_metric_bound(caller)
    return get_subscription(
        organization=caller.organization, subscription_id=subscription_id, customer_id=caller.customer_id
    )


def _plan_of(caller: Caller, code: str, number: int | None) -> tuple[Plan, PlanVersion | None]:
    plan = get_plan(organization=caller.organization, code=code)
    return plan, None if number is None else get_version(plan=plan, number=number)


def _answer(subscription: Subscription, *, status: int = 200) -> Response:
    now = timezone.now()
    body = shapes.subscription_json(subscription, list_phases(subscription), find_pause(subscription, now), now)
    return Response(body, status=status)
