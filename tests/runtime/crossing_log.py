"""A hand on one organization's crossing log for tests: appends as the evaluation does, with made-up crossings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

from django.db import connection, transaction
from psycopg.conninfo import make_conninfo

from accounts.models import Customer, Organization
from alerts.alert_stream import Alert
from alerts.models import AlertLog, Crossing, Threshold
from alerts.services.log import append_crossings, ensure_log
from alerts.services.thresholds import ThresholdDefinition, create_threshold
from metering.catalogs import MetricDefinition
from metering.models import Aggregation
from metering.services.metrics import create_metric
from tests import factories
from tests.runtime.alert_reader import Message

MOMENT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Log:
    """A hand on one organization's crossing log: appends as the evaluation does, with made-up crossings."""

    def __init__(self, organization: Organization) -> None:
        self.organization = organization
        self.customers: dict[str, Customer] = {}
        self.thresholds: dict[str, Threshold] = {}
        self._multiples = count(1)
        ensure_log(organization)

    def append(self, how_many: int = 1, *, customer: str = "cust_42", metric: str = "calls") -> None:
        """Append in one transaction."""
        crossings = self._make(how_many, customer, metric)
        with transaction.atomic():
            append_crossings(organization=self.organization, crossings=crossings)

    def append_unheard(self, how_many: int, *, customer: str = "cust_42", metric: str = "calls") -> None:
        """Append without the notification, as if it were lost on its way."""
        crossings = self._make(how_many, customer, metric)
        with transaction.atomic():
            log = AlertLog.objects.for_organization(self.organization).select_for_update().get()
            for crossing in crossings:
                log.last_offset += 1
                crossing.offset = log.last_offset
            log.save()
            Crossing.objects.bulk_create(crossings)

    def _make(self, how_many: int, customer: str, metric: str) -> list[Crossing]:
        threshold, owner = self._threshold(metric), self._customer(customer)
        return [
            Crossing(
                organization=self.organization,
                threshold=threshold,
                metric=threshold.metric,
                customer=owner,
                period_start=MOMENT,
                period_end=MOMENT + timedelta(days=30),
                multiple=next(self._multiples),
                threshold_code=threshold.code,
                threshold_value=Decimal("100.50"),
                previous_value=Decimal(99),
                value_at_cross=Decimal(101),
                triggered_at=MOMENT,
            )
            for _ in range(how_many)
        ]

    def _customer(self, name: str) -> Customer:
        if name not in self.customers:
            self.customers[name] = factories.make_customer(organization=self.organization, external_id=name)
        return self.customers[name]

    def _threshold(self, code: str) -> Threshold:
        if code not in self.thresholds:
            definition = MetricDefinition(code, Aggregation.SUM, event_type=code)
            metric = create_metric(organization=self.organization, definition=definition, actor="test")
            watched = ThresholdDefinition(code="cap", value=Decimal(100))
            self.thresholds[code] = create_threshold(
                organization=self.organization, metric=metric, definition=watched, actor="test"
            )
        return self.thresholds[code]


def append_slowly(log: Log, how_many: int) -> None:
    """Append one after the other; for a thread of its own."""
    try:
        for _ in range(how_many):
            log.append()
    finally:
        connection.close()  # this thread's own


def offsets(messages: Sequence[Message | Alert]) -> list[int]:
    return [message.offset for message in messages]


def database_url() -> str:
    return make_conninfo(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"])
