"""What is measured and what was counted: metrics, feeds, events, batches, series, rollups.

The hot tables (event, ingest batch, series, rollups, member sets) are written by the statements in
`metering.sql` and never through the ORM. Their keys begin with the organization, so that the tables can be
distributed by it, and they carry no foreign-key constraints: a constraint costs a look-up per row at ingest,
and every row they would guard is written by `metering.services` alone.
"""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from common.models import TenantManager


class QuantityField(models.DecimalField):
    """PostgreSQL's plain NUMERIC: exact, with the digits that were sent and no padding to a fixed scale."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_digits": 131_072, "decimal_places": 16_383, **kwargs})

    def db_type(self, connection: Any) -> str:
        return "numeric"

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {k: v for k, v in kwargs.items() if k not in {"max_digits", "decimal_places"}}


def hot_organization() -> models.ForeignKey[Organization, Organization]:
    """Return the tenant column of a hot table: no constraint and no index of its own, it leads the primary key."""
    return models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )


class Aggregation(models.TextChoices):
    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LATEST = "latest"
    COUNT_UNIQUE = "count_unique"


# Whose values over parts of the usage add up to the value over all of it. A maximum or a distinct count over two days
# is not the sum of the two.
ADDITIVE = frozenset({Aggregation.COUNT, Aggregation.SUM})


class PeriodType(models.TextChoices):
    CALENDAR = "calendar"
    FIXED = "fixed"
    DAY = "day"
    WEEK = "week"


class Metric(models.Model):
    """What is measured: which event type it listens to, and how it aggregates which value over which dimensions."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="metrics")
    code = models.CharField(max_length=64, db_collation="C")
    name = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    unit = models.CharField(max_length=64, blank=True)
    aggregation = models.CharField(max_length=16, choices=Aggregation.choices)
    event_type = models.CharField(max_length=256, db_collation="C")
    # Which property holds the quantity (or the member, for count_unique); empty: the event's own value.
    value_property = models.CharField(max_length=256, blank=True)
    # [{"key": "region", "values": ["us", "eu"] | null, "strict": false}], in the order in which series store them.
    dimensions = models.JSONField(default=list)
    period_type = models.CharField(max_length=16, choices=PeriodType.choices, default=PeriodType.CALENDAR)
    # Calendar periods begin on this day of the month (1-28); fixed periods last this many days.
    billing_cycle_day = models.PositiveSmallIntegerField(default=1)
    period_days = models.PositiveSmallIntegerField(default=30)
    # [{"code", "value", "recurring"}], at most 8; evaluated by the alerts app.
    thresholds = models.JSONField(default=list)
    catalog = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "code"], name="metric_code_once"),
            models.CheckConstraint(
                condition=models.Q(billing_cycle_day__range=(1, 28)), name="metric_cycle_day_1_to_28"
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Feed(models.Model):
    """An event type together with the metrics that listened to it at one time. Immutable.

    Every event names its feed, so that which metrics an event counts in is a fact of the event and does not
    change when a metric is created, changed or archived later.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="feeds")
    event_type = models.CharField(max_length=256, db_collation="C")
    # Sorted ids of the metrics; empty for the events that wait in the inbox.
    metric_ids = ArrayField(models.BigIntegerField())
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "event_type", "metric_ids"], name="feed_once"),
        ]

    def __str__(self) -> str:
        return self.event_type


class BatchState(models.IntegerChoices):
    PENDING = 0
    ROLLED = 1


class IngestBatch(models.Model):
    """The events of one transaction. While pending it is the outbox that the rollup worker drains.

    `id` comes from a sequence. An event's offset is `id << OFFSET_BITS | its place in the batch`.
    """

    pk = models.CompositePrimaryKey("organization_id", "id")
    organization = hot_organization()
    id = models.BigIntegerField()
    state = models.SmallIntegerField(choices=BatchState.choices, default=BatchState.PENDING)
    event_count = models.IntegerField()
    # The feeds of its events, so that neither the worker nor a read has to look at the events to know the metrics.
    feed_ids = ArrayField(models.BigIntegerField())
    received_at = models.DateTimeField()
    rolled_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        indexes = [
            # The worker's claim and every read's tail: the pending batches of one organization, oldest first.
            models.Index(
                fields=["organization", "id"], condition=models.Q(state=BatchState.PENDING), name="batch_pending"
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.id}"


class Operation(models.IntegerChoices):
    ADD = 0
    REMOVE = 1


class Event(models.Model):
    """One immutable usage fact. Identity: (organization, idempotency key), for as long as the row is kept."""

    pk = models.CompositePrimaryKey("organization_id", "idempotency_key")
    organization = hot_organization()
    idempotency_key = models.CharField(max_length=256, db_collation="C")
    # Arrival order within the organization: at equal times, the greater offset is the later reading.
    offset = models.BigIntegerField()
    feed = models.ForeignKey(Feed, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    customer = models.ForeignKey(
        Customer, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    # When it happened, at the source.
    occurred_at = models.DateTimeField()
    # When it reached us; the same for a whole batch.
    received_at = models.DateTimeField()
    # False: the sender gave no time and occurred_at is the arrival, so a retry without a time is the same event.
    has_own_time = models.BooleanField()
    operation = models.SmallIntegerField(choices=Operation.choices, default=Operation.ADD)
    value = QuantityField(null=True)
    # The member to count, for count_unique without a value property.
    member = models.CharField(max_length=256, null=True, db_collation="C")  # noqa: DJ001  (absent is not empty)
    properties = models.JSONField(null=True)

    objects = TenantManager()

    class Meta:
        indexes = [
            # Events of a batch (worker, tail of reads) and the live tail by arrival.
            models.Index(fields=["organization", "offset"], name="event_by_offset"),
            # Raw edges of a range, recounts after a void, the event list of one customer.
            models.Index(fields=["organization", "customer", "occurred_at"], name="event_by_customer_time"),
            # The event list of all customers, newest first; retention.
            models.Index(fields=["organization", "occurred_at"], name="event_by_time"),
        ]

    def __str__(self) -> str:
        return self.idempotency_key


class UsageChange(models.Model):
    """Whose usage a rollup or a void changed, written in the same transaction: the outbox of whoever follows usage.

    Followers delete the rows with the transaction in which they acted on them, so a change is followed up exactly
    once, whatever dies in between. Entry n of the two arrays is one customer's metric.
    """

    pk = models.CompositePrimaryKey("organization_id", "id")
    organization = hot_organization()
    id = models.BigIntegerField()
    metric_ids = ArrayField(models.BigIntegerField())
    customer_ids = ArrayField(models.BigIntegerField())
    # The times of the changed events lie in `[earliest, latest)`.
    earliest = models.DateTimeField()
    latest = models.DateTimeField()
    is_void = models.BooleanField(default=False)

    objects = TenantManager()

    class Meta:
        db_table = "metering_usage_change"

    def __str__(self) -> str:
        return f"change {self.id}"


class EventVoid(models.Model):
    """An event taken back: a new row beside it, never an edit. `replacement_key` names the event that replaces it."""

    pk = models.CompositePrimaryKey("organization_id", "idempotency_key")
    organization = hot_organization()
    idempotency_key = models.CharField(max_length=256, db_collation="C")
    reason = models.CharField(max_length=1000)
    actor = models.CharField(max_length=320)
    replacement_key = models.CharField(max_length=256, blank=True, db_collation="C")
    voided_at = models.DateTimeField()
    # From the sequence of the batch ids, drawn under the rollup lock: cut-offs with a greater id know of the void.
    known_id = models.BigIntegerField(default=0)

    objects = TenantManager()

    def __str__(self) -> str:
        return f"void of {self.idempotency_key}"


class Series(models.Model):
    """One line of rollups: a customer's metric as a whole (`dimensions` null) or one combination of its dimensions."""

    pk = models.CompositePrimaryKey("organization_id", "id")
    organization = hot_organization()
    id = models.BigIntegerField()
    metric = models.ForeignKey(
        Metric, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    customer = models.ForeignKey(
        Customer, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    # Values in the order of the metric's dimensions; null: the customer's total over all of them.
    dimensions = ArrayField(models.TextField(null=True), null=True)
    # SHA-256 of the values (empty for the total): an index entry has a bounded size, a dimension's value has not.
    dimensions_key = models.BinaryField()

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "metric", "customer", "dimensions_key"], name="series_once"
            ),
        ]

    def __str__(self) -> str:
        return f"series {self.id}"


