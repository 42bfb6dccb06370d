"""Usage as the server answers it. Quantities are `Decimal`, times aware UTC, ranges half-open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from meterbook.periods import Period, optional_time, parse_time
from meterbook.quantities import optional_decimal, to_decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The numbers of one metric over some events.

    `value` is the metric's own aggregation; the others are None where the metric does not keep them or there is no
    event.
    """

    value: Decimal
    count: int
    sum: Decimal | None
    min: Decimal | None
    max: Decimal | None
    unique: int | None
    last_value: Decimal | None
    last_event_at: datetime | None


def _numbers(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": to_decimal(body["value"]),
        "count": int(body["count"]),
        "sum": optional_decimal(body.get("sum")),
        "min": optional_decimal(body.get("min")),
        "max": optional_decimal(body.get("max")),
        "unique": None if body.get("unique") is None else int(body["unique"]),
        "last_value": optional_decimal(body.get("last_value")),
        "last_event_at": optional_time(body.get("last_event_at")),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Statistics):
    """One metric over one range: of one customer, or of all (`customer` None).

    `alert_flags` names the thresholds that the period has crossed.
    """

    customer: str | None
    metric: str
    period: Period
    alert_flags: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Usage:
        return cls(
            customer=body.get("customer"),
            metric=body["metric"],
            period=Period.from_json(body["period"]),
            alert_flags=tuple(body.get("alert_flags") or ()),
            **_numbers(body),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakdownRow(Statistics):
    """One group of a breakdown. A dimension that the events lack is None."""

    group: Mapping[str, str | None]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> BreakdownRow:
        return cls(group=dict(body["group"]), **_numbers(body))


@dataclass(frozen=True, slots=True)
class Point:
    """The value of one bucket, named by its start. `is_partial`: the range or the present cuts the bucket short."""

    start: datetime
    value: Decimal
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one group, one for every bucket of the range."""

    group: Mapping[str, str | None]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """Usage over time. All series share one time axis; events before `complete_through` are all in."""

    period: Period
    granularity: str
    tz: str
    complete_through: datetime | None
    series: tuple[Series, ...]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> SeriesResult:
        partial = set(body.get("partial") or ())
        return cls(
            period=Period(parse_time(body["start"]), parse_time(body["end"])),
            granularity=body["granularity"],
            tz=body["tz"],
            complete_through=optional_time(body.get("complete_through")),
            series=tuple(
                Series(
                    group=dict(series.get("group") or {}),
                    points=tuple(
                        Point(parse_time(start), to_decimal(value), start in partial)
                        for start, value in series["points"]
                    ),
                )
                for series in body["series"]
            ),
        )
