"""Saved reports that are mailed on a schedule, whom they go to, and what became of each sending.

Owns no usage number: every one of them comes from `metering.queries`.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from accounts.models import Customer, Membership, Organization, validate_zone
from common.models import TenantManager
from metering.domain import Granularity, Mode
from metering.models import Metric
from usage_reports.domain import Frequency, ReportRange, RunState, Schedule

MAX_GROUPS = 3


class Report(models.Model):
    """Usage of one metric, to be mailed as a file: a breakdown of the range or, with a granularity, a series."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="usage_reports")
    name = models.CharField(max_length=100)
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    # Null: all customers.
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    # {"region": ["us", null]}: only usage with one of the values, for every dimension named; null: without it.
    filters = models.JSONField(default=dict, blank=True)
    group_by = ArrayField(models.CharField(max_length=128), default=list, blank=True, size=MAX_GROUPS)
    # Empty: a breakdown, one row per group for the whole range.
    granularity = models.CharField(
        max_length=8, choices=[(width.value, width.value) for width in Granularity], blank=True, default=""
    )
    # What a point of a series covers.
    mode = models.CharField(
        max_length=16, choices=[(mode.value, mode.value) for mode in Mode], default=Mode.INCREMENTAL.value
    )
    range_name = models.CharField(max_length=16, choices=ReportRange.choices, default=ReportRange.LAST_7_DAYS)

    frequency = models.CharField(max_length=8, choices=Frequency.choices, default=Frequency.WEEKLY)
    # At this full hour of local time.
    hour = models.PositiveSmallIntegerField(default=7, validators=[MaxValueValidator(23)])
    # 0: Monday. For weekly ones.
    weekday = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(6)])
    # In a shorter month its last day. For monthly ones.
    day_of_month = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(31)])
    # Of the schedule, the range and the buckets; empty: the organization's.
    zone = models.CharField(max_length=64, blank=True, default="", validators=[validate_zone])

    # Null: paused.
    next_due_at = models.DateTimeField(null=True, blank=True)
    # The zone in which `next_due_at` was reckoned: the organization may change its own.
    planned_zone = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(hour__range=(0, 23), weekday__range=(0, 6), day_of_month__range=(1, 31)),
                name="report_schedule_in_calendar",
            ),
        ]
        indexes = [
            # The list of one organization, newest first.
            models.Index(fields=["organization", "-id"], name="report_newest_first"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_paused(self) -> bool:
        return self.next_due_at is None

    @property
    def zone_name(self) -> str:
        """Return the zone that counts. Needs `organization`."""
        return self.zone or self.organization.zone

    @property
    def schedule(self) -> Schedule:
        return Schedule(Frequency(self.frequency), self.hour, self.weekday, self.day_of_month)


class ReportRecipient(models.Model):
    """Who gets a report: a member, as long as they are one, or somebody outside by address."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="recipients")
    # In lower case; of a member the address they had when they were added.
    email = models.EmailField()
    # Null: somebody outside, whose mails have a link to stop them.
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, null=True, blank=True, related_name="+")

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "report", "email"], name="report_recipient_once"),
        ]

    def __str__(self) -> str:
        return self.email

    @property
    def address(self) -> str:
        """Return where mail goes: for a member, wherever they are reached now. Needs `membership__user`."""
        return self.membership.user.email if self.membership else self.email


class ReportOptOut(models.Model):
    """Somebody outside who wants no more of a report. It outlives the recipient: adding them again changes nothing."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="opt_outs")
    email = models.EmailField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "report", "email"], name="report_opt_out_once"),
        ]

    def __str__(self) -> str:
        return self.email


class ReportRun(models.Model):
    """One sending of a report, from the moment it is due until the mail server took it or we gave up."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="runs")
    # What the schedule says, or when somebody asked for it. The range is reckoned from here, also for a late attempt.
    due_at = models.DateTimeField()
    is_manual = models.BooleanField(default=False)
    state = models.CharField(max_length=8, choices=RunState.choices, default=RunState.PENDING)
    # What it told of, as the report was at the last attempt.
    range_start = models.DateTimeField(null=True)
    range_end = models.DateTimeField(null=True)
    # Null: not known, because nothing was built yet or the file was too large to attach.
    row_count = models.PositiveIntegerField(null=True)
    # Null: nothing was built yet. False: the file was too large.
    is_attached = models.BooleanField(null=True)
    attempt_count = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    # The lease of the worker that is at it, by which it proves that the run is still its own.
    leased_until = models.DateTimeField(null=True)
    # When the last recipient's mail was taken; null unless all were.
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            # Exactly once, however many workers find it due.
            models.UniqueConstraint(fields=["organization", "report", "due_at"], name="report_run_once"),
        ]
        indexes = [
            # What waits to be sent.
            models.Index(
                fields=["organization", "next_attempt_at"],
                condition=models.Q(state=RunState.PENDING),
                name="report_run_pending",
            ),
            # The history of one report, newest first.
            models.Index(fields=["organization", "report", "-id"], name="report_run_of_report"),
        ]

    def __str__(self) -> str:
        return f"{self.report_id} due {self.due_at}"


class ReportDelivery(models.Model):
    """A mail of a run that the mail server took. Written at once, so that a crash repeats one mail at most."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    run = models.ForeignKey(ReportRun, on_delete=models.CASCADE, related_name="deliveries")
    email = models.EmailField()
    sent_at = models.DateTimeField()

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "run", "email"], name="report_delivery_once"),
        ]
        verbose_name_plural = "report deliveries"

    def __str__(self) -> str:
        return self.email
