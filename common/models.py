"""Tenancy: the manager that makes every read say whose rows it wants."""

from typing import Any, Self

from django.db import models


class TenantQuerySet(models.QuerySet[Any]):
    def for_organization(self, organization: models.Model | int) -> Self:
        """Narrow to one organization's rows. The way into every tenant-owned table."""
        return self.filter(organization_id=getattr(organization, "pk", organization))

    def all_tenants(self) -> Self:
        """Read across organizations. Only for tasks, admin and operator commands; greppable on purpose."""
        return self.all()


TenantManager = models.Manager.from_queryset(TenantQuerySet)
