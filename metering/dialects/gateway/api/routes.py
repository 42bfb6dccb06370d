"""The API of routes: how the requests of each are metered."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from common.api import ListQuery, take_page
from metering.dialects.gateway.api import serializers as shapes
from metering.dialects.gateway.models import Route
from metering.dialects.gateway.queries.routes import get_route, list_routes
from metering.dialects.gateway.services.routes import (
    RouteDefinition,
    create_route,
    delete_route,
    name_metric,
    update_route,
)


class RouteListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_routes", parameters=[ListQuery], responses=page_of(shapes.RouteRead))
    def get(self, request: Request) -> Response:
        routes = list_routes(organization=self.caller.organization)
        return take_page(routes, field="code", **self.query).response(shapes.RouteRead)

    @extend_schema(operation_id="create_route", request=shapes.RouteWrite, responses={201: shapes.RouteRead})
    def post(self, request: Request) -> Response:
        fields = name_metric(organization=self.caller.organization, fields=self.read_body(shapes.RouteWrite))
        route = create_route(
            organization=self.caller.organization,
            definition=RouteDefinition(code=fields.pop("id", ""), **fields),
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(shapes.route_json(route), status=HTTP_201_CREATED)


class RouteView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE, "DELETE": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_route", responses=shapes.RouteRead)
    def get(self, request: Request, route_id: str) -> Response:
        return Response(shapes.route_json(self._route(route_id)))

    @extend_schema(operation_id="update_route", request=shapes.RouteFields, responses=shapes.RouteRead)
    def patch(self, request: Request, route_id: str) -> Response:
        route = self._route(route_id)
        body = self.read_body(shapes.RouteFields, is_partial=True)
        changes = name_metric(organization=self.caller.organization, fields=body)
        changed = update_route(route=route, changes=changes, actor=self.caller.actor, now=timezone.now())
        return Response(shapes.route_json(changed))

    @extend_schema(operation_id="delete_route", responses={204: None})
    def delete(self, request: Request, route_id: str) -> Response:
        delete_route(route=self._route(route_id), actor=self.caller.actor)
        return Response(status=HTTP_204_NO_CONTENT)

    def _route(self, route_id: str) -> Route:
        return get_route(organization=self.caller.organization, code=route_id)
