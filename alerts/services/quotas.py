"""Writes of quotas. Each declares its warning levels as thresholds, which are then evaluated and told like any other.

Does not judge amounts (`alerts.queries.quotas`) and does not hold them (`alerts.services.reservations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import Customer, Organization
from accounts.services import record_audit
from alerts.domain import QuotaMode, ThresholdOrigin, warning_value
from alerts.models import Quota, Threshold
from alerts.queries.quotas import list_own_quotas
from alerts.services.judging import Target
from common.errors import Conflict, InvalidInput, NotFound
from common.numbers import exact_text
from metering.models import Aggregation, Metric

MAX_WARNINGS = 8
MAX_WARNING_PERCENT = 1000
DEFAULT_WARNING_PERCENTS = (80, 95, 100)
# No other threshold may be called so (`metering.api.serializers`).
WARNING_PREFIX = "quota_"


class QuotaExists(Conflict):
    code = "already_exists"


class ThresholdCodeTaken(Conflict):
    code = "threshold_code_taken"


@dataclass(frozen=True, slots=True)
class QuotaDefinition:
    """`limit` None: unlimited; 0: none. Only a soft quota has a grace. `customer` None: each without its own."""

    limit: Decimal | None
    mode: QuotaMode = QuotaMode.HARD
    grace: Decimal = Decimal(0)
    warning_percents: Sequence[int] = DEFAULT_WARNING_PERCENTS
    customer: Customer | None = None


@transaction.atomic
def create_quota(
    *, organization: Organization, metric: Metric, definition: QuotaDefinition, actor: str, now: datetime
) -> Quota:
    """Create a quota and its warnings. It holds from the commit on, for what was used before as well.

    Raises `QuotaExists`, `ThresholdCodeTaken`, or `InvalidInput` for what the metric cannot be limited by.
    """
    if metric.archived_at is not None:
        raise InvalidInput.of("metric", "The metric is archived; nothing uses it any more.", "metric_archived")
    quota = Quota(
        organization=organization,
        metric=metric,
        customer=definition.customer,
        mode=definition.mode,
        limit=definition.limit,
        grace=definition.grace,
        warning_percents=_in_order(definition.warning_percents),
        created_at=now,
    )
    _refuse_meaningless(quota)
    try:
        with transaction.atomic():
            quota.save()
    except IntegrityError:
        raise QuotaExists("There is a quota on this metric and customer already; change that one.") from None
    _declare_warnings(quota, now)
    _record(quota, "quota.created", actor, {name: _plain(getattr(quota, name)) for name in SETTINGS})
    return quota


@transaction.atomic
def update_quota(*, quota: Quota, changes: Mapping[str, Any], actor: str, now: datetime) -> Quota:
    """Change a quota. Warnings whose value changes are armed anew: they may be told again in the same period.

    Raises `NotFound` for one that was deleted meanwhile.
    """
    locked: Quota | None = (
        Quota.objects.for_organization(quota.organization_id)
        .select_for_update(of=("self",), no_key=True)
        .select_related("organization", "metric", "customer")
        .filter(pk=quota.pk)
        .first()
    )
    if locked is None:
        raise NotFound("There is no such quota.")
    wanted = {name: _in_order(value) if name == "warning_percents" else value for name, value in changes.items()}
    changed = {name: value for name, value in wanted.items() if getattr(locked, name) != value}
    if not changed:
        return locked
    details = {name: {"from": _plain(getattr(locked, name)), "to": _plain(value)} for name, value in changed.items()}
    for name, value in changed.items():
        setattr(locked, name, value)
    _refuse_meaningless(locked)
    locked.save(update_fields=list(changed))
    _declare_warnings(locked, now)
    _record(locked, "quota.updated", actor, details)
    return locked


@transaction.atomic
def delete_quota(*, quota: Quota, actor: str, now: datetime) -> None:
    """Delete a quota and stop its warnings; what was told stays told. Idempotent.

    Reservations stay: they are of the customer's usage, and a later quota counts them.
    """
    deleted, _ = Quota.objects.for_organization(quota.organization_id).filter(pk=quota.pk).delete()
    if not deleted:
        return
    _live_warnings(quota).update(archived_at=now)
    if quota.customer_id is not None:
        # From now on the metric's own quota is this customer's, and may have been passed long ago.
        Threshold.objects.for_organization(quota.organization_id).filter(
            metric_id=quota.metric_id, customer__isnull=True, origin=ThresholdOrigin.QUOTA, archived_at__isnull=True
        ).update(is_due=True)
    _record(quota, "quota.deleted", actor, {name: _plain(getattr(quota, name)) for name in SETTINGS})


# --- warnings -------------------------------------------------------------------------------------------------


def leave_out_overruled(*, organization: Organization, targets: Sequence[Target]) -> list[Target]:
    """Return the targets without the metric-wide quotas' warnings for customers that have a quota of their own.

    No query where no metric-wide warning is among them.
    """
    of_everybody = {target.customer.pk for target in targets if _is_of_everybody(target.threshold)}
    if not of_everybody:
        return list(targets)
    own = list_own_quotas(organization=organization, customer_ids=of_everybody)
    return [
        target
        for target in targets
        if not (_is_of_everybody(target.threshold) and (target.threshold.metric_id, target.customer.pk) in own)
    ]


def _is_of_everybody(threshold: Threshold) -> bool:
    return threshold.origin == ThresholdOrigin.QUOTA and threshold.customer_id is None


def _declare_warnings(quota: Quota, now: datetime) -> None:
    """Bring the thresholds in step with the quota. One whose value changed is another threshold, and fires anew.

    Runs in the quota's transaction, so that no warning is told of a limit that does not hold, and none is missing.
    """
    wanted = _warning_values(quota)
    for threshold in _live_warnings(quota):
        if wanted.get(threshold.code) == threshold.value:
            del wanted[threshold.code]
        else:
            threshold.archived_at = now
            threshold.save(update_fields=["archived_at"])
    try:
        with transaction.atomic():
            Threshold.objects.bulk_create(
                Threshold(
                    organization_id=quota.organization_id,
                    metric_id=quota.metric_id,
                    customer_id=quota.customer_id,
                    code=code,
                    value=value,
                    origin=ThresholdOrigin.QUOTA,
                    created_at=now,
                )
                for code, value in wanted.items()
            )
    except IntegrityError:
        raise ThresholdCodeTaken(
            f"Another threshold on this metric and customer is called {' or '.join(sorted(wanted))}; rename it first."
        ) from None


def _warning_values(quota: Quota) -> dict[str, Decimal]:
    """Return the value of each warning by its threshold's code; none without a limit to be a part of."""
    if not quota.limit:
        return {}
    return {f"{WARNING_PREFIX}{percent}": warning_value(quota.limit, percent) for percent in quota.warning_percents}


