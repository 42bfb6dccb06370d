"""Reads of servers. No numbers that they report: those are in `history`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Q

from accounts.models import Organization
from common.models import TenantQuerySet
from metering.dialects.influx.models import Server


@dataclass(frozen=True, slots=True)
class FleetFilter:
    """Which servers; empty or None: any."""

    product: str = ""
    version: str | None = None
    # How an id of cluster or server, or a host, begins.
    search: str = ""
    is_silent: bool = False
    # How long a server may say nothing before it counts as silent; None: twice its own usual interval.
    silence: timedelta | None = None


@dataclass(frozen=True, slots=True)
class FleetSize:
    servers: int
    clusters: int
    products: int
    silent: int


@dataclass(frozen=True, slots=True)
class VersionRow:
    product: str
    version: str
    servers: int
    clusters: int
    last_seen_at: datetime


def list_servers(*, organization: Organization, wanted: FleetFilter, now: datetime) -> TenantQuerySet:
    """Return the servers, heard of last first."""
    servers = Server.objects.for_organization(organization)
    if wanted.product:
        servers = servers.filter(product=wanted.product)
    if wanted.version is not None:
        servers = servers.filter(version=wanted.version)
    if wanted.search:
        servers = servers.filter(
            Q(cluster_id__startswith=wanted.search)
            | Q(server_id__startswith=wanted.search)
            | Q(host__istartswith=wanted.search)
        )
    if wanted.is_silent:
        servers = servers.filter(silent_since(wanted.silence, now))
    return servers.order_by("-last_seen_at", "-pk")


def silent_since(silence: timedelta | None, now: datetime) -> Q:
    """Return the condition of being silent at `now`."""
    return Q(silent_at__lte=now) if silence is None else Q(last_seen_at__lte=now - silence)


def get_server(*, organization: Organization, server_id: int) -> Server:
    """Return the server by the id of its row. Raises `NotFound`."""
    servers = Server.objects.for_organization(organization).select_related("customer")
    return servers.get_by_id(server_id, "There is no such server.")


def measure_fleet(*, organization: Organization, silence: timedelta | None, now: datetime) -> FleetSize:
    """Count servers, clusters (of each product), products and who is silent. One query."""
    counts: dict[str, Any] = Server.objects.for_organization(organization).aggregate(
        servers=Count("pk"),
        clusters=Count("cluster_id", distinct=True, filter=~Q(cluster_id="")),
        products=Count("product", distinct=True),
        silent=Count("pk", filter=silent_since(silence, now)),
    )
    return FleetSize(**counts)


def list_versions(*, organization: Organization, limit: int) -> list[VersionRow]:
    """Return products and versions, those with most servers first."""
    rows = (
        Server.objects.for_organization(organization)
        .values("product", "version")
        .annotate(
            servers=Count("pk"),
            clusters=Count("cluster_id", distinct=True, filter=~Q(cluster_id="")),
            last_seen_at=Max("last_seen_at"),
        )
        .order_by("-servers", "product", "version")
    )
    return [VersionRow(**row) for row in rows[:limit]]


def list_products(*, organization: Organization, limit: int) -> list[str]:
    products = Server.objects.for_organization(organization).order_by("product").values_list("product", flat=True)
    return list(products.distinct()[:limit])
