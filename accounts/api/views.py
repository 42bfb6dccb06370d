"""The REST API of accounts: the organization, its customers, keys, projects, members and audit log."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED, HTTP_204_NO_CONTENT

from accounts import queries, services
from accounts.api import serializers as shapes
from accounts.api.base import CallerView
from accounts.api.schema import page_of
from accounts.clients import invitation_url
from accounts.domain import Role, Scope
from accounts.models import Customer
from common.api import ListQuery, take_page
from common.errors import InvalidInput, NotFound


class OrganizationView(CallerView):
    scopes = {"GET": None, "PATCH": Scope.ADMIN}

    @extend_schema(operation_id="get_organization", responses=shapes.OrganizationRead)
    def get(self, request: Request) -> Response:
        return Response(shapes.OrganizationRead(self.caller.organization).data)

    @extend_schema(
        operation_id="update_organization", request=shapes.OrganizationWrite, responses=shapes.OrganizationRead
    )
    def patch(self, request: Request) -> Response:
        organization = services.update_organization(
            organization=self.caller.organization,
            actor=self.caller.actor,
            changes=self.read_body(shapes.OrganizationWrite, is_partial=True),
        )
        return Response(shapes.OrganizationRead(organization).data)


class CustomerListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": ListQuery}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="list_customers", parameters=[ListQuery], responses=page_of(shapes.CustomerRead))
    def get(self, request: Request) -> Response:
        customers = queries.list_customers(self.caller)
        return take_page(customers, field="external_id", **self.query).response(shapes.CustomerRead)

    @extend_schema(operation_id="create_customer", request=shapes.CustomerWrite, responses={201: shapes.CustomerRead})
    def post(self, request: Request) -> Response:
        customer = services.create_customer(
            organization=self.caller.organization, actor=self.caller.actor, **self.read_body(shapes.CustomerWrite)
        )
        return Response(shapes.CustomerRead(customer).data, status=HTTP_201_CREATED)


class CustomerView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_customer", responses=shapes.CustomerRead)
    def get(self, request: Request, external_id: str) -> Response:
        return Response(shapes.CustomerRead(queries.get_customer(self.caller, external_id)).data)

    @extend_schema(operation_id="update_customer", request=shapes.CustomerChange, responses=shapes.CustomerRead)
    def patch(self, request: Request, external_id: str) -> Response:
        customer = services.update_customer(
            organization=self.caller.organization,
            actor=self.caller.actor,
            customer=queries.get_customer(self.caller, external_id),
            changes=self.read_body(shapes.CustomerChange, is_partial=True),
        )
        return Response(shapes.CustomerRead(customer).data)


class ApiKeyListView(CallerView):
    scopes = {"GET": Scope.ADMIN, "POST": Scope.ADMIN}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_api_keys", parameters=[ListQuery], responses=page_of(shapes.ApiKeyRead))
    def get(self, request: Request) -> Response:
        keys = queries.list_api_keys(self.caller.organization)
        return take_page(keys, **self.query).response(shapes.ApiKeyRead)

    @extend_schema(operation_id="create_api_key", request=shapes.ApiKeyWrite, responses={201: shapes.ApiKeyIssued})
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.ApiKeyWrite)
        issued = services.issue_api_key(
            organization=self.caller.organization,
            actor=self.caller.actor,
            name=body["name"],
            scopes=body["scopes"],
            expires_at=body.get("expires_at"),
            customer=self._find_customer(body.get("customer")),
            metric_codes=body.get("metrics", ()),
        )
        return Response(shapes.ApiKeyIssued(issued).data, status=HTTP_201_CREATED)

    def _find_customer(self, external_id: str | None) -> Customer | None:
        try:
            return None if external_id is None else queries.get_customer(self.caller, external_id)
        except NotFound as error:
            raise InvalidInput.of("customer", error.message, "unknown_customer") from None


class CurrentApiKeyView(CallerView):
    scopes = {"GET": None}
    methods_for_bound_keys = frozenset({"GET"})

    @extend_schema(operation_id="get_current_api_key", responses=shapes.ApiKeyRead)
    def get(self, request: Request) -> Response:
        """The key that this request carries: what it may do and until when."""
        if self.caller.key_id is None:
            raise NotFound("This request carries no API key.")
        key = queries.get_api_key(self.caller.organization, self.caller.key_id)
        return Response(shapes.ApiKeyRead(key).data)


class ApiKeyView(CallerView):
    scopes = {"GET": Scope.ADMIN}

    @extend_schema(operation_id="get_api_key", responses=shapes.ApiKeyRead)
    def get(self, request: Request, key_id: int) -> Response:
        return Response(shapes.ApiKeyRead(queries.get_api_key(self.caller.organization, key_id)).data)


class ApiKeyRotateView(CallerView):
    scopes = {"POST": Scope.ADMIN}

    @extend_schema(operation_id="rotate_api_key", request=shapes.ApiKeyRotation, responses={201: shapes.ApiKeyIssued})
    def post(self, request: Request, key_id: int) -> Response:
        """Issue a successor with the same rights; the old key works until the end of the grace."""
        body = self.read_body(shapes.ApiKeyRotation)
        issued = services.rotate_api_key(
            organization=self.caller.organization,
            actor=self.caller.actor,
            api_key=queries.get_api_key(self.caller.organization, key_id),
            now=timezone.now(),
            grace=timedelta(seconds=body["grace_seconds"]),
        )
        return Response(shapes.ApiKeyIssued(issued).data, status=HTTP_201_CREATED)


class ApiKeyRevokeView(CallerView):
    scopes = {"POST": Scope.ADMIN}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="revoke_api_key", request=None, responses=shapes.ApiKeyRead)
    def post(self, request: Request, key_id: int) -> Response:
        """End a key at once."""
        key = services.revoke_api_key(
            organization=self.caller.organization,
            actor=self.caller.actor,
            api_key=queries.get_api_key(self.caller.organization, key_id),
            now=timezone.now(),
        )
        return Response(shapes.ApiKeyRead(key).data)


class ProjectListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_projects", parameters=[ListQuery], responses=page_of(shapes.ProjectRead))
    def get(self, request: Request) -> Response:
        projects = queries.list_projects(self.caller.organization)
        return take_page(projects, **self.query).response(shapes.ProjectRead)

    @extend_schema(operation_id="create_project", request=shapes.ProjectWrite, responses={201: shapes.ProjectRead})
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.ProjectWrite)
        project = services.create_project(
            organization=self.caller.organization,
            actor=self.caller.actor,
            key=body["key"],
            name=body["name"],
            hex_id=body.get("id"),
        )
        return Response(shapes.ProjectRead(project).data, status=HTTP_201_CREATED)


class ProjectView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_project", responses=shapes.ProjectRead)
    def get(self, request: Request, project_key: str) -> Response:
        return Response(shapes.ProjectRead(queries.get_project(self.caller.organization, project_key)).data)

    @extend_schema(operation_id="update_project", request=shapes.NameWrite, responses=shapes.ProjectRead)
    def patch(self, request: Request, project_key: str) -> Response:
        project = services.update_project(
            organization=self.caller.organization,
            actor=self.caller.actor,
            project=queries.get_project(self.caller.organization, project_key),
            changes=self.read_body(shapes.NameWrite, is_partial=True),
        )
        return Response(shapes.ProjectRead(project).data)


class EnvironmentListView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "POST": Scope.METRICS_WRITE}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_environments", parameters=[ListQuery], responses=page_of(shapes.EnvironmentRead))
    def get(self, request: Request, project_key: str) -> Response:
        project = queries.get_project(self.caller.organization, project_key)
        environments = queries.list_environments(self.caller.organization, project)
        return take_page(environments, **self.query).response(shapes.EnvironmentRead)

    @extend_schema(
        operation_id="create_environment", request=shapes.EnvironmentWrite, responses={201: shapes.EnvironmentRead}
    )
    def post(self, request: Request, project_key: str) -> Response:
        project = queries.get_project(self.caller.organization, project_key)
        body = self.read_body(shapes.EnvironmentWrite)
        environment = services.create_environment(
            organization=self.caller.organization,
            actor=self.caller.actor,
            project=project,
            key=body["key"],
            name=body["name"],
            hex_id=body.get("id"),
        )
        return Response(shapes.EnvironmentRead(environment).data, status=HTTP_201_CREATED)


class EnvironmentView(CallerView):
    scopes = {"GET": Scope.USAGE_READ, "PATCH": Scope.METRICS_WRITE}

    @extend_schema(operation_id="get_environment", responses=shapes.EnvironmentRead)
    def get(self, request: Request, project_key: str, environment_key: str) -> Response:
        environment = queries.get_environment(self.caller.organization, project_key, environment_key)
        return Response(shapes.EnvironmentRead(environment).data)

    @extend_schema(operation_id="update_environment", request=shapes.NameWrite, responses=shapes.EnvironmentRead)
    def patch(self, request: Request, project_key: str, environment_key: str) -> Response:
        environment = services.update_environment(
            organization=self.caller.organization,
            actor=self.caller.actor,
            environment=queries.get_environment(self.caller.organization, project_key, environment_key),
            changes=self.read_body(shapes.NameWrite, is_partial=True),
        )
        return Response(shapes.EnvironmentRead(environment).data)


class MemberListView(CallerView):
    scopes = {"GET": Scope.ADMIN}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_members", parameters=[ListQuery], responses=page_of(shapes.MemberRead))
    def get(self, request: Request) -> Response:
        members = queries.list_members(self.caller.organization)
        return take_page(members, **self.query).response(shapes.MemberRead)


class MemberView(CallerView):
    scopes = {"GET": Scope.ADMIN, "PATCH": Scope.ADMIN, "DELETE": Scope.ADMIN}

    @extend_schema(operation_id="get_member", responses=shapes.MemberRead)
    def get(self, request: Request, member_id: int) -> Response:
        return Response(shapes.MemberRead(queries.get_member(self.caller.organization, member_id)).data)

    @extend_schema(operation_id="update_member", request=shapes.MemberWrite, responses=shapes.MemberRead)
    def patch(self, request: Request, member_id: int) -> Response:
        member = services.change_member_role(
            **self._change(member_id), role=Role(self.read_body(shapes.MemberWrite)["role"])
        )
        return Response(shapes.MemberRead(member).data)

    @extend_schema(operation_id="remove_member", responses={204: None})
    def delete(self, request: Request, member_id: int) -> Response:
        services.remove_member(**self._change(member_id))
        return Response(status=HTTP_204_NO_CONTENT)

    def _change(self, member_id: int) -> dict[str, Any]:
        return {
            "organization": self.caller.organization,
            "actor": self.caller.actor,
            "actor_role": self.caller.role,
            "membership": queries.get_member(self.caller.organization, member_id),
        }


class InvitationListView(CallerView):
    scopes = {"GET": Scope.ADMIN, "POST": Scope.ADMIN}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_invitations", parameters=[ListQuery], responses=page_of(shapes.InvitationRead))
    def get(self, request: Request) -> Response:
        invitations = queries.list_invitations(self.caller.organization)
        return take_page(invitations, is_newest_first=True, **self.query).response(shapes.InvitationRead)

    @extend_schema(
        operation_id="create_invitation", request=shapes.InvitationWrite, responses={201: shapes.InvitationIssued}
    )
    def post(self, request: Request) -> Response:
        body = self.read_body(shapes.InvitationWrite)
        issued = services.invite_member(
            organization=self.caller.organization,
            actor=self.caller.actor,
            actor_role=self.caller.role,
            email=body["email"],
            role=Role(body["role"]),
            now=timezone.now(),
        )
        answer = {"invitation": issued.invitation, "accept_url": invitation_url(issued.token)}
        return Response(shapes.InvitationIssued(answer).data, status=HTTP_201_CREATED)


class InvitationRevokeView(CallerView):
    scopes = {"POST": Scope.ADMIN}
    methods_without_body = frozenset({"POST"})

    @extend_schema(operation_id="revoke_invitation", request=None, responses=shapes.InvitationRead)
    def post(self, request: Request, invitation_id: int) -> Response:
        invitation = services.revoke_invitation(
            organization=self.caller.organization,
            actor=self.caller.actor,
            invitation=queries.get_invitation(self.caller.organization, invitation_id),
            now=timezone.now(),
        )
        return Response(shapes.InvitationRead(invitation).data)


class AuditLogView(CallerView):
    scopes = {"GET": Scope.ADMIN}
    queries = {"GET": ListQuery}

    @extend_schema(operation_id="list_audit_log", parameters=[ListQuery], responses=page_of(shapes.AuditEntryRead))
    def get(self, request: Request) -> Response:
        """Every change of settings, keys, members and metrics, newest first."""
        entries = queries.list_audit_entries(self.caller.organization)
        return take_page(entries, is_newest_first=True, **self.query).response(shapes.AuditEntryRead)
