"""Fields that several of billing's shapes have, the billing period among them."""

from __future__ import annotations

import re
from typing import Any

from rest_framework import serializers

from billing.domain.periods import BillingPeriod
from billing.queries.billing_usage import CURRENT, LAST
from common.api import Text
from metering.api.serializers import ExactText

MONTH = re.compile(r"(\d{4})-(\d{2})\Z", re.ASCII)
FIRST_YEAR, LAST_YEAR = 1970, 9000
MAX_KEY_CHARACTERS = 255


class MonthField(Text):
    """A month, `2025-01`, as its two numbers."""

    def to_internal_value(self, data: Any) -> Any:
        month = MONTH.match(super().to_internal_value(data))
        if month is None or not FIRST_YEAR <= int(month[1]) <= LAST_YEAR or not 1 <= int(month[2]) <= 12:
            raise serializers.ValidationError("Give a month like 2025-01.", "invalid_period")
        return int(month[1]), int(month[2])


class MonthNameField(MonthField):
    """A month, `2025-01`, as its own text; or `current`, or `last`."""

    def to_internal_value(self, data: Any) -> Any:
        if data in (CURRENT, LAST):
            return data
        year, month = super().to_internal_value(data)
        return f"{year:04}-{month:02}"


class IdempotencyKey(ExactText):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MAX_KEY_CHARACTERS, **options)


class PeriodRead(serializers.Serializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    is_trial = serializers.BooleanField()


def period_json(period: BillingPeriod) -> dict[str, Any]:
    return {"start": period.start, "end": period.end, "is_trial": period.is_trial}
