"""What the account pages show: one frozen context per template, built here, only printed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.forms import BaseForm
from django.http import HttpRequest

from accounts.access import Caller
from accounts.domain import ROLES_MANAGED_BY, Role, may_manage
from accounts.forms import GRACE_CHOICES, ApiKeyForm, CustomerForm, EnvironmentForm, InvitationForm, ProjectForm
from accounts.models import ApiKey, AuditEntry, Customer, Invitation, Membership, Project
from accounts.pages import page_before, text_parameter, with_parameters
from accounts.queries import (
    list_api_keys,
    list_audit_entries,
    list_customers,
    list_members,
    list_open_invitations,
    list_projects,
)

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class FormPage:
    """A page that is one form."""

    form: BaseForm


# --- members --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberRow:
    pk: int
    name: str
    email: str
    role: str
    role_label: str
    since: datetime
    is_self: bool
    is_removable: bool
    # The roles that the visitor may give; empty where they may not change this member.
    roles: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class InvitationRow:
    pk: int
    email: str
    role_label: str
    invited_by: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MemberListPage:
    members: list[MemberRow]
    invitations: list[InvitationRow]
    form: InvitationForm
    # Set once, right after an invitation is made.
    invitation_link: str = ""
    invitation_email: str = ""


def get_member_list(
    caller: Caller, *, form: InvitationForm, now: datetime, invitation_link: str = "", invitation_email: str = ""
) -> MemberListPage:
    members = list_members(caller.organization).order_by("user__name", "user__email")
    invitations = list_open_invitations(caller.organization, now=now).order_by("email")
    return MemberListPage(
        members=[_member_row(member, caller) for member in members],
        invitations=[_invitation_row(invitation) for invitation in invitations],
        form=form,
        invitation_link=invitation_link,
        invitation_email=invitation_email,
    )


def _member_row(member: Membership, caller: Caller) -> MemberRow:
    is_self = caller.actor == f"user:{member.user.email}"
    is_managed = may_manage(caller.role, member.role)
    return MemberRow(
        pk=member.pk,
        name=member.user.name or member.user.email,
        email=member.user.email,
        role=member.role,
        role_label=member.get_role_display(),
        since=member.created_at,
        is_self=is_self,
        is_removable=is_managed or is_self,
        roles=role_choices(caller) if is_managed else [],
    )


def _invitation_row(invitation: Invitation) -> InvitationRow:
    return InvitationRow(
        pk=invitation.pk,
        email=invitation.email,
        role_label=invitation.get_role_display(),
        invited_by=_person_of(invitation.invited_by),
        expires_at=invitation.expires_at,
    )


def _person_of(actor: str) -> str:
    """Return the address of an actor that is a person, other actors as they are."""
    return actor.removeprefix("user:")


def role_choices(caller: Caller) -> list[tuple[str, str]]:
    """Return the roles that the caller may give, the mightiest first."""
    return [(role.value, role.label) for role in Role if role in ROLES_MANAGED_BY[caller.role]]


@dataclass(frozen=True, slots=True)
class InvitationPage:
    organization_name: str
    email: str
    role_label: str
    invited_by: str
    is_for_visitor: bool


def get_invitation_page(invitation: Invitation, request: HttpRequest) -> InvitationPage:
    return InvitationPage(
        organization_name=invitation.organization.name,
        email=invitation.email,
        role_label=invitation.get_role_display(),
        invited_by=_person_of(invitation.invited_by),
        is_for_visitor=request.user.is_authenticated and request.user.email.lower() == invitation.email,
    )


# --- keys -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    pk: int
    name: str
    prefix: str
    scopes: list[str]
    bound_to: list[str]
    last_used_at: datetime | None
    expires_at: datetime | None
    state_label: str
    state_class: str
    is_usable: bool
    is_rotatable: bool


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key's text on its one showing."""

    title: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ApiKeyListPage:
    keys: list[ApiKeyRow]
    form: ApiKeyForm
    grace_choices: Sequence[tuple[str, str]]
    issued: ShownKey | None = None


def get_api_key_list(
    caller: Caller, *, form: ApiKeyForm, now: datetime, issued: ShownKey | None = None
) -> ApiKeyListPage:
    keys = list_api_keys(caller.organization).order_by("-created_at", "-pk")
    rows = [_api_key_row(api_key, now) for api_key in keys]
    return ApiKeyListPage(
        # A stable sort: usable keys first, each half newest first.
        keys=sorted(rows, key=lambda row: not row.is_usable),
        form=form,
        grace_choices=GRACE_CHOICES,
        issued=issued,
    )


