"""Thresholds of their own: `client.thresholds.*`. Those that metrics declare are written with the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from meterbook.alerts import StoredThreshold, ThresholdTrace
from meterbook.quantities import Quantity, decimal_text
from meterbook.wire import Call, Listing, Plan, one_object

Filters = Mapping[str, str | Sequence[str]]


def create(
    code: str,
    metric: str,
    *,
    value: Quantity | None = None,
    percent_of_included: Quantity | None = None,
    projected: Quantity | None = None,
    silence_seconds: int | None = None,
    customer: str | None = None,
    filters: Filters | None = None,
    recurring: bool = False,
) -> Plan[StoredThreshold]:
    """Create a threshold on one customer's usage of a metric or, without a customer, on each one's.

    Exactly one of: `value`, reached in a period; `percent_of_included` of the plan's quantity; `projected`, where the
    period will end at the present pace; `silence_seconds` without an event. `recurring` tells at every further
    multiple. Raises `AlreadyExistsError` when the code is taken on this metric and customer.
    """
    body = {
        "metric": metric,
        "customer": customer,
        **_given(code, value, percent_of_included, projected, silence_seconds, filters),
        "recurring": recurring,
    }
    given = {name: given for name, given in body.items() if given is not None}
    return StoredThreshold.from_json((yield from one_object(Call.post("/v1/thresholds", given))))


def list_all(*, metric: str | None = None, customer: str | None = None) -> Plan[list[StoredThreshold]]:
    """Return the thresholds, those that metrics and quotas declare included."""
    call = Call.get("/v1/thresholds", metric=metric, customer=customer, limit=1000)
    return (yield from Listing(call, StoredThreshold.from_json).all())


def get(threshold_id: str) -> Plan[StoredThreshold]:
    """Return one threshold. Raises `NotFoundError`."""
    return StoredThreshold.from_json((yield from one_object(Call.get(_path(threshold_id)))))


def update(
    threshold_id: str,
    *,
    code: str | None = None,
    value: Quantity | None = None,
    percent_of_included: Quantity | None = None,
    projected: Quantity | None = None,
    silence_seconds: int | None = None,
    filters: Filters | None = None,
    recurring: bool | None = None,
) -> Plan[StoredThreshold]:
    """Change the given fields. A threshold that means something else now may fire again.

    Raises `ConflictError` for one that a metric or a quota declares.
    """
    body = {
        **_given(code, value, percent_of_included, projected, silence_seconds, filters),
        "recurring": recurring,
    }
    given = {name: given for name, given in body.items() if given is not None}
    call = Call.send("PATCH", _path(threshold_id), given, is_repeatable=True)
    return StoredThreshold.from_json((yield from one_object(call)))


def delete(threshold_id: str) -> Plan[None]:
    """Stop watching; what was crossed stays in the log."""
    yield Call("DELETE", _path(threshold_id))


def trace(threshold_id: str, customer: str | None = None) -> Plan[ThresholdTrace]:
    """Return why the threshold fired, or did not, in the current period.

    `customer` says whose usage, where the threshold is about each.
    """
    call = Call.get(f"{_path(threshold_id)}/trace", customer=customer)
    return ThresholdTrace.from_json((yield from one_object(call)))


def _given(
    code: str | None,
    value: Quantity | None,
    percent_of_included: Quantity | None,
    projected: Quantity | None,
    silence_seconds: int | None,
    filters: Filters | None,
) -> dict[str, Any]:
    kinds = {"value": value, "percent_of_included": percent_of_included, "projected": projected}
    return {
        "code": code,
        **{name: None if quantity is None else decimal_text(quantity) for name, quantity in kinds.items()},
        "silence_seconds": silence_seconds,
        "filter": None if filters is None else {key: _values(values) for key, values in filters.items()},
    }


def _values(values: str | Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _path(threshold_id: str) -> str:
    return f"/v1/thresholds/{quote(str(threshold_id), safe='')}"
