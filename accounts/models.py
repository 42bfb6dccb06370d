"""Who acts and for which organization: users, memberships, API keys, projects, customers, the audit log.

Owns identity and tenancy. Does not own anything that is counted.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from accounts.domain import HEX_ID_LENGTH
from accounts.domain import Role as Role
from accounts.domain import Scope as Scope
from common.models import TenantManager


@cache
def known_zones() -> frozenset[str]:
    """Return every IANA zone's name; read from disk once per process."""
    return frozenset(available_timezones())


def validate_zone(name: str) -> None:
    if name not in known_zones():
        raise ValidationError(f"{name!r} is not an IANA time zone.", code="invalid_zone")


# Letters, digits and `._-`, as LaunchDarkly's keys, which move in unchanged.
validate_key = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "A key is made of letters, digits and ._-", "invalid_key"
)
HEX_ID = r"\A[0-9a-f]{24}\Z"  # to Python and to PostgreSQL alike
validate_hex_id = RegexValidator(HEX_ID, "An id is 24 hexadecimal digits.", "invalid_id")

# A century: beyond any bookkeeping duty, and well inside what dates can be reckoned with.
MAX_DAYS = 36_500
DAY_COUNT = [MinValueValidator(1), MaxValueValidator(MAX_DAYS)]
MAX_RATE_PER_MINUTE = 1_000_000


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. May belong to several organizations; signs in by e-mail."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    objects = UserManager()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.email


class Organization(models.Model):
    """The tenant: owner of every row."""

    name = models.CharField(max_length=200)
    zone = models.CharField(max_length=64, default="UTC", validators=[validate_zone])
    # False: an event of an unseen customer is refused (`invalid_customer`) instead of creating the customer.
    is_customer_auto_created = models.BooleanField(default=True)
    # True: events that no metric listens to wait in the inbox instead of being only reported.
    is_unmatched_kept = models.BooleanField(default=False)
    # How far back an event's own time may lie when it arrives; None: any distance.
    late_limit_days = models.PositiveIntegerField(null=True, blank=True, validators=DAY_COUNT)
    # How long raw events are kept; None: for ever. Rollups stay.
    raw_retention_days = models.PositiveIntegerField(null=True, blank=True, validators=DAY_COUNT)
    # Requests per minute and API key; None: unlimited.
    rate_limit_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(MAX_RATE_PER_MINUTE)]
    )
    # Grows with every change of the organization's metrics and with every erased customer; ingest compares it to know
    # that what it remembers of both is fresh.
    metrics_version = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="membership_once_per_user")]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} as {self.role}"


class Invitation(models.Model):
    """An offer of a role to whoever proves to hold its token. Open until accepted, revoked or expired.

    The token travels by e-mail once; only its SHA-256 is stored.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=16, choices=Role.choices)
    token_hash = models.BinaryField(max_length=32, unique=True)
    invited_by = models.CharField(max_length=320)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            # A second invitation of the same address replaces the first, so that only the newest link works.
            models.UniqueConstraint(
                fields=["organization", "email"],
                condition=models.Q(accepted_at__isnull=True, revoked_at__isnull=True),
                name="invitation_open_once_per_email",
            )
        ]

    def __str__(self) -> str:
        return f"{self.email} as {self.role}"

    def state_at(self, now: datetime) -> str:
        """Return `accepted`, `revoked`, `expired` or `open`."""
        if self.accepted_at is not None:
            return "accepted"
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now else "open"


class Customer(models.Model):
    """Whom an organization meters and bills; named by `external_id`. Never deleted: usage refers to it.

    Erased (`metering.models.Erasure`), it goes on under a name that stands for nobody.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="customers")
    external_id = models.CharField(max_length=256, db_collation="C")
    name = models.CharField(max_length=200, blank=True)
    # Override the organization's zone and the metric's cycle day.
    zone = models.CharField(max_length=64, null=True, blank=True, validators=[validate_zone])  # noqa: DJ001
    billing_cycle_day = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(28)]
    )
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "external_id"], name="customer_external_id_once"),
            models.CheckConstraint(
                condition=models.Q(billing_cycle_day__isnull=True) | models.Q(billing_cycle_day__range=(1, 28)),
                name="customer_cycle_day_1_to_28",
            ),
        ]

    def __str__(self) -> str:
        return self.external_id


class ApiKey(models.Model):
    """A key `mb_<prefix>_<secret>`: found by its prefix, compared by the SHA-256 of its secret.

    A plain SHA-256 is enough because the secret is 256 random bits, not a password.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    secret_hash = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=32, choices=Scope.choices))
    # Bound to one customer: the key sees and writes that customer alone.
    customer = models.ForeignKey(Customer, null=True, blank=True, on_delete=models.CASCADE)
    # Bound to these metric codes; empty: all.
    metric_codes = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    # The key that replaced this one; this one stays valid until `expires_at`, the end of the grace.
    replaced_by = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL)
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    def __str__(self) -> str:
        return f"mb_{self.prefix}_… ({self.name})"


class Project(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="projects")
    key = models.CharField(max_length=64, validators=[validate_key])
    # The form in which clients of other systems expect an id. Derived from the key unless given; never changes.
    hex_id = models.CharField(max_length=HEX_ID_LENGTH, validators=[validate_hex_id])
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "key"], name="project_key_once"),
            models.UniqueConstraint(fields=["organization", "hex_id"], name="project_hex_id_once"),
            models.CheckConstraint(condition=models.Q(hex_id__regex=HEX_ID), name="project_hex_id_is_hex"),
        ]

    def __str__(self) -> str:
        return self.key


class Environment(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="environments")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="environments")
    key = models.CharField(max_length=64, validators=[validate_key])
    # As a project's.
    hex_id = models.CharField(max_length=HEX_ID_LENGTH, validators=[validate_hex_id])
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "project", "key"], name="environment_key_once"),
            models.UniqueConstraint(fields=["organization", "hex_id"], name="environment_hex_id_once"),
            models.CheckConstraint(condition=models.Q(hex_id__regex=HEX_ID), name="environment_hex_id_is_hex"),
        ]

    def __str__(self) -> str:
        return f"{self.project.key}/{self.key}"


class AuditEntry(models.Model):
    """One change of a setting, key, member or metric: who did what to which thing, when. Append-only."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="audit_entries")
    # "user:<email>", "key:<prefix>", "staff:<email>" (the admin) or "operator" (a management command).
    actor = models.CharField(max_length=320)
    # Verb with its noun: "metric.created", "api_key.rotated".
    action = models.CharField(max_length=64)
    target = models.CharField(max_length=320)
    details = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        # The audit page and list: one organization's entries, newest first, keyset by id.
        indexes = [models.Index(fields=["organization", "-id"], name="audit_newest_first")]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.action} {self.target} by {self.actor}"
