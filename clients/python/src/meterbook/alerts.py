"""Alerts, and the thresholds whose crossings they tell, as the server answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from meterbook.periods import Period, parse_time
from meterbook.quantities import optional_decimal, to_decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One crossing of a threshold, as the organization's log keeps it.

    `offset` numbers the log: 1, 2, 3 … without gaps, in the order of commits. `customer` is None where the metric as
    a whole is meant (a silence). `period` is the one whose usage reached the threshold.
    """

    offset: int
    customer: str | None
    metric: str
    threshold_code: str
    threshold_value: Decimal
    value_at_cross: Decimal
    period: Period
    triggered_at: datetime

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Alert:
        return cls(
            offset=int(body["offset"]),
            customer=body.get("customer"),
            metric=body["metric"],
            threshold_code=body["threshold_code"],
            threshold_value=to_decimal(body["threshold_value"]),
            value_at_cross=to_decimal(body["value_at_cross"]),
            period=Period.from_json(body["period"]),
            triggered_at=parse_time(body["triggered_at"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredThreshold:
    """A threshold of its own on the server: of one customer, or (`customer` None) of each.

    Exactly one of `value`, `percent_of_included`, `projected` and `silence_seconds` is set. `origin` is `own`, or who
    declares it: `metric` or `quota`; only own ones can be changed by themselves.
    """

    id: str
    code: str
    metric: str
    customer: str | None
    value: Decimal | None
    percent_of_included: Decimal | None
    projected: Decimal | None
    silence_seconds: int | None
    filters: Mapping[str, tuple[str, ...]]
    recurring: bool
    origin: str
    created_at: datetime

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> StoredThreshold:
        seconds = body.get("silence_seconds")
        return cls(
            id=str(body["id"]),
            code=body["code"],
            metric=body["metric"],
            customer=body.get("customer"),
            value=optional_decimal(body.get("value")),
            percent_of_included=optional_decimal(body.get("percent_of_included")),
            projected=optional_decimal(body.get("projected")),
            silence_seconds=None if seconds is None else int(seconds),
            filters={key: tuple(values) for key, values in (body.get("filter") or {}).items()},
            recurring=bool(body.get("recurring")),
            origin=str(body.get("origin") or "own"),
            created_at=parse_time(body["created_at"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdTrace:
    """Why a threshold fired, or did not, in the current period. `explanation` is for people, `outcome` for programs.

    `value` is what is compared with `level`; None where there is nothing to compare. `last_evaluation` is the
    server's own record, as it answers it.
    """

    threshold_id: str
    customer: str | None
    metric: str
    period: Period
    usage: Decimal
    value: Decimal | None
    level: Decimal | None
    outcome: str
    explanation: str
    crossings: tuple[Alert, ...]
    last_evaluation: Mapping[str, Any] | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> ThresholdTrace:
        return cls(
            threshold_id=str(body["threshold"]["id"]),
            customer=body.get("customer"),
            metric=body["metric"],
            period=Period.from_json(body["period"]),
            usage=to_decimal(body["usage"]),
            value=optional_decimal(body.get("value")),
            level=optional_decimal(body.get("level")),
            outcome=body["outcome"],
            explanation=body["explanation"],
            crossings=tuple(Alert.from_json(crossing) for crossing in body.get("crossings") or ()),
            last_evaluation=body.get("last_evaluation"),
        )