class Rollup(models.Model):
    """Aggregates of one series over one bucket `[bucket_start, bucket_start + width)`, from rolled batches alone."""

    pk = models.CompositePrimaryKey("organization_id", "series_id", "bucket_start")
    organization = hot_organization()
    series_id = models.BigIntegerField()
    bucket_start = models.DateTimeField()
    event_count = models.BigIntegerField()
    value_sum = QuantityField(null=True)
    value_min = QuantityField(null=True)
    value_max = QuantityField(null=True)
    # The reading with the greatest (occurred_at, offset).
    last_value = QuantityField(null=True)
    last_at = models.DateTimeField()
    last_offset = models.BigIntegerField()

    objects = TenantManager()

    class Meta:
        abstract = True


class Horizon(models.Model):
    """How far back an organization's finer data reaches. Moved forward only, before anything older is deleted."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True, related_name="+")
    # Minute rollups are complete from here on.
    minutes_from = models.DateTimeField()
    # Raw events are complete from here on; null: all of them are kept.
    raw_from = models.DateTimeField(null=True)

    objects = TenantManager()

    def __str__(self) -> str:
        return f"horizon of {self.organization_id}"


class TypeHorizon(models.Model):
    """How far back the data of one event type reaches, where it is kept for less long than all other.

    Whatever metric listens to the type is bound by it too. Moved forward only, before anything older is deleted.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    event_type = models.CharField(max_length=256, db_collation="C")
    # Raw events are complete from here on; null: as `Horizon` says.
    raw_from = models.DateTimeField(null=True)
    # What lies before `raw_from` has not been deleted to the end since it was moved.
    is_raw_due = models.BooleanField(default=False)
    # Rollups and member sets are complete from here on; null: all of them are kept.
    rollups_from = models.DateTimeField(null=True)
    # When `rollups_from` was moved: what lies before it is deleted an hour later at the earliest.
    rollups_moved_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "event_type"], name="type_horizon_once"),
        ]

    def __str__(self) -> str:
        return f"horizon of {self.event_type}"


