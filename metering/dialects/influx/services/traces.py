"""What the dialect keeps of a customer (`metering.traces`): the servers of the cluster that they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import models
from django.db.models import Q

from accounts.models import Customer, Organization
from common.models import TenantQuerySet
from metering.dialects.influx.models import Server


def iterate_rows(*, organization: Organization, customer: Customer) -> Iterator[models.Model]:
    yield from _list_servers(organization, customer).order_by("pk").iterator()


def let_go(*, organization: Organization, customer: Customer, by: str, now: datetime) -> None:
    """Delete the servers, with their hosts and all that they told of themselves; one that reports again is new."""
    _list_servers(organization, customer).delete()


def _list_servers(organization: Organization, customer: Customer) -> TenantQuerySet:
    """Return the servers whose numbers are theirs, and those of their cluster that sent none yet."""
    servers = Server.objects.for_organization(organization)
    return servers.filter(Q(customer=customer) | Q(customer=None, cluster_id=customer.external_id))
