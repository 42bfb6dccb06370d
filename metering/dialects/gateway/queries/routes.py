"""Reads of routes: for people, and as the table that ingest finds a request's route in."""

from __future__ import annotations

from threading import Lock

from django.db.models import Count, Sum

from accounts.models import Organization
from common.errors import NotFound
from common.models import TenantQuerySet
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.domain import Metering, RouteTable
from metering.dialects.gateway.expressions import Expression, ExpressionError, compile_expression
from metering.dialects.gateway.models import MeteringMode, Route
from metering.dialects.gateway.recording import EVENT_PROPERTIES, UNIT_PROPERTY
from metering.models import Aggregation, Metric

MAX_CACHED_ORGANIZATIONS = 1000

# (what tells the routes of one state from those of another, the table)
_tables: dict[int, tuple[tuple[int | None, ...], RouteTable]] = {}
_lock = Lock()


def list_routes(*, organization: Organization) -> TenantQuerySet:
    return Route.objects.for_organization(organization).select_related("metric")


def get_route(*, organization: Organization, code: str) -> Route:
    """Raises `NotFound`, for a foreign id like for an absent one."""
    route: Route | None = None if "\x00" in code else list_routes(organization=organization).filter(code=code).first()
    if route is None:
        raise NotFound("There is no such route.")
    return route


def get_route_table(organization: Organization) -> RouteTable:
    """Return the organization's routes as they are now. One query, one more after a change.

    Ids only grow and so do versions: equal sums of as many mean the same routes in the same state. Metrics have a
    version of their own, which the caller's `organization` brings along.
    """
    state = Route.objects.for_organization(organization).aggregate(
        count=Count("pk"), ids=Sum("pk"), versions=Sum("version")
    )
    key = (state["count"], state["ids"], state["versions"], organization.metrics_version)
    known = _tables.get(organization.pk)
    if known is None or known[0] != key:
        known = (key, _load(organization))
        with _lock:
            if len(_tables) >= MAX_CACHED_ORGANIZATIONS:
                _tables.pop(next(iter(_tables)))
            _tables[organization.pk] = known
    return known[1]


def _load(organization: Organization) -> RouteTable:
    routes = list_routes(organization=organization).order_by("code")
    return RouteTable((route.method, route.path_shape, to_metering(route)) for route in routes)


def to_metering(route: Route) -> Metering:
    return Metering(
        route_id=route.code,
        mode=route.metering_mode,
        policy=route.on_metering_error,
        expression=_find_expression(route),
        unit_property=_find_unit_property(route.metric),
    )


def _find_unit_property(metric: Metric | None) -> str:
    """Empty also for a metric that was given the name of another property later, while nothing was counted in it."""
    if metric is None or metric.value_property in EVENT_PROPERTIES:
        return ""
    return metric.value_property


def _find_expression(route: Route) -> Expression | None:
    """Return the expression, None where there is none or where it was saved under rules that no longer hold."""
    if not route.metering_expr:
        return None
    try:
        return compile_expression(route.metering_expr, is_field=route.metering_mode == MeteringMode.RESPONSE_FIELD)
    except ExpressionError:
        return None


def list_unit_metrics(*, organization: Organization) -> list[Metric]:
    """Return the metrics that a route's units may go to besides the gateway's own, by code."""
    sums = Metric.objects.for_organization(organization).filter(
        event_type=EVENT_TYPE, aggregation=Aggregation.SUM, archived_at__isnull=True
    )
    return list(sums.exclude(value_property__in=["", UNIT_PROPERTY, *EVENT_PROPERTIES]).order_by("code"))
