"""Writes of routes: create, change, delete. Each is examined as a whole and leaves a line in the audit log."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import Organization
from accounts.services import record_audit
from common.errors import Conflict, FieldError, InvalidInput, NotFound
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.domain import ANY_METHOD, pattern_shape
from metering.dialects.gateway.expressions import ExpressionError, compile_expression
from metering.dialects.gateway.models import ErrorPolicy, MeteringMode, Route
from metering.dialects.gateway.recording import EVENT_PROPERTIES
from metering.models import Aggregation, Metric
from metering.queries import get_metric

MAX_ROUTES = 1000
EVALUATING_MODES = frozenset({MeteringMode.RESPONSE_FIELD, MeteringMode.CUSTOM})
FIELDS = ("name", "method", "path_pattern", "metering_mode", "metering_expr", "metric", "on_metering_error")


class RouteExists(Conflict):
    code = "already_exists"


@dataclass(frozen=True, slots=True)
class RouteDefinition:
    """What a route is. `code` empty: one is made up; `path_pattern` empty: only records that name the route."""

    code: str = ""
    name: str = ""
    method: str = ANY_METHOD
    path_pattern: str = ""
    metering_mode: MeteringMode = MeteringMode.REQUEST
    metering_expr: str = ""
    metric: Metric | None = None
    on_metering_error: ErrorPolicy = ErrorPolicy.REJECT


def create_route(*, organization: Organization, definition: RouteDefinition, actor: str, now: datetime) -> Route:
    """Create a route; it meters the requests that arrive from now on. Raises `RouteExists`, `InvalidInput`."""
    code = definition.code or f"route-{secrets.token_hex(6)}"
    route = Route(organization=organization, code=code, created_at=now)
    for name in FIELDS:
        setattr(route, name, getattr(definition, name))
    _complete(route, now)
    _check_metric(route.metric)
    if Route.objects.for_organization(organization)[MAX_ROUTES - 1 :].exists():
        raise InvalidInput.of("id", f"An organization has at most {MAX_ROUTES} routes.", "too_many")
    with _told_apart(route), transaction.atomic():
        route.save(force_insert=True)
        _record(route, "route.created", actor, {name: _plain(getattr(route, name)) for name in FIELDS})
    return route


def update_route(*, route: Route, changes: Mapping[str, Any], actor: str, now: datetime) -> Route:
    """Change a route for the requests that arrive from now on. Raises `NotFound` where it was deleted meanwhile."""
    with _told_apart(route), transaction.atomic():
        locked: Route | None = (
            Route.objects.for_organization(route.organization_id)
            .select_for_update(of=("self",))
            .select_related("organization", "metric")
            .filter(pk=route.pk)
            .first()
        )
        if locked is None:
            raise NotFound("There is no such route.")
        changed = {name: value for name, value in changes.items() if getattr(locked, name) != value}
        if not changed:
            return locked
        details = {
            name: {"from": _plain(getattr(locked, name)), "to": _plain(value)} for name, value in changed.items()
        }
        for name, value in changed.items():
            setattr(locked, name, value)
        _complete(locked, now)
        if "metric" in changed:
            _check_metric(locked.metric)
        locked.version += 1
        locked.save()
        _record(locked, "route.updated", actor, details)
    return locked


@transaction.atomic
def delete_route(*, route: Route, actor: str) -> None:
    """Delete a route; what was metered by it stays as it is. Idempotent."""
    deleted, _ = Route.objects.for_organization(route.organization_id).filter(pk=route.pk).delete()
    if deleted:
        _record(route, "route.deleted", actor, {name: _plain(getattr(route, name)) for name in FIELDS})


# --- what a route may be --------------------------------------------------------------------------------------


def name_metric(*, organization: Organization, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the metric itself for its code. Raises `InvalidInput` where there is none."""
    if fields.get("metric") is None:
        return fields
    try:
        return fields | {"metric": get_metric(organization=organization, code=fields["metric"])}
    except NotFound as error:
        raise InvalidInput.of("metric", error.message, "not_found") from None


def check_expression(*, mode: str, text: str) -> None:
    """Raise `InvalidInput` with the column unless the expression is one for the mode."""
    if mode not in EVALUATING_MODES:
        if text:
            raise InvalidInput.of("metering_expr", f"The mode {mode} evaluates nothing.", "invalid_combination")
        return
    try:
        compile_expression(text, is_field=mode == MeteringMode.RESPONSE_FIELD)
    except ExpressionError as error:
        raise InvalidInput(
            f"metering_expr, column {error.column}: {error.message}",
            code=error.code,
            errors=[FieldError("metering_expr", error.code, error.message)],
            extra={"column": error.column},
        ) from None


def _complete(route: Route, now: datetime) -> None:
    """Fill in what follows from the other fields. Raises `InvalidInput` for what has no meaning."""
    route.updated_at = now
    route.name = route.name or route.path_pattern or route.code
    try:
        route.path_shape = pattern_shape(route.path_pattern) if route.path_pattern else ""
    except ValueError as error:
        raise InvalidInput.of("path_pattern", str(error), "invalid_pattern") from None
    check_expression(mode=route.metering_mode, text=route.metering_expr)


def _check_metric(metric: Metric | None) -> None:
    """The units reach the metric as the property that it sums, so it must listen, sum, and name one of its own."""
    if metric is None:
        return
    if metric.event_type != EVENT_TYPE or metric.aggregation != Aggregation.SUM or not metric.value_property:
        message = f"A sum of a property, which listens to events of type {EVENT_TYPE}."
        raise InvalidInput.of("metric", message, "invalid_combination")
    if metric.value_property in EVENT_PROPERTIES:
        message = f"Its property {metric.value_property} holds something else of every request."
        raise InvalidInput.of("metric", message, "invalid_combination")
    if metric.archived_at is not None:
        raise InvalidInput.of("metric", "The metric is archived; nothing reaches it any more.", "metric_archived")


@contextmanager
def _told_apart(route: Route) -> Iterator[None]:
    """Turn what the database refuses into `RouteExists`, which names the field."""
    try:
        yield
    except IntegrityError as error:
        if "gateway_route_path_once" in str(error):
            raise RouteExists(
                f"Another route takes {route.method} {route.path_pattern}; the names of parameters make no difference.",
                errors=[FieldError("path_pattern", "already_exists", "Another route takes the same requests.")],
            ) from None
        raise RouteExists(
            f"There is a route {route.code!r} already.",
            errors=[FieldError("id", "already_exists", "Another route is called so.")],
        ) from None


def _plain(value: Any) -> Any:
    return value.code if isinstance(value, Metric) else value


def _record(route: Route, action: str, actor: str, details: dict[str, Any]) -> None:
    record_audit(organization=route.organization, actor=actor, action=action, target=route.code, details=details)
