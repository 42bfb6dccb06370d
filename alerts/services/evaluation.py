"""Finding crossings: what changed since the last evaluation, measured against the thresholds, each told once.

One transaction takes the changes away, reads the usage, writes the crossings and the states: all of one instant,
since it runs at REPEATABLE READ, and all or nothing, so that a killed worker loses no change and tells nothing twice.
Two workers at the same organization exclude each other by a lock; where a race slips past it, one of them fails to
serialize and comes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import count

import structlog
from django.db import OperationalError, connection, transaction
from django.db.models import Q
from psycopg.errors import DeadlockDetected, SerializationFailure

from accounts.models import Customer, Organization
from alerts.domain import ThresholdKind
from alerts.models import Crossing, Threshold, ThresholdState
from alerts.services.judging import Target, judge_target, read_targets
from alerts.services.log import append_crossings
from alerts.services.quotas import leave_out_overruled
from alerts.services.thresholds import declare_metric_thresholds
from metering import queries
from metering.domain import Span
from metering.models import Metric, Series
from metering.services.wake import Turn, ask_follower, clear_follower_mark, is_follower_asked
from metering.sql.changes import ChangedUsage, claim_changes

logger = structlog.get_logger(__name__)

EVALUATE_TASK = "alerts.evaluate_organization"
# The first half of the advisory lock's key; the organization is the second.
EVALUATION_LOCK = 730_003
# Changes of about this many rollup chunks are looked at together.
MAX_CHANGES = 500


class EvaluationBusy(Exception):
    """Another worker evaluates this organization; come back in a moment."""


@dataclass(slots=True)
class Evaluated:
    """What one call did, for the log."""

    changes: int = 0
    targets: int = 0
    crossings: int = 0
    # It stopped although more may have changed.
    is_unfinished: bool = False


@dataclass(slots=True)
class _Changes:
    """The claimed changes, by metric and customer."""

    spans: dict[tuple[int, int], Span] = field(default_factory=dict)
    # When the voided events happened.
    voided: dict[tuple[int, int], set[datetime]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def collect(cls, rows: Iterable[ChangedUsage]) -> _Changes:
        changes = cls()
        for row in rows:
            for key in zip(row.metric_ids, row.customer_ids, strict=True):
                earlier = changes.spans.get(key)
                changes.spans[key] = Span(
                    min(row.earliest, earlier.start) if earlier else row.earliest,
                    max(row.latest, earlier.end) if earlier else row.latest,
                )
                if row.is_void:
                    changes.voided[key].add(row.earliest)
        return changes


def evaluate_in_turn(*, organization_id: int, now: datetime, max_steps: int) -> Evaluated:
    """Evaluate like `evaluate_organization`, unless another worker is at it: that one then looks once more."""
    turn = Turn(task=EVALUATE_TASK, organization_id=organization_id)
    evaluated = Evaluated()
    while _take_or_ask(turn, organization_id):
        try:
            evaluated = evaluate_organization(organization_id=organization_id, now=now, max_steps=max_steps)
        finally:
            turn.give_back()
        if evaluated.is_unfinished or not is_follower_asked(task=EVALUATE_TASK, organization_id=organization_id):
            break
    return evaluated


def _take_or_ask(turn: Turn, organization_id: int) -> bool:
    """Take the turn, or have its holder look again: who gives it back between our two tries leaves it to us."""
    if turn.take():
        return True
    ask_follower(task=EVALUATE_TASK, organization_id=organization_id)
    return turn.take()


def evaluate_organization(*, organization_id: int, now: datetime, max_steps: int | None = None) -> Evaluated:
    """Evaluate until nothing is left to look at. Raises `EvaluationBusy` if another worker is at it."""
    evaluated = Evaluated()
    for _ in count() if max_steps is None else range(max_steps):
        if not _evaluate_step(organization_id, now, evaluated):
            return evaluated
    evaluated.is_unfinished = True
    return evaluated


def _evaluate_step(organization_id: int, now: datetime, evaluated: Evaluated) -> bool:
    """Look at some of the changes; return whether more may wait."""
    # Before the snapshot: what is committed after it must publish anew.
    clear_follower_mark(task=EVALUATE_TASK, organization_id=organization_id)
    with one_instant(organization_id):
        organization = Organization.objects.filter(pk=organization_id).first()
        rows = claim_changes(organization_id=organization_id, limit=MAX_CHANGES)
        if organization is None:
            return bool(rows)
        declare_metric_thresholds(organization=organization, now=now)
        changes = _Changes.collect(rows)
        targets = _list_targets(organization, changes, now)
        crossings = evaluate_targets(organization=organization, targets=targets, now=now)
        Threshold.objects.for_organization(organization).filter(is_due=True).update(is_due=False)
    evaluated.changes += len(rows)
    evaluated.targets += len(targets)
    evaluated.crossings += crossings
    return len(rows) == MAX_CHANGES


@contextmanager
def one_instant(organization_id: int) -> Iterator[None]:
    """Open the evaluation's transaction: one snapshot, and nobody else evaluating. Raises `EvaluationBusy`."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [EVALUATION_LOCK, organization_id])
                [is_ours] = cursor.fetchone()
            if not is_ours:
                raise EvaluationBusy
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, SerializationFailure | DeadlockDetected):
            raise EvaluationBusy from error
        raise


