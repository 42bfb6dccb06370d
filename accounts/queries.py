"""Reads of who-is-who. Everything but the invitation behind a token is asked for one organization."""

from collections.abc import Iterable
from datetime import datetime

from accounts.access import Caller, hash_secret
from accounts.domain import derive_environment_id, derive_project_id
from accounts.models import ApiKey, AuditEntry, Customer, Environment, Invitation, Membership, Organization, Project
from common.errors import NotFound
from common.models import TenantQuerySet

# A list of more is no help: the id is typed anyway.
MAX_SUGGESTED_CUSTOMERS = 100


def list_customers(caller: Caller) -> TenantQuerySet:
    """The caller's customers: all of the organization, or the one that the key is bound to."""
    customers = Customer.objects.for_organization(caller.organization)
    return customers if caller.customer_id is None else customers.filter(pk=caller.customer_id)


def get_customer(caller: Caller, external_id: str) -> Customer:
    customer: Customer | None = list_customers(caller).filter(external_id=external_id).first()
    if customer is None:
        raise NotFound("There is no such customer.")
    return customer


def get_customer_by_id(caller: Caller, customer_id: int) -> Customer:
    """Return the customer by the id of its row, as pages name it. Raises `NotFound`."""
    return list_customers(caller).get_by_id(customer_id, "There is no such customer.")


def suggest_customers(organization: Organization) -> list[str]:
    """Return the first ids, for a field in which one is typed."""
    customers = Customer.objects.for_organization(organization).order_by("external_id")
    return list(customers.values_list("external_id", flat=True)[:MAX_SUGGESTED_CUSTOMERS])


def list_api_keys(organization: Organization) -> TenantQuerySet:
    return ApiKey.objects.for_organization(organization).select_related("customer", "replaced_by")


def get_api_key(organization: Organization, key_id: int) -> ApiKey:
    return list_api_keys(organization).get_by_id(key_id, "There is no such API key.")


def list_projects(organization: Organization) -> TenantQuerySet:
    return Project.objects.for_organization(organization)


def get_project(organization: Organization, key: str) -> Project:
    project: Project | None = list_projects(organization).filter(key=key).first()
    if project is None:
        raise NotFound("There is no such project.")
    return project


def list_environments(organization: Organization, project: Project) -> TenantQuerySet:
    return Environment.objects.for_organization(organization).filter(project=project).select_related("project")


def get_environment(organization: Organization, project_key: str, key: str) -> Environment:
    environment: Environment | None = (
        Environment.objects.for_organization(organization)
        .filter(project__key=project_key, key=key)
        .select_related("project")
        .first()
    )
    if environment is None:
        raise NotFound("There is no such environment.")
    return environment


class ProjectIds(dict[str, str]):
    """The hex ids of an organization's projects by key; a key that nobody registered has the id it would get."""

    def __init__(self, organization_id: int, registered: Iterable[tuple[str, str]]) -> None:
        super().__init__(registered)
        self._organization_id = organization_id

    def __missing__(self, key: str) -> str:
        return derive_project_id(organization_id=self._organization_id, key=key)


class EnvironmentIds(dict[tuple[str, str], str]):
    """As `ProjectIds`, of environments, by the keys of project and environment."""

    def __init__(self, organization_id: int, registered: Iterable[tuple[tuple[str, str], str]]) -> None:
        super().__init__(registered)
        self._organization_id = organization_id

    def __missing__(self, keys: tuple[str, str]) -> str:
        project_key, key = keys
        return derive_environment_id(organization_id=self._organization_id, project_key=project_key, key=key)


def project_ids(organization: Organization) -> ProjectIds:
    """One query; then `ids[key]` answers for every key that an event may name."""
    return ProjectIds(organization.pk, list_projects(organization).values_list("key", "hex_id"))


def environment_ids(organization: Organization) -> EnvironmentIds:
    """One query; then `ids[project_key, key]` answers for every pair of keys that an event may name."""
    rows = Environment.objects.for_organization(organization).values_list("project__key", "key", "hex_id")
    return EnvironmentIds(organization.pk, (((project_key, key), hex_id) for project_key, key, hex_id in rows))


def list_members(organization: Organization) -> TenantQuerySet:
    return Membership.objects.for_organization(organization).select_related("user")


def get_member(organization: Organization, member_id: int) -> Membership:
    return list_members(organization).get_by_id(member_id, "There is no such member.")


def list_invitations(organization: Organization) -> TenantQuerySet:
    """All invitations, also settled ones: the state says which."""
    return Invitation.objects.for_organization(organization)


def list_open_invitations(organization: Organization, *, now: datetime) -> TenantQuerySet:
    return list_invitations(organization).filter(accepted_at__isnull=True, revoked_at__isnull=True, expires_at__gt=now)


def get_invitation(organization: Organization, invitation_id: int) -> Invitation:
    return list_invitations(organization).get_by_id(invitation_id, "There is no such invitation.")


def find_open_invitation(token: str, *, now: datetime) -> Invitation | None:
    """The invitation behind a token, of whichever organization, unless it is used, withdrawn or expired."""
    if not token.isascii():
        return None
    return (
        Invitation.objects.all_tenants()
        .select_related("organization")
        .filter(token_hash=hash_secret(token), accepted_at__isnull=True, revoked_at__isnull=True, expires_at__gt=now)
        .first()
    )


def has_open_invitation(email: str, *, now: datetime) -> bool:
    """Tell whether any organization waits for this address."""
    invitations = Invitation.objects.all_tenants().filter(email=email.lower(), expires_at__gt=now)
    return invitations.filter(accepted_at__isnull=True, revoked_at__isnull=True).exists()


def list_audit_entries(organization: Organization) -> TenantQuerySet:
    return AuditEntry.objects.for_organization(organization)
