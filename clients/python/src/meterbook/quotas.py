"""Quotas, what the server says about them, and reservations, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from meterbook.periods import optional_time, parse_time
from meterbook.quantities import optional_decimal, to_decimal


class QuotaMode(StrEnum):
    """What happens at the limit: refuse (hard), refuse beyond the grace (soft), or only tell (warn)."""

    HARD = "hard"
    SOFT = "soft"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much of a metric one customer, or (`customer` None) each, may use per period. `limit` None: unlimited."""

    id: str
    metric: str
    customer: str | None
    limit: Decimal | None
    mode: QuotaMode
    grace: Decimal
    warning_percents: tuple[int, ...]
    created_at: datetime | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Quota:
        return cls(
            id=str(body["id"]),
            metric=body["metric"],
            customer=body.get("customer"),
            limit=optional_decimal(body.get("limit")),
            mode=QuotaMode(body["mode"]),
            grace=to_decimal(body.get("grace") or 0),
            warning_percents=tuple(int(percent) for percent in body.get("warning_percents") or ()),
            created_at=optional_time(body.get("created_at")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaVerdict:
    """Whether an amount fits. `limit` and `remaining` are None where there is no limit.

    `used` counts what others hold at the moment, too. `level` is ok, warning, grace or exceeded; at `reset_at` the
    next period begins.
    """

    allowed: bool
    limit: Decimal | None
    used: Decimal
    remaining: Decimal | None
    reset_at: datetime | None
    level: str | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> QuotaVerdict:
        level = body.get("level")
        return cls(
            allowed=bool(body["allowed"]),
            limit=optional_decimal(body.get("limit")),
            used=to_decimal(body.get("used") or 0),
            remaining=optional_decimal(body.get("remaining")),
            reset_at=optional_time(body.get("reset_at")),
            level=None if level is None else str(level),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An amount held for a customer until it is committed, released, or `expires_at` has come.

    `state` is open, expired, committed or released; `quota` is how the quota stands with it.
    """

    id: str
    customer: str
    metric: str
    amount: Decimal
    state: str
    committed_amount: Decimal | None
    expires_at: datetime
    quota: QuotaVerdict | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Reservation:
        quota = body.get("quota")
        return cls(
            id=body["id"],
            customer=body["customer"],
            metric=body["metric"],
            amount=to_decimal(body["amount"]),
            state=body["state"],
            committed_amount=optional_decimal(body.get("committed_amount")),
            expires_at=parse_time(body["expires_at"]),
            quota=None if quota is None else QuotaVerdict.from_json(quota),
        )
