"""Who may do what at the forward port, in the words of callers.

The port is not authenticated: an instance's id is all that names a tenant there. So only admins of organizations to
which the operator opened the port map instances, and only they see the records of instances that nobody mapped.
"""

from __future__ import annotations

from django.db.models import QuerySet

from accounts.access import Caller
from accounts.domain import Scope
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.queries import is_port_open_to, list_quarantined
from metering.dialects.weave.services import PortClosed


def may_map(caller: Caller) -> bool:
    return caller.has(Scope.ADMIN) and is_port_open_to(caller.organization)


def require_mapping(caller: Caller) -> None:
    """Raise `PermissionRefused` unless the caller may map instances."""
    caller.require(Scope.ADMIN)
    if not is_port_open_to(caller.organization):
        raise PortClosed(
            "The operator has not opened the forward port to this organization (METERBOOK_FORWARD_ORGANIZATIONS)."
        )


def list_visible_records(caller: Caller) -> QuerySet[QuarantinedRecord]:
    """Return what waits and the caller may see, newest first."""
    rows = list_quarantined(caller.organization)
    return rows if may_map(caller) else rows.filter(organization=caller.organization)
