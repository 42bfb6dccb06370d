"""Billable usage: `client.billing.*`."""

from __future__ import annotations

from typing import Any

from meterbook.wire import Call, Plan, one_object


def usage(user: str, *, period: str | None = None) -> Plan[dict[str, Any]]:
    """Return what of a user's usage in a month the plan includes, and what the rest costs."""
    return (yield from one_object(Call.get("/v1/billing/usage", user=user, period=period)))


def report_usage(*, period: str | None = None, dry_run: bool = False) -> Plan[dict[str, Any]]:
    """Report the usage of a month to the payment provider, and return what was reported. Safe to repeat.

    With `dry_run` nothing is sent, and the answer says what would be.
    """
    body: dict[str, Any] = {} if period is None else {"period": period}
    if dry_run:
        body["dry_run"] = True
    return (yield from one_object(Call.post("/v1/billing/report-usage", body, is_repeatable=True)))
