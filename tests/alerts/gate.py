"""A hand on quotas for tests: limit, check, reserve, settle. Adds no rules of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from alerts.domain import QuotaMode, QuotaVerdict
from alerts.models import Quota, Reservation
from alerts.queries.quotas import check_quota
from alerts.services.quotas import QuotaDefinition, create_quota, update_quota
from alerts.services.reservations import (
    Held,
    QuotaExceeded,
    commit_reservation,
    release_reservation,
    reserve_amount,
)
from tests.alerts.watch import Watch

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)


class Gate(Watch):
    def customer(self, external_id: str) -> Customer:
        customer, _ = Customer.objects.get_or_create(organization=self.organization, external_id=external_id)
        return customer

    def limit(
        self, value: int | str | None, *, metric: str = "m", customer: str | None = None, **settings: Any
    ) -> Quota:
        definition = QuotaDefinition(
            limit=None if value is None else Decimal(value),
            customer=None if customer is None else self.customer(customer),
            mode=QuotaMode(settings.pop("mode", "hard")),
            grace=Decimal(settings.pop("grace", 0)),
            **settings,
        )
        return create_quota(
            organization=self.organization,
            metric=self.metrics[metric],
            definition=definition,
            actor="test",
            now=self.now,
        )

    def change(self, quota: Quota, **changes: Any) -> Quota:
        return update_quota(quota=quota, changes=changes, actor="test", now=self.now)

    def check(
        self, amount: int | str = 0, *, customer: str = "ann", metric: str = "m", at: datetime | None = None
    ) -> QuotaVerdict:
        return check_quota(
            organization=self.organization,
            metric=self.metrics[metric],
            customer=self.customer(customer),
            amount=Decimal(amount),
            now=at or self.now,
        ).verdict

    def used(self, *, customer: str = "ann", metric: str = "m", at: datetime | None = None) -> Decimal:
        return self.check(customer=customer, metric=metric, at=at).used

    def reserve(
        self,
        amount: int | str,
        *,
        customer: str = "ann",
        metric: str = "m",
        at: datetime | None = None,
        duration: timedelta = MINUTE,
        key: str = "",
    ) -> Held:
        return reserve_amount(
            organization=self.organization,
            metric=self.metrics[metric],
            customer=self.customer(customer),
            amount=Decimal(amount),
            now=at or self.now,
            duration=duration,
            idempotency_key=key,
        )

    def fits(self, amount: int | str, **selection: Any) -> bool:
        """Reserve; tell whether it was given."""
        try:
            self.reserve(amount, **selection)
        except QuotaExceeded:
            return False
        return True

    def commit(
        self,
        held: Held,
        amount: int | str | None = None,
        *,
        at: datetime | None = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
    ) -> Reservation:
        return commit_reservation(
            organization=self.organization,
            reservation=held.reservation,
            now=at or self.now,
            amount=None if amount is None else Decimal(amount),
            properties=properties,
            timestamp=timestamp,
        ).reservation

    def release(self, held: Held, *, at: datetime | None = None) -> Reservation:
        return release_reservation(
            organization=self.organization, reservation=held.reservation, now=at or self.now
        ).reservation
