"""What two customers did in fourteen months, drawn from a seeded random: the events that the tests send and count.

Owns the list alone: it is sent through the public API, and `oracle` counts it again. Days, hours and minutes before
`now` are drawn, so every run has the same events at other times; the edges of months and of UTC days are among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

ACME, GLOBEX = "acme", "globex"
DAYS = 425
MICROSECOND = timedelta(microseconds=1)

# Project and environment; the last two are what SDKs that know less send.
PLACES = [
    ("shop", "production"),
    ("shop", "staging"),
    ("pay", "production"),
    ("labs", "test"),
    ("pay", None),
    (None, None),
]
# Name, type, category and version.
SDKS = [
    ("JavaScript", "client", "browser", "3.1.0"),
    ("JavaScript", "client", "browser", "3.2.0"),
    ("iOS", "client", "mobile", "9.0.1"),
    ("Android", "client", "mobile", "5.4.0"),
    ("Go", "server", "backend", "7.5.0"),
    ("Python", "server", "backend", "9.2.0"),
    (None, "client", None, None),
    (None, "server", "backend", None),
]
# Some SDKs say themselves what reports say of the others.
APPS = ["web", "phone", "till", "Unknown", None]
OBSERVED = ["errors", "logs", "metrics", "sessions", "traces"]

Properties = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event as it is sent. `value` is None where keys are counted; absent properties are not among them."""

    key: str
    customer: str
    type: str
    at: datetime
    value: Decimal | None
    properties: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "idempotency_key": self.key,
            "customer": self.customer,
            "type": self.type,
            "timestamp": self.at.isoformat(),
            "properties": self.properties,
        }
        return body if self.value is None else body | {"value": str(self.value)}


def draw_events(now: datetime) -> list[SentEvent]:
    """Return the events in the order in which they are sent, which is that of neither time nor type."""
    random = Random(2024)
    events: list[SentEvent] = []
    for type, (count, draw) in KINDS.items():
        for number, at in enumerate(_draw_times(random, now, count)):
            value, properties = draw(random, at, now)
            customer = random.choices([ACME, GLOBEX], [3, 1])[0]
            present = {name: text for name, text in properties.items() if text is not None}
            events.append(SentEvent(f"{type}-{number}", customer, type, at, value, present))
    random.shuffle(events)
    return events


def _draw_times(random: Random, now: datetime, count: int) -> Iterator[datetime]:
    """Half over all the time, a quarter in the last 70 days, then the last two days and hours, and every edge."""
    for _ in range(count // 2):
        yield now - random.random() * timedelta(days=DAYS)
    for _ in range(count // 4):
        yield now - random.random() * timedelta(days=70)
    for _ in range(count // 8):
        yield now - random.random() * timedelta(days=2)
    for _ in range(count // 8):
        yield now - random.random() * timedelta(hours=2)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for days in range(0, DAYS, 7):
        yield from _around(random, midnight - timedelta(days=days), now)
    month = midnight.replace(day=1)
    while month > now - timedelta(days=DAYS):
        yield from _around(random, month, now)
        month = (month - timedelta(days=1)).replace(day=1)


def _around(random: Random, edge: datetime, now: datetime) -> Iterator[datetime]:
    yield random.choice([edge - MICROSECOND, edge, min(edge + MICROSECOND, now)])


# --- one function per metric: value and properties -----------------------------------------------------------------


def _draw_context(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    name, type, category, _ = random.choices(SDKS, [4, 2, 3, 3, 4, 3, 1, 1])[0]
    # Every third month phones are seen more often than people, so that the primary kind of months differs.
    phones = 12 if at.month % 3 == 0 else 4
    kind = random.choices(["user", "device", "organization", None], [8, phones, 2, 1])[0]
    # A key stands for another person in each kind, and turns up in several projects and SDKs.
    return None, {
        **_draw_place(random),
        "contextKey": f"{kind}-{random.randrange(90)}" if random.random() < 0.9 else f"shared-{random.randrange(9)}",
        "contextKind": kind,
        "sdkName": name,
        "sdkType": type,
        "sdkAppId": random.choice(APPS),
        "anonymous": random.choice(["true", "false", "false", None]),
        "category": category,
    }


def _draw_exported(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return Decimal(random.randrange(1, 90)), {
        **_draw_place(random),
        "eventKind": random.choice(["feature", "index", "click", None]),
        "destinationKind": random.choice(["kinesis", "segment", None]),
        "destinationId": random.choice(["warehouse", "lake", None]),
    }


def _draw_experiment_event(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return Decimal(random.randrange(1, 90)), {
        **_draw_place(random),
        "eventKey": random.choice(["bought", "page viewed", "a/b&c=d", "größer", None]),
        "eventKind": random.choice(["custom", "page view", None]),
    }


def _draw_experiment_key(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return None, {
        **_draw_place(random),
        "contextKey": f"user-{random.randrange(60)}",
        "experimentId": random.choice(["short-form", "free-delivery", None]),
    }


def _draw_connection(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    name, type, _, version = random.choice(SDKS)
    return Decimal(random.randrange(1, 90_000)).scaleb(-3), {
        **_draw_place(random),
        "connectionType": random.choice(["sdk", "relay", None]),
        "relayVersion": random.choice(["8.10.1", None]),
        "sdkName": name,
        "sdkVersion": version,
        "sdkType": type,
        "sdkAppId": random.choice(APPS),
    }


def _draw_evaluation(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return Decimal(random.randrange(1, 900)), {
        **_draw_place(random),
        "flagKey": random.choice(["new-checkout", "new-checkout", "dark.mode", None]),
        "variation": random.choice(["on", "off", "half on", None]),
    }


def _draw_traffic(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return Decimal(random.randrange(1, 900)), {"direction": random.choice(["received", "published"])}


def _draw_stream(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    name, type, category, version = random.choice(SDKS)
    # An SDK of which nothing has been heard for two months is in no list.
    if now - at > timedelta(days=65) and random.random() < 0.3:
        name, version = "Perl", "0.9"
    source = category if category in {"browser", "mobile"} and random.random() < 0.3 else type
    return Decimal(random.randrange(1, 9)), {"source": source, "sdkName": name, "sdkVersion": version}


def _draw_of_project(random: Random, at: datetime, now: datetime) -> tuple[Decimal | None, Properties]:
    return Decimal(random.randrange(1, 900)), {"projectKey": _draw_place(random)["projectKey"]}


def _draw_place(random: Random) -> Properties:
    project, environment = random.choices(PLACES, [6, 3, 4, 2, 1, 1])[0]
    return {"projectKey": project, "environmentKey": environment}


Draw = Callable[[Random, datetime, datetime], tuple[Decimal | None, Properties]]

# How many of each, without the edges.
KINDS: dict[str, tuple[int, Draw]] = {
    "ld_contexts": (1000, _draw_context),
    "ld_data_export_events": (240, _draw_exported),
    "ld_experimentation_events": (240, _draw_experiment_event),
    "ld_experimentation_keys": (400, _draw_experiment_key),
    "ld_service_connection_minutes": (240, _draw_connection),
    "ld_evaluations": (400, _draw_evaluation),
    "ld_events": (240, _draw_traffic),
    "ld_streams": (400, _draw_stream),
    **{f"ld_observability_{name}": (160, _draw_of_project) for name in OBSERVED},
    "ld_vega_ai": (160, _draw_of_project),
}
