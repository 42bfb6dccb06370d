"""Any read of any history equals a count over its raw events (rule 2 of the design), and so does its JSON.

`METERBOOK_PROPERTY_CASES=20000 pytest tests/metering/test_property_usage.py` asks that many questions of fresh
random histories; without it, the same few hundred every time. With `METERBOOK_PROPERTY_SHRINK=1` a failing history
is made smaller before it is shown, which takes minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, note, settings

from metering import queries
from metering.domain import Granularity, Mode
from metering.queries import Usage
from metering.services.ingest import IngestResult
from metering.services.rebuild import Difference, list_slices, verify_slice
from metering.services.retention import prune_organization
from tests.metering.brute_force import BruteForce, Group, Numbers, Point, SentEvent
from tests.metering.histories import METRICS, History, Prune, Question, Replace, RollUp, Send, Step, Void, histories
from tests.metering.meter import Meter

QUESTIONS_PER_HISTORY = 20
CASES = int(os.environ.get("METERBOOK_PROPERTY_CASES", "0"))
DEFAULT_CASES = 600
# Every so many questions one is asked over HTTP as well.
HTTP_EVERY = 4

WIDE = Context(prec=400)


@pytest.mark.django_db
@pytest.mark.timeout(0)
def test_every_read_of_a_random_history_equals_a_count_over_its_raw_events(meter: Meter, api_client: Client) -> None:
    for metric in METRICS:
        meter.define(
            metric.code,
            metric.aggregation,
            event_type=metric.event_type,
            value_property=metric.value_property or "",
            dimensions=[
                {"key": dimension.key, "values": dimension.values and list(dimension.values)}
                for dimension in metric.dimensions
            ],
        )

    @settings(
        max_examples=(CASES or DEFAULT_CASES) // QUESTIONS_PER_HISTORY,
        deadline=None,
        derandomize=not CASES,
        database=None,
        phases=[Phase.generate, Phase.shrink] if "METERBOOK_PROPERTY_SHRINK" in os.environ else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories(question_count=QUESTIONS_PER_HISTORY))
    def check(history: History) -> None:
        note(repr(history))
        with transaction.atomic():
            play = Play(meter, api_client, history.begins_at)
            for step in history.steps:
                play.take(step)
            play.verify_rollups()
            for place, question in enumerate(history.questions):
                play.ask(question)
                if place % HTTP_EVERY == 0:
                    play.ask_over_http(question)
            transaction.set_rollback(True)

    check()


@dataclass
class Play:
    """Tells the application and the brute force the same history, and asks both the same questions."""

    meter: Meter
    client: Client
    now: datetime
    truth: BruteForce = field(default_factory=lambda: BruteForce(METRICS))
    times: list[datetime] = field(default_factory=list)
    # Customers of stored events, and of all: whether a refused event creates its customer is nobody's business.
    customers: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)

    # --- telling ---

    def take(self, step: Step) -> None:
        self.now += step.pause
        self.times.append(self.now)
        match step.act:
            case Send(events):
                result = self.meter.send(*map(as_json, events), at=self.now)
                verdicts = self.truth.send(events, now=self.now)
                assert_verdicts(result, verdicts)
                self._see(events, verdicts)
            case Void(pick):
                if key := self._pick(pick):
                    self.truth.void(key, now=self.now)
                    self.meter.void(key, at=self.now)
            case Replace(pick, event):
                if (key := self._pick(pick)) and self.truth.send([event], now=self.now) == ["stored"]:
                    self.truth.void(key, now=self.now)
                    self.meter.replace(key, as_json(event), at=self.now)
                    self._see([event], ["stored"])
            case RollUp():
                self.meter.roll_up(at=self.now)
            case Prune():
                prune_organization(organization=self.meter.organization, now=self.now)

    def _see(self, events: Iterable[SentEvent], verdicts: Iterable[str]) -> None:
        for event, verdict in zip(events, verdicts, strict=True):
            self.named.add(event.customer)
            if verdict == "stored":
                self.customers.add(event.customer)

    def _pick(self, pick: int) -> str | None:
        """Return the key of one event that counts."""
        keys = [key for key, event in self.truth.known.items() if event.voided_at is None]
        return keys[pick % len(keys)] if keys else None

    def verify_rollups(self) -> None:
        """The stored buckets, one by one, are what the operator's own recount makes of the raw events."""
        differences: list[Difference] = []
        organization = self.meter.organization
        for piece in list_slices(organization=organization):
            verify_slice(organization=organization, span=piece.span, report=differences.append)
        assert differences == []

    # --- asking ---

    def ask(self, question: Question) -> None:
        if question.customer is not None and question.customer not in self.customers:
            return
        names: dict[str, Any] = {
            "organization": self.meter.organization,
            "metric": self.meter.metrics[question.metric.code],
            "customer_id": question.customer and self.meter.customer_id(question.customer),
            "as_of": self._as_of(question),
            **question.selection(),
        }
        match question.kind:
            case "usage":
                assert numbers_of(queries.get_usage(**names)) == self._true_usage(question)
                if question.customer is not None and not question.filters:
                    counted = queries.iterate_counted_events(
                        **{name: value for name, value in names.items() if name != "filters"}, limit=1000
                    )
                    assert [event.idempotency_key for event in counted] == self._true_keys(question)
            case "breakdown":
                rows = queries.list_breakdown(group_by=question.group_by, **names)
                found = {tuple(row.group[key] for key in question.group_by): numbers_of(row.usage) for row in rows}
                assert len(found) == len(rows)
                assert found == self._true_breakdown(question)
                assert [row.usage.value for row in rows] == sorted((row.usage.value for row in rows), reverse=True)
                self._ask_per_customer(question, names)
                if names.pop("as_of") is None:
                    groups = queries.list_groups(group_by=question.group_by, **names)
                    assert sorted(map(repr, groups)) == sorted(repr(row.group) for row in rows)
                    self._ask_running(question)
            case _:
                series = queries.get_series(
                    granularity=Granularity(question.granularity),
                    zone=question.zone,
                    mode=Mode(question.mode),
                    group_by=question.group_by,
                    now=self.now,
                    **names,
                )
                found_points = {
                    tuple(line.group[key] for key in question.group_by): [
                        Point(point.start, Fraction(point.value), point.is_partial) for point in line.points
                    ]
                    for line in series.lines
                }
                assert found_points == self._true_series(question, self.now)

    def _ask_per_customer(self, question: Question, names: Mapping[str, Any]) -> None:
        """Ask the breakdown once more, of every customer by its id."""
        asked = self.customers if question.customer is None else {question.customer}
        by_id = {self.meter.customer_id(name): name for name in asked}
        keys = tuple(key for key in question.group_by if key != "customer")
        customers = queries.list_customer_groups(
            group_by=keys,
            customer_ids=by_id.keys(),
            **{name: value for name, value in names.items() if name != "customer_id"},
        )
        found = {
            (by_id[customer_id], *(group[key] for key in keys)): Fraction(value)
            for customer_id, groups in customers.items()
            for group, value in groups
        }
        assert len(found) == sum(map(len, customers.values()))
        expected = self._true_breakdown(replace(question, group_by=("customer", *keys)))
        assert found == {group: numbers.value for group, numbers in expected.items()}

    def _ask_running(self, question: Question) -> None:
        """Ask how the groups of one customer grew, in three steps, to what they are at the end."""
        customer = question.customer or min(self.customers, default=None)
        third = (question.end - question.start) // 3
        if customer is None or not third:
            return
        edges = [question.start, question.start + third, question.start + 2 * third, question.end]
        keys = tuple(key for key in question.group_by if key != "customer")
        groups = queries.list_running_groups(
            organization=self.meter.organization,
            metric=self.meter.metrics[question.metric.code],
            edges=edges,
            group_by=keys,
            customer_id=self.meter.customer_id(customer),
            filters=question.filters,
        )
        for place, edge in enumerate(edges[1:]):
            expected = self._true_breakdown(replace(question, customer=customer, end=edge, group_by=keys))
            found = {tuple(group[key] for key in keys): Fraction(values[place]) for group, values in groups}
            assert {group: value for group, value in found.items() if value} == {
                group: numbers.value for group, numbers in expected.items() if numbers.value
            }

    def ask_over_http(self, question: Question) -> None:
        path = "/v1/usage" + {"usage": "", "breakdown": "/breakdown", "series": "/series"}[question.kind]
        if question.kind == "breakdown" and not question.group_by:
            return  # over HTTP a breakdown names what it breaks down by
        if any(None in values for values in question.filters.values()):
            return  # nor can a query say that an event lacks something
        response = self.client.get(f"{path}?{urlencode(self._parameters(question), doseq=True)}")
        if question.customer is not None and question.customer not in self.customers:
            assert response.status_code == 404 or question.customer in self.named
            return
        body = response.json()
        assert response.status_code == 200, body
        match question.kind:
            case "usage":
                assert json_numbers(body) == text_numbers(self._true_usage(question))
            case "breakdown":
                expected = self._true_breakdown(question)
                assert {
                    tuple(row["group"][key] for key in question.group_by): json_numbers(row) for row in body["rows"]
                } == {group: text_numbers(numbers) for group, numbers in expected.items()}
            case _:
                lines = self._true_series(question, timezone.now())
                assert {
                    tuple(line["group"][key] for key in question.group_by): line["points"] for line in body["series"]
                } == {
                    group: [[text_of_time(point.start), text_of(point.value)] for point in points]
                    for group, points in lines.items()
                }
                partial = {text_of_time(point.start) for points in lines.values() for point in points if point[2]}
                assert body["partial"] == sorted(partial)

    def _as_of(self, question: Question) -> datetime | None:
        if question.as_of is None:
            return None
        step, later = question.as_of
        return self.times[step] + later

    def _parameters(self, question: Question) -> dict[str, Any]:
        parameters: dict[str, Any] = {"metric": question.metric.code}
        parameters |= {"from": question.start.isoformat(), "to": question.end.isoformat()}
        parameters |= {f"filter[{key}]": values for key, values in question.filters.items()}
        if question.customer is not None:
            parameters["customer"] = question.customer
        if as_of := self._as_of(question):
            parameters["as_of"] = as_of.isoformat()
        if question.kind != "usage" and question.group_by:
            parameters["group_by"] = question.group_by
        if question.kind == "series":
            parameters |= {"granularity": question.granularity, "tz": question.zone, "mode": question.mode}
        return parameters

    # --- the truth ---

    def _true_usage(self, question: Question) -> Numbers:
        return self.truth.usage(
            question.metric, customer=question.customer, as_of=self._as_of(question), **question.selection()
        )

    def _true_keys(self, question: Question) -> list[str]:
        return self.truth.list_keys(
            question.metric, question.start, question.end, customer=question.customer, as_of=self._as_of(question)
        )

    def _true_breakdown(self, question: Question) -> dict[Group, Numbers]:
        return self.truth.breakdown(
            question.metric,
            group_by=question.group_by,
            customer=question.customer,
            as_of=self._as_of(question),
            **question.selection(),
        )

    def _true_series(self, question: Question, now: datetime) -> dict[Group, list[Point]]:
        return self.truth.series(
            question.metric,
            granularity=question.granularity,
            zone=question.zone,
            mode=question.mode,
            group_by=question.group_by,
            now=now,
            customer=question.customer,
            as_of=self._as_of(question),
            **question.selection(),
        )


