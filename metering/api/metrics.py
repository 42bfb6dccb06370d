"""The API of what is measured: metrics and catalogs."""

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT, HTTP_409_CONFLICT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from common.api import ListQuery, take_page, validated
from common.errors import NotFound
from metering.api import serializers as shapes
from metering.api.base import get_visible_metric
from metering.catalogs import CATALOGS, Catalog
from metering.models import Metric
from metering.services.metrics import MetricExists, archive_metric, create_metric, install_catalog, update_metric


class MetricListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": shapes.MetricListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(
        operation_id="list_metrics", parameters=[shapes.MetricListQuery], responses=page_of(shapes.MetricRead)
    )
    def get(self, request: Request) -> Response:
        is_archived = self.query.pop("archived") == "true"
        metrics = Metric.objects.for_organization(self.caller.organization).filter(archived_at__isnull=not is_archived)
        if self.caller.metric_codes:
            metrics = metrics.filter(code__in=self.caller.metric_codes)
        return take_page(metrics, field="code", **self.query).response(shapes.MetricRead)

    @extend_schema(operation_id="create_metric", request=shapes.MetricWrite, responses={201: shapes.MetricRead})
    def post(self, request: Request) -> Response:
        serializer = shapes.MetricWrite(data=request.data)
        fields = serializer.fields_of(validated(serializer))
        try:
            metric = create_metric(
                organization=self.caller.organization,
                definition=shapes.to_definition(fields),
                actor=self.caller.actor,
            )
        except MetricExists as error:
            body = {**error.as_json(), "metric": shapes.metric_json(error.metric)}
            return Response(body, status=HTTP_409_CONFLICT)
        return Response(shapes.metric_json(metric), status=HTTP_201_CREATED)


class MetricView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_metric", responses=shapes.MetricRead)
    def get(self, request: Request, code: str) -> Response:
        return Response(shapes.metric_json(get_visible_metric(self.caller, code)))

    @extend_schema(operation_id="update_metric", request=shapes.MetricWrite, responses=shapes.MetricRead)
    def patch(self, request: Request, code: str) -> Response:
        metric = get_visible_metric(self.caller, code)
        serializer = shapes.MetricWrite(data=request.data, partial=True)
        changed = update_metric(
            organization=self.caller.organization,
            metric=metric,
            changes=serializer.fields_of(validated(serializer)),
            actor=self.caller.actor,
        )
        return Response(shapes.metric_json(changed))

    @extend_schema(operation_id="archive_metric", responses={204: None})
    def delete(self, request: Request, code: str) -> Response:
        archive_metric(
            organization=self.caller.organization,
            metric=get_visible_metric(self.caller, code),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(status=HTTP_204_NO_CONTENT)


class CatalogListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_catalogs", parameters=[ListQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        return Response({"data": [_catalog_json(catalog) for catalog in CATALOGS.values()], "next_cursor": None})


class CatalogInstallView(CallerView):
    scopes = {"POST": Scope.METRICS_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="install_catalog", request=None, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, name: str) -> Response:
        if name not in CATALOGS:
            raise NotFound("There is no such catalog.")
        metrics = install_catalog(organization=self.caller.organization, name=name, actor=self.caller.actor)
        return Response({"name": name, "metrics": [shapes.metric_json(metric) for metric in metrics]})


def _catalog_json(catalog: Catalog) -> dict[str, Any]:
    return {
        "name": catalog.name,
        "description": catalog.description,
        "metrics": [definition.code for definition in catalog.metrics],
    }
