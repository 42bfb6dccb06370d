"""The JSON of accounts: `…Read` is what we answer, `…Write` what we take."""

from datetime import datetime
from typing import Any

from django.core.validators import RegexValidator
from django.utils import timezone
from rest_framework import serializers

from accounts.domain import MAX_ROTATION_GRACE, ROTATION_GRACE, Role, Scope
from accounts.models import MAX_DAYS, MAX_RATE_PER_MINUTE, Invitation, validate_hex_id, validate_key, validate_zone
from common.api import Flag, Moment, StrictSerializer, Text, WholeNumber

Read = serializers.Serializer[Any]
MAX_KEY_METRICS = 100
# The form alone: metrics are not known down here, and a key may be made before its metrics.
validate_metric_code = RegexValidator(r"\A[a-z0-9_.:-]+\Z", "A code is made of a-z, 0-9 and _.:-", "invalid_code")


class Zone(Text):
    """The name of an IANA time zone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=64, validators=[validate_zone], help_text="An IANA time zone.", **options)


class CycleDay(WholeNumber):
    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=1, max_value=28, **options)


class OrganizationRead(Read):
    id = serializers.CharField(source="pk")
    name = serializers.CharField()
    zone = serializers.CharField()
    is_customer_auto_created = serializers.BooleanField()
    is_unmatched_kept = serializers.BooleanField()
    late_limit_days = serializers.IntegerField(allow_null=True)
    raw_retention_days = serializers.IntegerField(allow_null=True)
    rate_limit_per_minute = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class OrganizationWrite(StrictSerializer):
    name = Text(max_length=200)
    zone = Zone()
    is_customer_auto_created = Flag(help_text="Whether an event of an unseen customer creates the customer.")
    is_unmatched_kept = Flag(help_text="Whether events that no metric listens to wait in the inbox.")
    late_limit_days = WholeNumber(allow_null=True, min_value=1, max_value=MAX_DAYS)
    raw_retention_days = WholeNumber(allow_null=True, min_value=1, max_value=MAX_DAYS)
    rate_limit_per_minute = WholeNumber(allow_null=True, min_value=1, max_value=MAX_RATE_PER_MINUTE)


class CustomerRead(Read):
    external_id = serializers.CharField()
    name = serializers.CharField()
    zone = serializers.CharField(allow_null=True)
    billing_cycle_day = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class CustomerChange(StrictSerializer):
    name = Text(max_length=200, allow_blank=True, required=False)
    zone = Zone(allow_null=True, required=False)
    billing_cycle_day = CycleDay(allow_null=True, required=False)


class CustomerWrite(CustomerChange):
    # Not trimmed: events name the customer by exactly these characters.
    external_id = Text(max_length=256, trim_whitespace=False)


class ApiKeyRead(Read):
    id = serializers.CharField(source="pk")
    name = serializers.CharField()
    prefix = serializers.CharField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))
    customer = serializers.CharField(
        source="customer.external_id", default=None, allow_null=True, help_text="The one customer that the key sees."
    )
    metrics = serializers.ListField(
        child=serializers.CharField(), source="metric_codes", help_text="The metrics that the key sees; empty: all."
    )
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    replaced_by = serializers.CharField(source="replaced_by_id", allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class ApiKeyIssued(Read):
    """A new key, with the only copy of its text."""

    text = serializers.CharField(help_text="Send it as `Authorization: Bearer …`. It is never shown again.")
    api_key = ApiKeyRead()


class ApiKeyWrite(StrictSerializer):
    name = Text(max_length=100)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices), min_length=1, max_length=20)
    customer = Text(max_length=256, allow_null=True, required=False, trim_whitespace=False)
    metrics = serializers.ListField(
        child=Text(max_length=64, validators=[validate_metric_code]), required=False, max_length=MAX_KEY_METRICS
    )
    expires_at = Moment(allow_null=True, required=False)

    def validate_expires_at(self, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None and expires_at <= timezone.now():
            raise serializers.ValidationError("This time has passed.", code="in_the_past")
        return expires_at


class ApiKeyRotation(StrictSerializer):
    grace_seconds = WholeNumber(
        min_value=0,
        max_value=int(MAX_ROTATION_GRACE.total_seconds()),
        default=int(ROTATION_GRACE.total_seconds()),
        help_text="How long the old key stays valid.",
    )


class ProjectRead(Read):
    id = serializers.CharField(source="hex_id", help_text="24 hexadecimal digits.")
    key = serializers.CharField()
    name = serializers.CharField()
    created_at = serializers.DateTimeField()


class HexId(Text):
    def __init__(self, **options: Any) -> None:
        help_text = "Keep the id that clients already know; without it, the id follows from the key."
        super().__init__(required=False, validators=[validate_hex_id], help_text=help_text, **options)


class NameWrite(StrictSerializer):
    name = Text(max_length=200)


class ProjectWrite(NameWrite):
    key = Text(max_length=64, validators=[validate_key])
    id = HexId()


class EnvironmentRead(Read):
    id = serializers.CharField(source="hex_id", help_text="24 hexadecimal digits.")
    key = serializers.CharField()
    project = serializers.CharField(source="project.key")
    name = serializers.CharField()
    created_at = serializers.DateTimeField()


class EnvironmentWrite(NameWrite):
    key = Text(max_length=64, validators=[validate_key])
    id = HexId()


class MemberRead(Read):
    id = serializers.CharField(source="pk")
    email = serializers.CharField(source="user.email")
    name = serializers.CharField(source="user.name")
    role = serializers.ChoiceField(choices=Role.choices)
    created_at = serializers.DateTimeField()


class MemberWrite(StrictSerializer):
    role = serializers.ChoiceField(choices=Role.choices)


class InvitationRead(Read):
    id = serializers.CharField(source="pk")
    email = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)
    state = serializers.SerializerMethodField()
    invited_by = serializers.CharField()
    expires_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()

    def get_state(self, invitation: Invitation) -> str:
        return invitation.state_at(timezone.now())


class InvitationIssued(Read):
    """A new invitation, with the only copy of its link. The link is also mailed."""

    accept_url = serializers.CharField()
    invitation = InvitationRead()


class InvitationWrite(StrictSerializer):
    email = serializers.EmailField(max_length=254)
    role = serializers.ChoiceField(choices=Role.choices)


class AuditEntryRead(Read):
    id = serializers.CharField(source="pk")
    actor = serializers.CharField()
    action = serializers.CharField()
    target = serializers.CharField()
    details = serializers.DictField()
    created_at = serializers.DateTimeField()