def assert_verdicts(result: IngestResult, expected: list[str]) -> None:
    assert result.stored == expected.count("stored")
    assert result.duplicates == expected.count("duplicate")
    refused = {place: code for place, code in enumerate(expected) if code not in {"stored", "duplicate"}}
    assert {error.index: error.code for error in result.errors} == refused


# --- the same things in other words ---------------------------------------------------------------------------


def as_json(event: SentEvent) -> dict[str, Any]:
    sent: dict[str, Any] = {
        "idempotency_key": event.key,
        "customer": event.customer,
        "type": event.type,
        "properties": dict(event.properties),
        "operation": event.operation,
    }
    if event.value is not None:
        sent["value"] = event.value
    if event.timestamp is not None:
        sent["timestamp"] = event.timestamp.isoformat()
    return sent


def numbers_of(usage: Usage) -> Numbers:
    def fraction(value: Decimal | None) -> Fraction | None:
        return None if value is None else Fraction(value)

    return Numbers(
        Fraction(usage.value),
        usage.count,
        fraction(usage.sum),
        fraction(usage.min),
        fraction(usage.max),
        usage.unique,
        fraction(usage.last_value),
        usage.last_event_at,
    )


def json_numbers(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in Numbers._fields}


def text_numbers(numbers: Numbers) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Fraction):
            return text_of(value)
        return text_of_time(value) if isinstance(value, datetime) else value

    return {name: plain(value) for name, value in numbers._asdict().items()}


def text_of(value: Fraction) -> str:
    """Return every digit of a decimal fraction, without trailing zeros."""
    text = format(WIDE.divide(Decimal(value.numerator), Decimal(value.denominator)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def text_of_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