def evaluate_targets(*, organization: Organization, targets: Sequence[Target], now: datetime) -> int:
    """Judge each target, write its state and what it crossed; return how many crossings. Inside `one_instant`, with a
    log (`declare_metric_thresholds` begins it).
    """
    if not targets:
        return 0
    states = _load_states(organization, targets)
    crossings: list[Crossing] = []
    written: list[ThresholdState] = []
    for target, reading in read_targets(organization=organization, targets=targets, now=now):
        state = states.get(target.key)
        is_new = state is None
        if state is None:
            state = ThresholdState(
                organization=organization,
                threshold=target.threshold,
                customer=target.customer,
                period_start=target.period.start,
                period_end=target.period.end,
                value=Decimal(0),
                evaluated_at=now,
            )
        before = (state.value, state.level, state.fired, state.arming)
        crossings += judge_target(target, reading, state, now)
        if is_new or before != (state.value, state.level, state.fired, state.arming):
            written.append(state)
    append_crossings(organization=organization, crossings=crossings)
    ThresholdState.objects.bulk_create(
        written,
        update_conflicts=True,
        unique_fields=["organization", "threshold", "customer", "period_start"],
        update_fields=["value", "level", "fired", "arming", "evaluated_at"],
    )
    return len(crossings)


def _load_states(
    organization: Organization, targets: Sequence[Target]
) -> dict[tuple[int, int | None, datetime], ThresholdState]:
    states = ThresholdState.objects.for_organization(organization).filter(
        threshold__in={target.threshold.pk for target in targets},
        period_start__in={target.period.start for target in targets},
    )
    return {(state.threshold_id, state.customer_id, state.period_start): state for state in states}


# --- whom to look at ------------------------------------------------------------------------------------------


def _list_targets(organization: Organization, changes: _Changes, now: datetime) -> list[Target]:
    """Return what the changes, and the thresholds that are new, give reason to look at; in a fixed order."""
    thresholds: dict[int, list[Threshold]] = defaultdict(list)
    of_changed = Q(metric__in={metric_id for metric_id, _ in changes.spans}) & (
        Q(customer__isnull=True) | Q(customer__in={customer_id for _, customer_id in changes.spans})
    )
    live = Threshold.objects.for_organization(organization).filter(
        Q(is_due=True) | of_changed, archived_at__isnull=True, metric__archived_at__isnull=True
    )
    for threshold in live.exclude(kind=ThresholdKind.SILENCE).select_related("metric").order_by("pk"):
        thresholds[threshold.metric_id].append(threshold)
    wanted: dict[tuple[int, int], list[Threshold]] = defaultdict(list)
    for metric_id, customer_id in changes.spans:
        wanted[metric_id, customer_id] = thresholds.get(metric_id, [])
    for threshold in (one for several in thresholds.values() for one in several if one.is_due):
        for customer_id in _list_users(threshold):
            key = (threshold.metric_id, customer_id)
            wanted[key] = [*(one for one in wanted[key] if one.pk != threshold.pk), threshold]
    customers = Customer.objects.for_organization(organization).in_bulk({customer_id for _, customer_id in wanted})
    targets = [
        Target(threshold, customers[customer_id], period, frozenset(changes.voided.get((metric_id, customer_id), ())))
        for (metric_id, customer_id), several in sorted(wanted.items())
        if customer_id in customers
        for threshold in several
        if threshold.customer_id in (None, customer_id)
        for period in _list_periods(
            organization, threshold, customers[customer_id], changes.spans.get((metric_id, customer_id)), now
        )
    ]
    return leave_out_overruled(organization=organization, targets=targets)


def _list_users(threshold: Threshold) -> Iterable[int]:
    """Return the customers of a new threshold: its own, or all that have used the metric."""
    if threshold.customer_id is not None:
        return [threshold.customer_id]
    series = Series.objects.for_organization(threshold.organization_id).filter(metric_id=threshold.metric_id)
    customer_ids: Iterable[int] = series.filter(dimensions__isnull=True).values_list("customer_id", flat=True)
    return customer_ids


def _list_periods(
    organization: Organization, threshold: Threshold, customer: Customer, changed: Span | None, now: datetime
) -> Iterator[Span]:
    """Yield the periods to look at: the one before, for late events, and the current one. Older ones are history."""
    about: Metric = threshold.metric
    current = queries.current_period(metric=about, organization=organization, customer=customer, at=now)
    if changed is not None and changed.start < current.start:
        previous = queries.previous_period(metric=about, organization=organization, customer=customer, at=now)
        if changed.end > previous.start:
            yield previous
    if threshold.is_due or (changed is not None and changed.end > current.start):
        yield current
