"""Forms of the account pages: they check shape and turn text into values; the services judge the meaning."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from django import forms

from accounts.domain import Role, Scope
from accounts.models import Customer, Organization

# Keys of projects and environments are parts of URLs and headers.
KEY_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

SCOPE_CHOICES = [
    (Scope.EVENTS_WRITE, "events:write: send and take back events"),
    (Scope.USAGE_READ, "usage:read: read usage, metrics and events"),
    (Scope.METRICS_WRITE, "metrics:write: define metrics, customers, projects"),
    (Scope.BILLING_READ, "billing:read: read plans and invoices"),
    (Scope.BILLING_WRITE, "billing:write: change them"),
    (Scope.ADMIN, "admin: all of these, and members, keys and settings"),
]
LIFETIME_CHOICES = [("", "Never"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")]
GRACE_CHOICES = [("24", "for a day"), ("1", "for an hour"), ("168", "for a week"), ("0", "not at all")]
CYCLE_DAY_CHOICES = [("", "As the metric says"), *((str(day), str(day)) for day in range(1, 29))]


def zone_choices() -> list[tuple[str, str]]:
    return [(zone, zone) for zone in sorted(available_timezones())]


class OrganizationForm(forms.ModelForm):
    zone = forms.ChoiceField(label="Time zone", help_text="Where days and billing periods begin.")

    class Meta:
        model = Organization
        fields = (
            "name",
            "zone",
            "is_customer_auto_created",
            "is_unmatched_kept",
            "late_limit_days",
            "raw_retention_days",
            "rate_limit_per_minute",
        )
        labels = {
            "is_customer_auto_created": "Create customers on first sight",
            "is_unmatched_kept": "Keep events that no metric listens to",
            "late_limit_days": "Late limit, in days",
            "raw_retention_days": "Keep raw events, in days",
            "rate_limit_per_minute": "Requests per minute and key",
        }
        help_texts = {
            "is_customer_auto_created": "Otherwise an event of an unknown customer is refused.",
            "is_unmatched_kept": "They wait in the inbox and can be counted after the metric is defined.",
            "late_limit_days": "How far back an event's own time may lie when it arrives. Empty: any distance.",
            "raw_retention_days": "Totals stay when the events behind them go. What is not billed yet stays too. "
            "Empty: for ever.",
            "rate_limit_per_minute": "Empty: unlimited.",
        }

    def __init__(self, *args: Any, is_editable: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["zone"].choices = zone_choices()  # type: ignore[attr-defined]  # a ChoiceField, declared above
        for field in self.fields.values():
            field.disabled = not is_editable


class NewOrganizationForm(forms.Form):
    name = forms.CharField(max_length=200, help_text="Your company or product.")
    zone = forms.ChoiceField(label="Time zone", choices=zone_choices, initial="UTC", help_text="Where days begin.")


class InvitationForm(forms.Form):
    email = forms.EmailField(label="Email")
    role = forms.ChoiceField()

    def __init__(self, *args: Any, roles: list[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["role"].choices = roles  # type: ignore[attr-defined]  # a ChoiceField, declared above
        self.fields["role"].initial = Role.DEVELOPER


class ApiKeyForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="Which service will use it.")
    scopes = forms.MultipleChoiceField(
        choices=SCOPE_CHOICES,
        widget=forms.CheckboxSelectMultiple,
        initial=[Scope.EVENTS_WRITE],
    )
    lifetime = forms.ChoiceField(label="Expires", choices=LIFETIME_CHOICES, required=False)
    customer = forms.CharField(
        max_length=256, required=False, help_text="A customer's id: the key then sees and writes that customer alone."
    )

    def expires_at(self, now: datetime) -> datetime | None:
        days = self.cleaned_data["lifetime"]
        return now + timedelta(days=int(days)) if days else None


class RotationForm(forms.Form):
    grace = forms.TypedChoiceField(choices=GRACE_CHOICES, coerce=lambda hours: timedelta(hours=int(hours)))


class ProjectForm(forms.Form):
    key = forms.RegexField(KEY_PATTERN, help_text="Lower-case letters, digits, - and _.")
    name = forms.CharField(max_length=200)


class EnvironmentForm(ProjectForm):
    project = forms.ChoiceField()
    field_order = ("project", "key", "name")

    def __init__(self, *args: Any, projects: list[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["project"].choices = projects  # type: ignore[attr-defined]  # a ChoiceField, declared above


class CustomerForm(forms.Form):
    """The fields that may change. `NewCustomerForm` adds the id, which never does."""

    name = forms.CharField(max_length=200, required=False)
    zone = forms.ChoiceField(label="Time zone", required=False, help_text="Empty: the organization's.")
    billing_cycle_day = forms.TypedChoiceField(
        label="Cycle day", choices=CYCLE_DAY_CHOICES, coerce=int, empty_value=None, required=False
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["zone"].choices = [("", "As the organization"), *zone_choices()]  # type: ignore[attr-defined]

    def clean_zone(self) -> str | None:
        return self.cleaned_data["zone"] or None

    @staticmethod
    def initial_of(customer: Customer) -> dict[str, Any]:
        return {"name": customer.name, "zone": customer.zone, "billing_cycle_day": customer.billing_cycle_day}


class NewCustomerForm(CustomerForm):
    external_id = forms.CharField(label="Id", max_length=256, help_text="Your own name for it; events use it.")
    field_order = ("external_id", "name", "zone", "billing_cycle_day")
