"""Reservations: hold an amount while the work that uses it is under way, then turn it into usage or give it back.

Exact among reservers: everything that takes from a customer's room for a metric (reserving, committing, releasing)
happens one after another, under a lock of that customer and metric. Plain ingest does not take the lock, since it
must not wait for anybody and what was used was used: usage that is ingested meanwhile counts from its commit on, and
may take room that a reservation was already given. An open reservation counts in whatever period is current.

Nothing has to run for an expired reservation to return its amount; the rows are deleted later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zlib import crc32

from django.db import IntegrityError, connection, transaction

from accounts.models import Customer, Organization
from alerts.domain import QuotaVerdict
from alerts.models import DEFAULT_RESERVATION, Reservation, ReservationState
from alerts.queries.quotas import QuotaCheck, QuotaStanding, read_standing
from common.errors import ApplicationError, Conflict, FieldError, InvalidInput, NotFound
from common.numbers import exact_text
from metering.domain import MAX_BATCH_EVENTS
from metering.incoming import IncomingEvent
from metering.models import ADDITIVE, Aggregation, Metric
from metering.services.ingest import ingest_events

# The first half of the advisory lock's key; metric and customer are the second.
RESERVATION_LOCK = 730_004
# How long a settled or expired reservation still answers a retry.
RESERVATION_RETENTION = timedelta(days=7)
DELETE_ROWS = 5_000
ZERO = Decimal(0)

# Settled or expired long ago. Uses reservation_by_expiry.
_DELETE_OLD = """
DELETE FROM alerts_reservation
WHERE organization_id = %(organization)s AND id IN (
    SELECT id FROM alerts_reservation
    WHERE organization_id = %(organization)s
      AND expires_at < %(before)s
      AND (settled_at IS NULL OR settled_at < %(before)s)
    LIMIT %(limit)s
)
"""


class QuotaExceeded(ApplicationError):
    """The amount does not fit; `check` says what would."""

    status = 402
    code = "quota_exceeded"

    def __init__(self, check: QuotaCheck) -> None:
        super().__init__(f"{_rest(check.verdict)} of the quota is left until {check.reset_at.isoformat()}.")
        self.check = check


class ReservationExpired(Conflict):
    code = "reservation_expired"


class ReservationSettled(Conflict):
    """It was committed or released before; `code` says which."""


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation, and how the quota stands with it."""

    reservation: Reservation
    check: QuotaCheck
    # False: the answer to a repeated request.
    is_new: bool = True


def reserve_amount(
    *,
    organization: Organization,
    metric: Metric,
    customer: Customer,
    amount: Decimal,
    now: datetime,
    duration: timedelta = DEFAULT_RESERVATION,
    idempotency_key: str = "",
) -> Held:
    """Hold an amount. Of any number of callers at once, exactly those succeed for whom there is room.

    Repeating a request under its idempotency key answers with the same reservation, whatever became of it. Raises
    `QuotaExceeded`; `Conflict` for a key that was used for something else; `InvalidInput` for what cannot be held.
    """
    _refuse_unreservable(metric)
    _refuse_amount(metric, amount)
    wanted = Reservation(
        organization=organization,
        metric=metric,
        customer=customer,
        amount=amount,
        idempotency_key=idempotency_key,
        created_at=now,
        expires_at=now + duration,
    )
    try:
        with transaction.atomic():
            _lock(wanted)
            repeated = _find_repeated(wanted)
            standing = read_standing(organization=organization, metric=metric, customer=customer, now=now)
            if repeated is not None:
                return Held(repeated, standing.check(ZERO), is_new=False)
            check = standing.check(amount)
            if not check.verdict.is_allowed:
                raise QuotaExceeded(check)
            wanted.save(force_insert=True)
    except IntegrityError:
        # The lock keeps requests with the same content apart, so the racing one is of another customer or metric.
        _find_repeated(wanted)
        raise
    return Held(wanted, standing.check_with(amount))