def _live_warnings(quota: Quota) -> Any:
    return Threshold.objects.for_organization(quota.organization_id).filter(
        metric=quota.metric_id,
        customer=quota.customer,
        origin=ThresholdOrigin.QUOTA,
        archived_at__isnull=True,
    )


# --- settings -------------------------------------------------------------------------------------------------


SETTINGS = ("mode", "limit", "grace", "warning_percents")


def _refuse_meaningless(quota: Quota) -> None:
    """Raise `InvalidInput` for what the database or the metric has no meaning for."""
    if quota.metric.aggregation == Aggregation.MIN:
        raise InvalidInput.of("metric", "A minimum only falls: no limit would ever hold it.", "invalid_combination")
    for name in ("limit", "grace"):
        value: Decimal | None = getattr(quota, name)
        if value is not None and value < 0:
            raise InvalidInput.of(name, "Zero or more.", "invalid_value")
    if quota.grace and quota.mode != QuotaMode.SOFT:
        raise InvalidInput.of("grace", "Only a soft quota has a grace; set 0.", "invalid_combination")
    if len(quota.warning_percents) > MAX_WARNINGS:
        raise InvalidInput.of("warning_percents", f"At most {MAX_WARNINGS} warnings.", "too_many")
    if any(not 0 < percent <= MAX_WARNING_PERCENT for percent in quota.warning_percents):
        raise InvalidInput.of("warning_percents", f"Each is 1 to {MAX_WARNING_PERCENT} percent.", "invalid_value")


def _in_order(percents: Sequence[int]) -> list[int]:
    return sorted(set(percents))


def _plain(value: Any) -> Any:
    return exact_text(value) if isinstance(value, Decimal) else value


def _record(quota: Quota, action: str, actor: str, details: dict[str, Any]) -> None:
    whose = f" of {quota.customer.external_id}" if quota.customer else ""
    record_audit(
        organization=quota.organization,
        actor=actor,
        action=action,
        target=f"{quota.metric.code}{whose}"[:320],
        details=details,
    )
