"""Quotas (`client.quotas.*`), and asking for room in them (`client.quota.*`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from meterbook.events import PropertyValue, new_key, property_json
from meterbook.periods import time_text
from meterbook.quantities import Quantity, decimal_text
from meterbook.quotas import Quota, QuotaMode, QuotaVerdict, Reservation
from meterbook.wire import Call, Listing, Plan, one_object

QUOTAS_PATH = "/v1/quotas"
QUOTA_PATH = "/v1/quota"


class Unchanged:
    """The type of `UNCHANGED`, what `update` leaves as it is; None already means unlimited."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()


def create(
    metric: str,
    limit: Quantity | None,
    *,
    customer: str | None = None,
    mode: QuotaMode | str = QuotaMode.HARD,
    grace: Quantity = 0,
    warning_percents: Iterable[int] | None = None,
) -> Plan[Quota]:
    """Limit how much of a metric a customer, or without one each customer, may use per period (None: unlimited).

    A customer's own quota comes before the metric's. Raises `AlreadyExistsError` where there is one.
    """
    body = {
        "metric": metric,
        "limit": _optional_text(limit),
        "mode": str(mode),
        "grace": decimal_text(grace),
        **({} if customer is None else {"customer": customer}),
        **({} if warning_percents is None else {"warning_percents": list(warning_percents)}),
    }
    return Quota.from_json((yield from one_object(Call.post(QUOTAS_PATH, body))))


def list_all(*, metric: str | None = None, customer: str | None = None) -> Plan[list[Quota]]:
    """Return the quotas: all, or those of a metric, or a customer's own."""
    call = Call.get(QUOTAS_PATH, metric=metric, customer=customer, limit=1000)
    return (yield from Listing(call, Quota.from_json).all())


def get(quota_id: str) -> Plan[Quota]:
    """Return one quota. Raises `NotFoundError`."""
    return Quota.from_json((yield from one_object(Call.get(_path(quota_id)))))


def update(
    quota_id: str,
    *,
    limit: Quantity | Unchanged | None = UNCHANGED,
    mode: QuotaMode | str | None = None,
    grace: Quantity | None = None,
    warning_percents: Iterable[int] | None = None,
) -> Plan[Quota]:
    """Change the given fields; `limit=None` makes it unlimited."""
    body = {
        "mode": None if mode is None else str(mode),
        "grace": _optional_text(grace),
        "warning_percents": None if warning_percents is None else list(warning_percents),
    }
    given: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
    if not isinstance(limit, Unchanged):
        given["limit"] = _optional_text(limit)
    return Quota.from_json((yield from one_object(Call.send("PATCH", _path(quota_id), given, is_repeatable=True))))


def delete(quota_id: str) -> Plan[None]:
    """Remove a quota."""
    yield Call("DELETE", _path(quota_id))


def check(customer: str, metric: str, amount: Quantity = 1) -> Plan[QuotaVerdict]:
    """Ask whether the amount would fit now. Holds nothing: of two that were told yes, one may be refused later."""
    body = {"customer": customer, "metric": metric, "amount": decimal_text(amount)}
    call = Call.post(f"{QUOTA_PATH}/check", body, is_repeatable=True)
    return QuotaVerdict.from_json((yield from one_object(call)))


def reserve(
    customer: str,
    metric: str,
    amount: Quantity = 1,
    *,
    ttl_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Plan[Reservation]:
    """Hold an amount, so that nobody else gets it. Raises `QuotaExceededError` when it does not fit.

    The request carries a key, made here unless given, so a repetition gets the same reservation and holds nothing
    twice. What is neither committed nor released in `ttl_seconds` (a minute, unless given) is free again.
    """
    body = {
        "customer": customer,
        "metric": metric,
        "amount": decimal_text(amount),
        "ttl_seconds": ttl_seconds,
        "idempotency_key": idempotency_key or new_key(),
    }
    given = {name: value for name, value in body.items() if value is not None}
    call = Call.post(f"{QUOTA_PATH}/reserve", given, is_repeatable=True)
    return Reservation.from_json((yield from one_object(call)))


def commit(
    reservation_id: str,
    *,
    amount: Quantity | None = None,
    properties: Mapping[str, PropertyValue] | None = None,
    timestamp: datetime | int | str | None = None,
) -> Plan[Reservation]:
    """Turn a reservation into usage: the server stores the event, in one step with giving the hold back.

    `amount` is what was used in the end (by default what was reserved). Do not send an event for it as well.
    """
    body = {
        "amount": _optional_text(amount),
        "properties": {name: property_json(value) for name, value in (properties or {}).items()} or None,
        "timestamp": None if timestamp is None else time_text(timestamp),
    }
    given = {name: value for name, value in body.items() if value is not None}
    return (yield from _settle(reservation_id, "commit", given))


def release(reservation_id: str) -> Plan[Reservation]:
    """Give a reservation back unused; also what to do where the usage is sent in another way."""
    return (yield from _settle(reservation_id, "release", {}))


def _settle(reservation_id: str, what: str, body: Mapping[str, Any]) -> Plan[Reservation]:
    path = f"{QUOTA_PATH}/reservations/{quote(reservation_id, safe='')}/{what}"
    return Reservation.from_json((yield from one_object(Call.post(path, body, is_repeatable=True))))


def _optional_text(quantity: Quantity | None) -> str | None:
    return None if quantity is None else decimal_text(quantity)


def _path(quota_id: str) -> str:
    return f"{QUOTAS_PATH}/{quote(str(quota_id), safe='')}"
