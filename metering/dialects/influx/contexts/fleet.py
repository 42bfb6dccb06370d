"""The fleet: what runs in which version, and which servers were heard of when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Organization
from common.api import decode_cursor, encode_cursor
from common.errors import InvalidInput
from common.models import TenantQuerySet
from common.times import parse_time
from metering.contexts.address import clean_text, parse_choice
from metering.contexts.filters import Option
from metering.dialects.influx.models import Server
from metering.dialects.influx.queries.fleet import (
    FleetFilter,
    FleetSize,
    VersionRow,
    list_products,
    list_servers,
    list_versions,
    measure_fleet,
)

PAGE_SIZE = 50
MAX_VERSIONS_SHOWN = 50
MAX_PRODUCTS_SHOWN = 200

SILENCES = {
    "1h": ("an hour", timedelta(hours=1)),
    "6h": ("6 hours", timedelta(hours=6)),
    "1d": ("a day", timedelta(days=1)),
    "7d": ("7 days", timedelta(days=7)),
    "30d": ("30 days", timedelta(days=30)),
}
USUAL_SILENCE = "twice the usual"


@dataclass(frozen=True, slots=True)
class ServerRow:
    url: str
    name: str
    product: str
    version: str
    cluster_id: str
    # Empty: the server names no cluster.
    cluster_url: str
    last_seen_at: datetime
    is_silent: bool


@dataclass(frozen=True, slots=True)
class VersionLine:
    url: str
    row: VersionRow


@dataclass(frozen=True, slots=True)
class FirstReport:
    """How to point a server here."""

    go: str
    curl: str
    start_url: str


@dataclass(frozen=True, slots=True)
class FleetPage:
    size: FleetSize
    versions: list[VersionLine]
    rows: list[ServerRow]
    problems: list[str]
    search: str
    version: str
    products: list[Option]
    states: list[Option]
    silences: list[Option]
    silence_label: str
    is_filtered: bool
    data_through: datetime
    next_url: str
    first_url: str
    first_report: FirstReport | None


@dataclass(frozen=True, slots=True)
class FleetAddress:
    """The parsed address of the page: what it says, and what that means."""

    parameters: dict[str, str]
    wanted: FleetFilter


def get_fleet_page(request: HttpRequest, caller: Caller) -> FleetPage:
    """A page of servers, heard of last first; `after` is the place of the page before's last row."""
    now = timezone.now()
    organization = caller.organization
    problems: list[str] = []
    address = _parse_address(request, problems)
    servers = list_servers(organization=organization, wanted=address.wanted, now=now)
    after = request.GET.get("after", "")
    found = list(_after(servers, after)[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    size = measure_fleet(organization=organization, silence=address.wanted.silence, now=now)
    products = list_products(organization=organization, limit=MAX_PRODUCTS_SHOWN)
    silence = address.parameters.get("silence", "")
    return FleetPage(
        size=size,
        versions=_version_lines(organization) if size.servers else [],
        rows=[_server_row(organization, server, address.wanted.silence, now) for server in shown],
        problems=problems,
        search=address.wanted.search,
        version=address.wanted.version or "",
        products=_options(["", *products], ["Any product", *products], address.wanted.product),
        states=_options(["", "silent"], ["Any", "Silent only"], address.parameters.get("state", "")),
        silences=_options(["", *SILENCES], [USUAL_SILENCE, *(label for label, _ in SILENCES.values())], silence),
        silence_label=SILENCES[silence][0] if silence else USUAL_SILENCE,
        is_filtered=bool(address.parameters.keys() - {"silence"}),
        data_through=now,
        next_url=_page_url(address, shown[-1]) if len(found) > PAGE_SIZE else "",
        first_url=f"?{urlencode(address.parameters)}" if after else "",
        first_report=None if size.servers else _first_report(),
    )


def _parse_address(request: HttpRequest, problems: list[str]) -> FleetAddress:
    query = request.GET
    silence = parse_choice(query, "silence", list(SILENCES), problems)
    state = parse_choice(query, "state", ["silent"], problems)
    texts = {name: clean_text(query.get(name, "")) for name in ("product", "version", "search")}
    parameters = {**texts, "state": state, "silence": silence}
    wanted = FleetFilter(
        product=texts["product"],
        version=texts["version"] or None,
        search=texts["search"],
        is_silent=state == "silent",
        silence=SILENCES[silence][1] if silence else None,
    )
    return FleetAddress({name: value for name, value in parameters.items() if value}, wanted)


def _options(values: Sequence[str], labels: Sequence[str], chosen: str) -> list[Option]:
    return [Option(value, label, value == chosen) for value, label in zip(values, labels, strict=True)]


def _after(servers: TenantQuerySet, cursor: str) -> TenantQuerySet:
    """Narrow to the rows after the cursor's; one that is none of ours begins anew."""
    if not cursor:
        return servers
    try:
        last_seen, pk = decode_cursor(cursor, length=2)
        last_seen_at = parse_time(last_seen)
    except (InvalidInput, ValueError):
        return servers
    if not isinstance(pk, int):
        return servers
    return servers.filter(Q(last_seen_at__lt=last_seen_at) | Q(last_seen_at=last_seen_at, pk__lt=pk))


def _page_url(address: FleetAddress, last: Server) -> str:
    cursor = encode_cursor(last.last_seen_at.astimezone(UTC).isoformat(), last.pk)
    return f"?{urlencode({**address.parameters, 'after': cursor})}"


def _version_lines(organization: Organization) -> list[VersionLine]:
    rows = list_versions(organization=organization, limit=MAX_VERSIONS_SHOWN)
    return [VersionLine(f"?{urlencode({'product': row.product, 'version': row.version})}", row) for row in rows]


def _server_row(organization: Organization, server: Server, silence: timedelta | None, now: datetime) -> ServerRow:
    return ServerRow(
        url=reverse("influx:server", args=[organization.pk, server.pk]),
        name=server_name(server),
        product=server.product,
        version=server.version,
        cluster_id=server.cluster_id,
        cluster_url=f"?{urlencode({'search': server.cluster_id})}" if server.cluster_id else "",
        last_seen_at=server.last_seen_at,
        is_silent=is_silent(server, silence, now),
    )


def is_silent(server: Server, silence: timedelta | None, now: datetime) -> bool:
    """Tell of one row what `queries.fleet.silent_since` asks of all."""
    return server.silent_at <= now if silence is None else server.last_seen_at <= now - silence


def server_name(server: Server) -> str:
    """Name a server by its host or its id or, where it says neither, by what runs on it."""
    return server.host or server.server_id or f"a server of {server.cluster_id or server.product}"


def _first_report() -> FirstReport:
    url = settings.PUBLIC_URL
    return FirstReport(
        go=(
            'import "github.com/influxdata/usage-client/v1"\n\n'
            f'client.URL = "{url}"\n'
            'c := client.New("mb_…")  // an API key with the scope events:write\n\n'
            "c.Save(client.Server{\n"
            '    ClusterID: "clus1", ServerID: "serv1", Host: "example.com",\n'
            '    Product: "influxdb", Version: "1.0",\n'
            "})"
        ),
        curl=(
            f"curl {url}/api/v1/usage/influxdb \\\n"
            '  -H "X-Authorization: $METERBOOK_API_KEY" \\\n'
            '  -H "Content-Type: application/json" \\\n'
            '  -d \'[{"values": {"cluster_id": "clus1", "server_id": "serv1", "num_series": 87232}}]\''
        ),
        start_url=f"{url}/start?{urlencode({'cluster_id': 'clus1', 'product': 'influxdb'})}",
    )
