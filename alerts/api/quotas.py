"""The API of quotas: their settings, the check of an amount, and reservations."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_200_OK, HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from accounts.models import Customer
from accounts.services import ensure_customers
from alerts.api import quota_serializers as shapes
from alerts.domain import QuotaMode
from alerts.models import Quota, Reservation
from alerts.queries import quotas
from alerts.services.quotas import QuotaDefinition, create_quota, delete_quota, update_quota
from alerts.services.reservations import (
    Held,
    QuotaExceeded,
    commit_reservation,
    release_reservation,
    reserve_amount,
)
from common.api import take_page
from common.errors import NotFound
from metering.api.base import Subject, get_subject, get_visible_customer, get_visible_metric


class QuotaListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": shapes.QuotaListQuery}

    @extend_schema(operation_id="list_quotas", parameters=[shapes.QuotaListQuery], responses=page_of(shapes.QuotaRead))
    def get(self, request: Request) -> Response:
        rows = quotas.list_quotas(organization=self.caller.organization)
        metric, customer = self.query.pop("metric", None), self.query.pop("customer", None)
        if metric is not None:
            rows = rows.filter(metric=get_visible_metric(self.caller, metric))
        if customer is not None:
            rows = rows.filter(customer=get_visible_customer(self.caller, customer))
        return take_page(rows, **self.query).response(shapes.QuotaRead)

    @extend_schema(operation_id="create_quota", request=shapes.QuotaWrite, responses={201: shapes.QuotaRead})
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.QuotaWrite)
        metric = get_visible_metric(self.caller, body.pop("metric"))
        customer = get_visible_customer(self.caller, body.pop("customer", None))
        quota = create_quota(
            organization=self.caller.organization,
            metric=metric,
            definition=QuotaDefinition(customer=customer, **_settings_of(body)),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.quota_json(quota), status=HTTP_201_CREATED)


class QuotaView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_quota", responses=shapes.QuotaRead)
    def get(self, request: Request, quota_id: int) -> Response:
        return Response(shapes.quota_json(self._quota(quota_id)))

    @extend_schema(operation_id="update_quota", request=shapes.QuotaChange, responses=shapes.QuotaRead)
    def patch(self, request: Request, quota_id: int) -> Response:
        quota = self._quota(quota_id)
        changes = _settings_of(self.read_body(shapes.QuotaChange, is_partial=True))
        changed = update_quota(quota=quota, changes=changes, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.quota_json(changed))

    @extend_schema(operation_id="delete_quota", responses={204: None})
    def delete(self, request: Request, quota_id: int) -> Response:
        delete_quota(quota=self._quota(quota_id), actor=self.caller.actor, now=timezone.now())
        return Response(status=HTTP_204_NO_CONTENT)

    def _quota(self, quota_id: int) -> Quota:
        return quotas.get_quota(organization=self.caller.organization, quota_id=quota_id)


class QuotaCheckView(CallerView):
    scopes = {"POST": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"POST"})

    @extend_schema(operation_id="check_quota", request=shapes.CheckWrite, responses=shapes.CheckRead)
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.CheckWrite)
        subject = _get_subject(self.caller, metric=body["metric"], customer=body["customer"])
        check = quotas.check_quota(
            organization=self.caller.organization,
            metric=subject.metric,
            customer=subject.customer,
            amount=body["amount"],
            now=timezone.now(),
        )
        return Response(shapes.check_json(check), headers=shapes.check_headers(check))


class QuotaReserveView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}
    methods_for_bound_keys = frozenset({"POST"})

    @extend_schema(
        operation_id="reserve_quota",
        request=shapes.ReserveWrite,
        responses={201: shapes.ReservationRead, 200: shapes.ReservationRead, 402: shapes.EXCEEDED},
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.ReserveWrite)
        subject = _get_subject(self.caller, metric=body["metric"], customer=body["customer"])
        now = timezone.now()
        try:
            held = reserve_amount(
                organization=self.caller.organization,
                metric=subject.metric,
                customer=subject.customer or self._create_customer(body["customer"]),
                amount=body["amount"],
                now=now,
                duration=timedelta(seconds=body["ttl_seconds"]),
                idempotency_key=body.get("idempotency_key", ""),
            )
        except QuotaExceeded as error:
            answer = {**error.as_json(), "quota": shapes.check_json(error.check)}
            return Response(answer, status=error.status, headers=shapes.check_headers(error.check))
        return _answer(held, now, status=HTTP_201_CREATED if held.is_new else HTTP_200_OK)

    def _create_customer(self, external_id: str) -> Customer:
        organization = self.caller.organization
        [customer_id] = ensure_customers(organization=organization, external_ids=[external_id]).values()
        return Customer.objects.for_organization(organization).get(pk=customer_id)


class ReservationCommitView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}
    methods_for_bound_keys = frozenset({"POST"})

    @extend_schema(operation_id="commit_reservation", request=shapes.CommitWrite, responses=shapes.ReservationRead)
    def post(self, request: Request, reservation_id: str) -> Response:
        reservation = _get_reservation(self.caller, reservation_id)
        body, now = self.read_body(shapes.CommitWrite), timezone.now()
        held = commit_reservation(organization=self.caller.organization, reservation=reservation, now=now, **body)
        return _answer(held, now)


class ReservationReleaseView(CallerView):
    scopes = {"POST": Scope.EVENTS_WRITE}
    methods_for_bound_keys = frozenset({"POST"})
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="release_reservation", request=None, responses=shapes.ReservationRead)
    def post(self, request: Request, reservation_id: str) -> Response:
        reservation = _get_reservation(self.caller, reservation_id)
        now = timezone.now()
        held = release_reservation(organization=self.caller.organization, reservation=reservation, now=now)
        return _answer(held, now)


def _get_subject(caller: Caller, *, metric: str, customer: str) -> Subject:
    """Return what is asked for; without a customer where the first event, or reservation, would create it.

    Raises `NotFound`. A key bound to a customer knows no other, be it absent or not.
    """
    try:
        return get_subject(caller, metric=metric, customer=customer)
    except NotFound:
        known = get_subject(caller, metric=metric, customer=None)  # unless it was the metric
        if known.customer is None and caller.organization.is_customer_auto_created:
            return known
        raise


def _get_reservation(caller: Caller, reservation_id: str) -> Reservation:
    return quotas.get_reservation(
        organization=caller.organization,
        reservation_id=reservation_id,
        customer_id=caller.customer_id,
        metric_codes=caller.metric_codes,
    )


def _settings_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in the words of the model."""
    return {name: QuotaMode(value) if name == "mode" else value for name, value in body.items()}


def _answer(held: Held, now: datetime, *, status: int = HTTP_200_OK) -> Response:
    body = shapes.held_json(held, state=held.reservation.state_at(now))
    return Response(body, status=status, headers=shapes.check_headers(held.check))
