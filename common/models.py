"""Tenancy: the manager that makes every read say whose rows it wants."""

from typing import Any, Self

from django.db import models

from common.errors import NotFound


class TenantQuerySet(models.QuerySet[Any]):
    def for_organization(self, organization: models.Model | int) -> Self:
        """Narrow to one organization's rows. The way into every tenant-owned table."""
        return self.filter(organization_id=getattr(organization, "pk", organization))

    def get_by_id(self, row_id: int, message: str) -> Any:
        """Return the row of that id among these; raise `NotFound` with the message for a foreign one as for none.

        An id that no column can hold finds nothing, like any other: Django asks the database only for what it can.
        """
        found = self.filter(pk=row_id).first()
        if found is None:
            raise NotFound(message)
        return found

    def all_tenants(self) -> Self:
        """Read across organizations. Only for tasks, admin and operator commands; greppable on purpose."""
        return self.all()


TenantManager = models.Manager.from_queryset(TenantQuerySet)