def _api_key_row(api_key: ApiKey, now: datetime) -> ApiKeyRow:
    label, css_class = _api_key_state(api_key, now)
    is_usable = label in {"active", "being replaced"}
    customer = [f"customer {api_key.customer.external_id}"] if api_key.customer else []
    return ApiKeyRow(
        pk=api_key.pk,
        name=api_key.name,
        prefix=api_key.prefix,
        scopes=api_key.scopes,
        bound_to=customer + api_key.metric_codes,
        last_used_at=api_key.last_used_at,
        expires_at=api_key.expires_at,
        state_label=label,
        state_class=css_class,
        is_usable=is_usable,
        is_rotatable=is_usable and api_key.replaced_by_id is None,
    )


def _api_key_state(api_key: ApiKey, now: datetime) -> tuple[str, str]:
    if api_key.revoked_at is not None:
        return "revoked", "is-danger"
    if api_key.expires_at is not None and api_key.expires_at <= now:
        return "expired", ""
    if api_key.replaced_by_id is not None:
        return "being replaced", "is-warning"
    return "active", "is-success"


# --- projects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectListPage:
    projects: list[Project]
    project_form: ProjectForm
    environment_form: EnvironmentForm


def get_project_list(
    caller: Caller, *, project_form: ProjectForm | None = None, environment_form: EnvironmentForm | None = None
) -> ProjectListPage:
    projects = list(list_projects(caller.organization).prefetch_related("environments").order_by("key"))
    return ProjectListPage(
        projects=projects,
        project_form=project_form or ProjectForm(prefix="project"),
        environment_form=environment_form or EnvironmentForm(prefix="environment", projects=project_choices(projects)),
    )


def project_choices(projects: Sequence[Project]) -> list[tuple[str, str]]:
    return [(project.key, project.name) for project in projects]


# --- customers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CustomerListPage:
    customers: list[Customer]
    search: str
    is_auto_created: bool
    next_url: str
    first_url: str


def get_customer_list(request: HttpRequest, caller: Caller) -> CustomerListPage:
    """A page in the order of the external id; `after` is the last id of the page before."""
    search, after = text_parameter(request, "search"), text_parameter(request, "after")
    customers = list_customers(caller).filter(external_id__gt=after).order_by("external_id")
    if search:
        customers = customers.filter(Q(external_id__startswith=search) | Q(name__istartswith=search))
    found = list(customers[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    parameters = {"search": search} if search else {}
    return CustomerListPage(
        customers=shown,
        search=search,
        is_auto_created=caller.organization.is_customer_auto_created,
        next_url=with_parameters("", {**parameters, "after": shown[-1].external_id}) if len(found) > PAGE_SIZE else "",
        first_url=(with_parameters("", parameters) or "?") if after else "",
    )


@dataclass(frozen=True, slots=True)
class CustomerFormPage:
    title: str
    form: CustomerForm
    customer: Customer | None = None


# --- audit log ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detail:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    created_at: datetime
    actor: str
    action: str
    target: str
    details: list[Detail]


@dataclass(frozen=True, slots=True)
class AuditLogPage:
    rows: list[AuditRow]
    next_url: str
    first_url: str


def get_audit_log(request: HttpRequest, caller: Caller) -> AuditLogPage:
    """A page, newest first."""
    page = page_before(request, list_audit_entries(caller.organization), size=PAGE_SIZE)
    return AuditLogPage([_audit_row(entry) for entry in page.rows], page.next_url, page.first_url)


def _audit_row(entry: AuditEntry) -> AuditRow:
    details = [Detail(name, _detail_text(value)) for name, value in entry.details.items()]
    return AuditRow(entry.created_at, _person_of(entry.actor), entry.action, entry.target, details)


def _detail_text(value: Any) -> str:
    """Say a detail in words: lists with commas, changes with an arrow."""
    if isinstance(value, dict) and value.keys() == {"from", "to"}:
        return f"{_detail_text(value['from'])} \u2192 {_detail_text(value['to'])}"
    if isinstance(value, list):
        return ", ".join(map(_detail_text, value)) or "none"
    if value is None or value == "":
        return "none"
    return str(value)