def commit_reservation(
    *,
    organization: Organization,
    reservation: Reservation,
    now: datetime,
    amount: Decimal | None = None,
    properties: Mapping[str, Any] | None = None,
    timestamp: datetime | None = None,
) -> Held:
    """Turn what was held, or a part of it, into usage: the event is stored in the transaction that ends the holding.

    Repeating it changes nothing and answers the same. An expired reservation is committed if its amount still, or
    again, fits. Raises `ReservationExpired` if not, `ReservationSettled` after a release or a commit of another
    amount, and `InvalidInput` for what the event is refused for.
    """
    if amount is not None:
        _refuse_amount(reservation.metric, amount)
    with transaction.atomic():
        current = _lock_current(reservation)
        used = current.amount if amount is None else amount
        if used > current.amount:
            raise InvalidInput.of("amount", "More than was reserved.", "exceeds_reservation")
        _refuse_settled(current, ReservationState.RELEASED)
        if current.state == ReservationState.COMMITTED and current.committed_amount != used:
            raise ReservationSettled("Another amount of it was committed before.", code="already_committed")
        if current.state == ReservationState.OPEN:
            _refuse_expired(organization, current, used, now)
            _store_usage(organization, current, used, properties or {}, timestamp, now)
            _settle(current, ReservationState.COMMITTED, now, used)
        return Held(current, _read_standing(organization, current, now).check(ZERO))


def release_reservation(*, organization: Organization, reservation: Reservation, now: datetime) -> Held:
    """Give the amount back. Repeating it changes nothing. Raises `ReservationSettled` after a commit."""
    with transaction.atomic():
        current = _lock_current(reservation)
        _refuse_settled(current, ReservationState.COMMITTED)
        if current.state == ReservationState.OPEN:
            _settle(current, ReservationState.RELEASED, now, None)
        return Held(current, _read_standing(organization, current, now).check(ZERO))


def prune_reservations(*, organization: Organization, now: datetime) -> int:
    """Delete the reservations that nobody asks for any more, in small transactions; return how many."""
    names: dict[str, int | datetime] = {
        "organization": organization.pk,
        "before": now - RESERVATION_RETENTION,
        "limit": DELETE_ROWS,
    }
    pruned = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_DELETE_OLD, names)
            pruned += cursor.rowcount
            if cursor.rowcount < DELETE_ROWS:
                return pruned


# --- the lock -------------------------------------------------------------------------------------------------


def _lock(reservation: Reservation) -> None:
    """Wait until nobody else takes from the same room, for the rest of the transaction; then read, never before.

    An advisory lock, because there is no row to lock: under a metric's quota a customer has none of its own, and the
    customer's row would hold up whoever else refers to it. At READ COMMITTED each later statement sees everything
    that was committed before the lock was given. Metrics and customers whose keys collide only wait for each other.
    """
    key = f"{reservation.organization_id}:{reservation.metric_id}:{reservation.customer_id}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [RESERVATION_LOCK, crc32(key.encode()) - 2**31])


def _lock_current(reservation: Reservation) -> Reservation:
    _lock(reservation)
    rows = Reservation.objects.for_organization(reservation.organization_id).select_related("metric", "customer")
    current: Reservation | None = rows.filter(pk=reservation.pk).first()
    if current is None:  # pruned between the look-up and the lock
        raise NotFound("There is no such reservation.")
    return current


# --- reserving ------------------------------------------------------------------------------------------------


def _refuse_unreservable(metric: Metric) -> None:
    if metric.aggregation not in ADDITIVE:
        raise InvalidInput.of("metric", "Only amounts of counts and sums can be reserved.", "not_reservable")
    if metric.archived_at is not None:
        raise InvalidInput.of("metric", "The metric is archived; nothing uses it any more.", "metric_archived")


def _refuse_amount(metric: Metric, amount: Decimal) -> None:
    """Raise `InvalidInput` for what could not become events of the metric."""
    if amount <= 0:
        raise InvalidInput.of("amount", "More than zero.", "invalid_value")
    if metric.aggregation == Aggregation.COUNT:
        if amount != amount.to_integral_value():
            raise InvalidInput.of("amount", "A count grows by whole events.", "invalid_value")
        if amount > MAX_BATCH_EVENTS:
            # Each becomes an event of its own when it is committed, and all of them are stored at once.
            raise InvalidInput.of("amount", f"At most {MAX_BATCH_EVENTS} events at once.", "too_many")


