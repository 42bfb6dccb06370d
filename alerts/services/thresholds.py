"""Writes of thresholds: those that people make, and those that metrics declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from accounts.models import Customer, Organization
from accounts.services import record_audit
from alerts.domain import ThresholdKind, ThresholdOrigin
from alerts.models import AlertLog, Threshold, ThresholdState
from common.errors import Conflict, InvalidInput
from metering.models import ADDITIVE, Metric

# Per metric, without those that it declares itself. Every one of them is measured at every change of a customer.
MAX_THRESHOLDS_PER_METRIC = 1000


class ThresholdExists(Conflict):
    code = "already_exists"


class ThresholdDeclaredElsewhere(Conflict):
    code = "declared_elsewhere"


@dataclass(frozen=True, slots=True)
class ThresholdDefinition:
    """What a threshold watches. `value` is in the kind's own unit, see `Threshold.value`."""

    code: str
    value: Decimal
    kind: ThresholdKind = ThresholdKind.VALUE
    customer: Customer | None = None
    filters: Mapping[str, list[str]] = field(default_factory=dict)
    is_recurring: bool = False


def create_threshold(
    *, organization: Organization, metric: Metric, definition: ThresholdDefinition, actor: str
) -> Threshold:
    """Create a threshold; usage that has reached it already fires at the next evaluation, within seconds.

    Raises `ThresholdExists`, or `InvalidInput` for what the metric cannot be measured by.
    """
    threshold = Threshold(
        organization=organization,
        metric=metric,
        customer=definition.customer,
        code=definition.code,
        kind=definition.kind,
        value=definition.value,
        filters=dict(definition.filters),
        is_recurring=definition.is_recurring,
    )
    _refuse_meaningless(threshold)
    siblings = Threshold.objects.for_organization(organization).filter(
        metric=metric, archived_at__isnull=True, origin=ThresholdOrigin.OWN
    )
    if siblings[MAX_THRESHOLDS_PER_METRIC - 1 :].exists():
        raise InvalidInput.of("metric", f"At most {MAX_THRESHOLDS_PER_METRIC} thresholds on one metric.", "too_many")
    try:
        with transaction.atomic():
            threshold.save()
            _record(threshold, "threshold.created", actor)
    except IntegrityError:
        raise _exists(threshold) from None
    return threshold


def update_threshold(*, threshold: Threshold, changes: Mapping[str, Any], actor: str) -> Threshold:
    """Change a threshold's fields. One that means something else now is armed anew, and may fire again."""
    refuse_declared(threshold)
    try:
        with transaction.atomic():
            locked: Threshold = (
                Threshold.objects.for_organization(threshold.organization_id)
                .select_for_update(of=("self",))
                .select_related("metric", "customer", "organization")
                .get(pk=threshold.pk)
            )
            changed = {name for name, value in changes.items() if getattr(locked, name) != value}
            for name in changed:
                setattr(locked, name, changes[name])
            _refuse_meaningless(locked)
            if changed - {"code"}:
                _arm_again(locked)
            locked.save()
            if changed:
                _record(locked, "threshold.updated", actor)
    except IntegrityError:
        raise _exists(threshold) from None
    return locked


def archive_threshold(*, threshold: Threshold, actor: str, now: datetime) -> None:
    """Stop watching; what was crossed stays in the log."""
    refuse_declared(threshold)
    with transaction.atomic():
        threshold.archived_at = now
        threshold.save(update_fields=["archived_at"])
        _record(threshold, "threshold.archived", actor)


def refuse_declared(threshold: Threshold) -> None:
    """Raise `ThresholdDeclaredElsewhere` for a threshold that a metric or a quota declares."""
    if threshold.origin != ThresholdOrigin.OWN:
        raise ThresholdDeclaredElsewhere(f"The {threshold.origin} declares this threshold; change it there.")


def declare_metric_thresholds(*, organization: Organization, now: datetime) -> None:
    """Bring the thresholds that metrics declare in step with the metrics. Costs one query while nothing changed."""
    log, _ = AlertLog.objects.get_or_create(organization=organization)
    if log.metrics_version == organization.metrics_version:
        return
    with transaction.atomic():
        log = AlertLog.objects.for_organization(organization).select_for_update().get()
        organization.refresh_from_db(fields=["metrics_version"])
        metrics = Metric.objects.for_organization(organization).filter(archived_at__isnull=True)
        for metric in metrics:
            _declare(metric, now)
        log.metrics_version = organization.metrics_version
        log.save(update_fields=["metrics_version"])


def _declare(metric: Metric, now: datetime) -> None:
    declared = {threshold["code"]: threshold for threshold in metric.thresholds}
    existing = Threshold.objects.for_organization(metric.organization_id).filter(
        metric=metric, origin=ThresholdOrigin.METRIC, archived_at__isnull=True
    )
    for threshold in existing:
        wanted = declared.pop(threshold.code, None)
        if wanted is None:
            threshold.archived_at = now
            threshold.save(update_fields=["archived_at"])
        elif (threshold.value, threshold.is_recurring) != (Decimal(wanted["value"]), wanted["recurring"]):
            threshold.value, threshold.is_recurring = Decimal(wanted["value"]), wanted["recurring"]
            _arm_again(threshold)
            threshold.save()
    for wanted in declared.values():
        Threshold.objects.bulk_create(
            [
                Threshold(
                    organization_id=metric.organization_id,
                    metric=metric,
                    code=wanted["code"],
                    value=Decimal(wanted["value"]),
                    is_recurring=wanted["recurring"],
                    origin=ThresholdOrigin.METRIC,
                )
            ],
            # A threshold that somebody made under the same code stays, and stands for both.
            ignore_conflicts=True,
        )


def _arm_again(threshold: Threshold) -> None:
    """Let a threshold that means something else now fire as if it were new."""
    threshold.is_due = True
    ThresholdState.objects.for_organization(threshold.organization_id).filter(threshold=threshold).update(
        fired=0, arming=F("arming") + 1
    )


def _refuse_meaningless(threshold: Threshold) -> None:
    """Raise `InvalidInput` for what the metric cannot be measured by."""
    if threshold.value <= 0:
        raise InvalidInput.of("value", "A threshold lies above zero.", "invalid_value")
    if threshold.kind == ThresholdKind.PROJECTED and threshold.metric.aggregation not in ADDITIVE:
        raise InvalidInput.of("projected", "Only counts and sums grow in proportion to time.", "invalid_combination")
    if threshold.kind == ThresholdKind.SILENCE and threshold.is_recurring:
        raise InvalidInput.of("recurring", "A silence is told once, until it ends.", "invalid_combination")
    declared = {dimension["key"] for dimension in threshold.metric.dimensions}
    for key in threshold.filters:
        if key not in declared:
            raise InvalidInput.of(f"filter.{key}", "The metric does not declare this dimension.", "unknown_dimension")


def _exists(threshold: Threshold) -> ThresholdExists:
    return ThresholdExists(f"There is a threshold {threshold.code!r} on this metric and customer already.")


def _record(threshold: Threshold, action: str, actor: str) -> None:
    whose = f" of {threshold.customer.external_id}" if threshold.customer else ""
    record_audit(
        organization=threshold.organization,
        actor=actor,
        action=action,
        target=f"{threshold.metric.code}:{threshold.code}{whose}"[:320],
    )
