"""The API of plans and their versions."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED

from accounts.access import Caller
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.domain import Scope
from billing.api import plan_serializers as shapes
from billing.models import Plan, PlanVersion, VersionState
from billing.queries.charges import list_charges, list_charges_of
from billing.queries.plans import get_plan, get_version, list_current_versions, list_plans, list_versions
from billing.services.plans import (
    activate_version,
    archive_plan,
    create_plan,
    create_version,
    replace_draft,
    update_plan,
)
from common.api import ListQuery, take_page


class PlanListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": shapes.PlanListQuery}

    @extend_schema(operation_id="list_plans", parameters=[shapes.PlanListQuery], responses=page_of(shapes.PlanRead))
    def get(self, request: Request) -> Response:
        rows = list_plans(organization=self.caller.organization)
        archived = self.query.pop("archived", None)
        if archived is not None:
            rows = rows.filter(archived_at__isnull=archived == "false")
        page = take_page(rows, field="code", **self.query)
        return Response({"data": _plans_json(page.rows), "next_cursor": page.next_cursor})

    @extend_schema(operation_id="create_plan", request=shapes.PlanWrite, responses={201: shapes.PlanRead})
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.PlanWrite)
        plan = create_plan(
            organization=self.caller.organization,
            code=body["code"],
            name=body["name"],
            description=body.get("description", ""),
            definition=shapes.version_definition(body),
            is_default=body["default"],
            is_active=body["state"] == VersionState.ACTIVE,
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(_plan_json(plan), status=HTTP_201_CREATED)


class PlanView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PATCH": Scope.BILLING_WRITE, "DELETE": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_plan", responses=shapes.PlanRead)
    def get(self, request: Request, code: str) -> Response:
        return Response(_plan_json(_plan(self.caller, code)))

    @extend_schema(operation_id="update_plan", request=shapes.PlanChange, responses=shapes.PlanRead)
    def patch(self, request: Request, code: str) -> Response:
        plan = _plan(self.caller, code)
        body = self.read_body(shapes.PlanChange, is_partial=True)
        changes = {"is_default" if name == "default" else name: value for name, value in body.items()}
        return Response(_plan_json(update_plan(plan=plan, changes=changes, actor=self.caller.actor)))

    @extend_schema(
        operation_id="archive_plan",
        description="Archives it: nobody subscribes to it any more, who has goes on.",
        responses=shapes.PlanRead,
    )
    def delete(self, request: Request, code: str) -> Response:
        plan = archive_plan(plan=_plan(self.caller, code), actor=self.caller.actor, now=timezone.now())
        return Response(_plan_json(plan))


class VersionListView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "POST": Scope.BILLING_WRITE}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_plan_versions", parameters=[ListQuery], responses=page_of(shapes.VersionRead))
    def get(self, request: Request, code: str) -> Response:
        page = take_page(list_versions(plan=_plan(self.caller, code)), field="number", **self.query)
        charges = list_charges_of(page.rows, organization_id=self.caller.organization.pk)
        data = [shapes.version_json(version.plan, version, charges[version.pk]) for version in page.rows]
        return Response({"data": data, "next_cursor": page.next_cursor})

    @extend_schema(operation_id="create_plan_version", request=shapes.NewVersion, responses={201: shapes.VersionRead})
    def post(self, request: Request, code: str) -> Response:
        plan = _plan(self.caller, code)
        body = self.read_body(shapes.NewVersion)
        version = create_version(
            plan=plan,
            definition=shapes.version_definition(body),
            is_active=body["state"] == VersionState.ACTIVE,
            actor=self.caller.actor,
            now=timezone.now(),
        )
        return Response(_version_json(version), status=HTTP_201_CREATED)


class VersionView(CallerView):
    scopes = {"GET": Scope.BILLING_READ, "PUT": Scope.BILLING_WRITE}

    @extend_schema(operation_id="get_plan_version", responses=shapes.VersionRead)
    def get(self, request: Request, code: str, number: int) -> Response:
        return Response(_version_json(_version(self.caller, code, number)))

    @extend_schema(operation_id="replace_plan_draft", request=shapes.VersionWrite, responses=shapes.VersionRead)
    def put(self, request: Request, code: str, number: int) -> Response:
        version = _version(self.caller, code, number)
        definition = shapes.version_definition(self.read_body(shapes.VersionWrite))
        return Response(_version_json(replace_draft(version=version, definition=definition, actor=self.caller.actor)))


class ActivateVersionView(CallerView):
    scopes = {"POST": Scope.BILLING_WRITE}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="activate_plan_version", request=None, responses=shapes.VersionRead)
    def post(self, request: Request, code: str, number: int) -> Response:
        version = _version(self.caller, code, number)
        activated = activate_version(version=version, actor=self.caller.actor, now=timezone.now())
        return Response(_version_json(activated))


def _plan(caller: Caller, code: str) -> Plan:
    return get_plan(organization=caller.organization, code=code)


def _version(caller: Caller, code: str, number: int) -> PlanVersion:
    return get_version(plan=_plan(caller, code), number=number)


def _plan_json(plan: Plan) -> dict[str, object]:
    return _plans_json([plan])[0]


def _plans_json(plans: list[Plan]) -> list[dict[str, object]]:
    """Return plans with the prices of their current versions, in two queries."""
    if not plans:
        return []
    organization_id = plans[0].organization_id
    current = list_current_versions(plans, organization_id=organization_id)
    charges = list_charges_of(current.values(), organization_id=organization_id)
    return [
        shapes.plan_json(plan, version, charges[version.pk] if version else [])
        for plan in plans
        for version in [current.get(plan.pk)]
    ]


def _version_json(version: PlanVersion) -> dict[str, object]:
    return shapes.version_json(version.plan, version, list_charges(version))