def _find_repeated(wanted: Reservation) -> Reservation | None:
    """Return the reservation made under the same key. Raises `Conflict` if it is of something else."""
    if not wanted.idempotency_key:
        return None
    rows = Reservation.objects.for_organization(wanted.organization_id).select_related("metric", "customer")
    earlier: Reservation | None = rows.filter(idempotency_key=wanted.idempotency_key).first()
    if earlier is not None and _content(earlier) != _content(wanted):
        raise Conflict("This idempotency key was used for another reservation.")
    return earlier


def _content(reservation: Reservation) -> tuple[int, int, Decimal, timedelta]:
    duration = reservation.expires_at - reservation.created_at
    return reservation.metric_id, reservation.customer_id, reservation.amount, duration


# --- settling -------------------------------------------------------------------------------------------------


def _refuse_settled(reservation: Reservation, state: ReservationState) -> None:
    if reservation.state == state:
        raise ReservationSettled(f"The reservation was {state.value} before.", code=f"already_{state.value}")


def _refuse_expired(organization: Organization, reservation: Reservation, amount: Decimal, now: datetime) -> None:
    """Raise `ReservationExpired` if it holds nothing any more and somebody else has taken the room."""
    if reservation.expires_at > now:
        return
    standing = _read_standing(organization, reservation, now)
    if not standing.check(amount).verdict.is_allowed:
        raise ReservationExpired("The reservation has expired, and its amount no longer fits. Nothing was recorded.")


def _settle(reservation: Reservation, state: ReservationState, now: datetime, amount: Decimal | None) -> None:
    reservation.state, reservation.settled_at, reservation.committed_amount = state, now, amount
    reservation.save(update_fields=["state", "settled_at", "committed_amount"])


def _read_standing(organization: Organization, reservation: Reservation, now: datetime) -> QuotaStanding:
    return read_standing(organization=organization, metric=reservation.metric, customer=reservation.customer, now=now)


def _store_usage(
    organization: Organization,
    reservation: Reservation,
    amount: Decimal,
    properties: Mapping[str, Any],
    timestamp: datetime | None,
    now: datetime,
) -> None:
    """Store the usage as events of the metric's type; like any others they feed all metrics that listen to it."""
    events = _usage_events(reservation, amount, properties, timestamp)
    try:
        result = ingest_events(organization=organization, events=events, now=now, is_atomic=True)
    except InvalidInput as refused:
        # Every event is refused for the same reason, so the first tells all.
        first = refused.errors[0]
        raise InvalidInput(
            f"{first.field}: {first.message}",
            code=first.code,
            errors=[FieldError(first.field, first.code, first.message)],
        ) from None
    if result.duplicates:
        raise Conflict("Somebody has sent an event under the reservation's own key.")


def _usage_events(
    reservation: Reservation, amount: Decimal, properties: Mapping[str, Any], timestamp: datetime | None
) -> list[IncomingEvent]:
    """Return one event that carries the amount or, for a count, as many events as the amount says."""
    metric = reservation.metric
    given, own_value = dict(properties), None
    if metric.aggregation == Aggregation.SUM:
        if not metric.value_property:
            own_value = amount
        elif metric.value_property in given:
            field = f"properties.{metric.value_property}"
            raise InvalidInput.of(field, "This property is the amount itself; leave it out.", "invalid_property")
        else:
            given[metric.value_property] = amount
    elif metric.value_property and metric.value_property not in given:
        field = f"properties.{metric.value_property}"
        raise InvalidInput.of(field, "The metric counts the events that have this property.", "value_required")
    count = int(amount) if metric.aggregation == Aggregation.COUNT else 1
    key = f"reservation:{reservation.public_id}"
    return [
        IncomingEvent(
            idempotency_key=key if place == 1 else f"{key}:{place}",
            customer=reservation.customer.external_id,
            type=metric.event_type,
            value=own_value,
            timestamp=None if timestamp is None else timestamp.isoformat(),
            # Of its own: admission may rewrite numbers in it.
            properties=dict(given) or None,
        )
        for place in range(1, count + 1)
    ]


def _rest(verdict: QuotaVerdict) -> str:
    return f"Only {exact_text(verdict.remaining)}" if verdict.remaining else "Nothing"