class Erasure(models.Model):
    """A customer who was made anonymous: only rollups are left, under a name that stands for nobody.

    From its row on, no raw event of the customer can be relied on, and none is stored any more.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="+")
    # The name to be wiped out, until it is found nowhere any more; then empty.
    external_id = models.CharField(max_length=256, blank=True, db_collation="C")
    actor = models.CharField(max_length=320)
    # Raw events that were deleted so far.
    event_count = models.BigIntegerField(default=0)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "customer"], name="erasure_once"),
        ]

    def __str__(self) -> str:
        return f"erasure of customer {self.customer_id}"


class RollupMinute(Rollup):
    """Kept for the last days only: complete from `Horizon.minutes_from`."""

    class Meta:
        db_table = "metering_rollup_minute"

    def __str__(self) -> str:
        return f"minute {self.bucket_start} of {self.series_id}"


class RollupHour(Rollup):
    class Meta:
        db_table = "metering_rollup_hour"

    def __str__(self) -> str:
        return f"hour {self.bucket_start} of {self.series_id}"


class RollupDay(Rollup):
    class Meta:
        db_table = "metering_rollup_day"

    def __str__(self) -> str:
        return f"day {self.bucket_start} of {self.series_id}"


class Member(models.Model):
    """The dictionary of a count_unique metric: each member's dense number, the bit that stands for it in the sets."""

    pk = models.CompositePrimaryKey("organization_id", "metric_id", "member")
    organization = hot_organization()
    metric_id = models.BigIntegerField()
    member = models.CharField(max_length=256, db_collation="C")
    number = models.BigIntegerField()

    objects = TenantManager()

    class Meta:
        constraints = [
            # No two members share a bit; also finds the greatest number given so far.
            # Partial, though no number is negative, so that the planner cannot take it for the way to a member by
            # its name: that would be a walk through the whole dictionary for each.
            models.UniqueConstraint(
                fields=["organization", "metric_id", "number"],
                condition=models.Q(number__gte=0),
                name="member_number_once",
            ),
        ]

    def __str__(self) -> str:
        return self.member


class MemberSet(models.Model):
    """The members of one series in one bucket, as Roaring bitmaps over `Member.number`.

    `added` holds the members whose last operation in the bucket is an add, `removed` those whose last is a
    remove; a member is in at most one of the two.
    """

    pk = models.CompositePrimaryKey("organization_id", "series_id", "width", "bucket_start")
    organization = hot_organization()
    series_id = models.BigIntegerField()
    # "d" day or "h" hour; hours are kept for a customer's totals only.
    width = models.CharField(max_length=1)
    bucket_start = models.DateTimeField()
    added = models.BinaryField()
    removed = models.BinaryField(null=True)

    objects = TenantManager()

    class Meta:
        db_table = "metering_member_set"

    def __str__(self) -> str:
        return f"members of {self.series_id} at {self.bucket_start}"


class MemberMonth(models.Model):
    """Which version of its day sets a count_unique metric has in one UTC month: whoever writes one makes a new one.

    What was counted from the sets of a version stays true of it (`metering.queries.member_counts`).
    """

    pk = models.CompositePrimaryKey("organization_id", "metric_id", "month")
    organization = hot_organization()
    metric_id = models.BigIntegerField()
    month = models.DateTimeField()
    version = models.UUIDField()

    objects = TenantManager()

    class Meta:
        db_table = "metering_member_month"

    def __str__(self) -> str:
        return f"{self.month} of {self.metric_id}"


class InboxState(models.TextChoices):
    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class InboxEvent(models.Model):
    """An event that could not be counted, kept until somebody fixes the cause and replays it.

    Rows come from events of an unknown metric (where the organization keeps them), from events accepted
    asynchronously that turned out to be refused, which have nobody left to tell, and from a gateway's requests that
    could not be metered.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="inbox_events")
    idempotency_key = models.CharField(max_length=256, db_collation="C")
    # The event as JSON text, not jsonb: it was not admitted, so it may hold numbers that jsonb refuses.
    payload = models.TextField()
    event_type = models.CharField(max_length=256, blank=True, db_collation="C")
    code = models.CharField(max_length=64)
    message = models.TextField()
    received_at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=InboxState.choices, default=InboxState.WAITING)
    settled_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            # A sender's retry of an unmatched event is the same row, not a second one.
            models.UniqueConstraint(fields=["organization", "idempotency_key", "code"], name="inbox_event_once"),
        ]
        indexes = [models.Index(fields=["organization", "state", "event_type"], name="inbox_waiting_by_type")]

    def __str__(self) -> str:
        return f"{self.code}: {self.idempotency_key}"
