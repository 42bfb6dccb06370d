"""Writes to who-is-who: organizations, members, keys, customers, and the audit log of all of them.

One module per noun; import from here.
"""

from accounts.services.api_keys import IssuedKey, issue_api_key, revoke_api_key, rotate_api_key
from accounts.services.audit import record_audit
from accounts.services.customers import create_customer, ensure_customers, update_customer
from accounts.services.invitations import IssuedInvitation, accept_invitation, invite_member, revoke_invitation
from accounts.services.members import change_member_role, remove_member
from accounts.services.organizations import create_organization, update_organization
from accounts.services.projects import create_environment, create_project, update_environment, update_project

__all__ = [
    "IssuedInvitation",
    "IssuedKey",
    "accept_invitation",
    "change_member_role",
    "create_customer",
    "create_environment",
    "create_organization",
    "create_project",
    "ensure_customers",
    "invite_member",
    "issue_api_key",
    "record_audit",
    "remove_member",
    "revoke_api_key",
    "revoke_invitation",
    "rotate_api_key",
    "update_customer",
    "update_environment",
    "update_organization",
    "update_project",
]
