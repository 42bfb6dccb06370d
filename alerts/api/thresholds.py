"""The API of thresholds, and of why one fired or did not."""

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from alerts import queries
from alerts.api import serializers as shapes
from alerts.queries.trace import trace_threshold
from alerts.services.thresholds import (
    ThresholdDefinition,
    archive_threshold,
    create_threshold,
    declare_metric_thresholds,
    update_threshold,
)
from common.api import take_page
from metering.api.base import get_visible_customer, get_visible_metric


class ThresholdListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": shapes.ThresholdListQuery}

    @extend_schema(
        operation_id="list_thresholds",
        parameters=[shapes.ThresholdListQuery],
        responses=page_of(shapes.ThresholdRead),
    )
    def get(self, request: Request) -> Response:
        declare_metric_thresholds(organization=self.caller.organization, now=timezone.now())
        thresholds = queries.list_thresholds(organization=self.caller.organization)
        metric, customer = self.query.pop("metric", None), self.query.pop("customer", None)
        if metric is not None:
            thresholds = thresholds.filter(metric=get_visible_metric(self.caller, metric))
        if customer is not None:
            thresholds = thresholds.filter(customer=get_visible_customer(self.caller, customer))
        return take_page(thresholds, **self.query).response(shapes.ThresholdRead)

    @extend_schema(
        operation_id="create_threshold", request=shapes.ThresholdCreate, responses={201: shapes.ThresholdRead}
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.ThresholdCreate)
        changes = shapes.ThresholdFields.changes_of(body)
        threshold = create_threshold(
            organization=self.caller.organization,
            metric=get_visible_metric(self.caller, body["metric"]),
            definition=ThresholdDefinition(customer=get_visible_customer(self.caller, body.get("customer")), **changes),
            actor=self.caller.actor,
        )
        return Response(shapes.threshold_json(threshold), status=HTTP_201_CREATED)


class ThresholdView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_threshold", responses=shapes.ThresholdRead)
    def get(self, request: Request, threshold_id: int) -> Response:
        return Response(shapes.threshold_json(self._threshold(threshold_id)))

    @extend_schema(operation_id="update_threshold", request=shapes.ThresholdChange, responses=shapes.ThresholdRead)
    def patch(self, request: Request, threshold_id: int) -> Response:
        changed = update_threshold(
            threshold=self._threshold(threshold_id),
            changes=shapes.ThresholdFields.changes_of(self.read_body(shapes.ThresholdChange, is_partial=True)),
            actor=self.caller.actor,
        )
        return Response(shapes.threshold_json(changed))

    @extend_schema(operation_id="archive_threshold", responses={204: None})
    def delete(self, request: Request, threshold_id: int) -> Response:
        archive_threshold(threshold=self._threshold(threshold_id), actor=self.caller.actor, now=timezone.now())
        return Response(status=HTTP_204_NO_CONTENT)

    def _threshold(self, threshold_id: int) -> Any:
        return queries.get_threshold(organization=self.caller.organization, threshold_id=threshold_id)


class ThresholdTraceView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": shapes.TraceQuery}

    @extend_schema(operation_id="trace_threshold", parameters=[shapes.TraceQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, threshold_id: int) -> Response:
        threshold = queries.get_threshold(organization=self.caller.organization, threshold_id=threshold_id)
        customer = get_visible_customer(self.caller, self.query.get("customer"))
        return Response(trace_threshold(threshold=threshold, customer=customer, now=timezone.now()).as_json())
