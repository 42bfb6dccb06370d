"""A hand on metering and alerts for tests: send, roll up, evaluate, and read what crossed. Adds no rules of its own."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from accounts.models import Customer
from alerts.domain import ThresholdKind
from alerts.models import Crossing, Threshold
from alerts.services.evaluation import Evaluated, evaluate_organization
from alerts.services.thresholds import ThresholdDefinition, create_threshold
from tests.metering.meter import Meter


class Told(NamedTuple):
    """One crossing as tests write it."""

    customer: str | None
    code: str
    level: Decimal
    value: Decimal


class Watch(Meter):
    def threshold(
        self, metric: str, code: str, value: int | str, *, customer: str | None = None, **fields: Any
    ) -> Threshold:
        found = Customer.objects.for_organization(self.organization).filter(external_id=customer).first()
        assert customer is None or found is not None, "a customer that has sent something"
        definition = ThresholdDefinition(
            code=code,
            value=Decimal(value),
            kind=ThresholdKind(fields.pop("kind", ThresholdKind.VALUE)),
            customer=found,
            **fields,
        )
        return create_threshold(
            organization=self.organization, metric=self.metrics[metric], definition=definition, actor="test"
        )

    def evaluate(self, *, at: datetime | None = None) -> Evaluated:
        """Roll up and evaluate, as the worker does after an ingest."""
        self.roll_up(at=at)
        return evaluate_organization(organization_id=self.organization.pk, now=at or self.now)

    def use(
        self, customer: str, value: int | str, *, metric: str = "m", at: datetime | None = None, **more: Any
    ) -> None:
        """Send one event and evaluate."""
        self.send_all({"customer": customer, "type": metric, "value": value, **more}, at=at)
        self.evaluate(at=at)

    def told(self) -> list[Told]:
        """Return the whole log, and check that its offsets have no gap."""
        crossings = Crossing.objects.for_organization(self.organization).select_related("customer").order_by("offset")
        assert [crossing.offset for crossing in crossings] == list(range(1, len(crossings) + 1))
        return [
            Told(
                crossing.customer.external_id if crossing.customer else None,
                crossing.threshold_code,
                crossing.threshold_value,
                crossing.value_at_cross,
            )
            for crossing in crossings
        ]
