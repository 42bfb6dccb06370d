"""The staff's lens on accounts: read-mostly; what changes anything goes through the services and their audit log."""

from typing import Any

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin

from accounts import services
from accounts.models import (
    ApiKey,
    AuditEntry,
    Customer,
    Environment,
    Invitation,
    Membership,
    Organization,
    Project,
    User,
)

# The admin signs in where everybody does: the same rate limits, the same second factor.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
admin.site.site_header = admin.site.site_title = "Meterbook"
# As the packages register them these show the secrets of second factors and let staff edit addresses.
admin.site.unregister((Authenticator, EmailAddress))
# Nobody has rights by groups here: a staff member sees everything or is not staff.
admin.site.unregister(Group)


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows; neither adds, nor changes, nor deletes."""

    show_full_result_count = False  # COUNT(*) of a large table would be the slowest part of the page
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(ModelAdmin):
    """People are switched off, not deleted: the audit log names them. Passwords are theirs alone to set."""

    list_display = ("email", "name", "is_active", "is_staff", "last_login", "created_at")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "name")
    fields = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "created_at")
    readonly_fields = ("email", "last_login", "created_at")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Organization)
class OrganizationAdmin(ModelAdmin):
    """Settings may be changed, through the service, so that the organization finds it in its audit log."""

    list_display = ("name", "zone", "rate_limit_per_minute", "created_at")
    search_fields = ("name",)
    fields = (
        "name",
        "zone",
        "is_customer_auto_created",
        "is_unmatched_kept",
        "late_limit_days",
        "raw_retention_days",
        "rate_limit_per_minute",
        "created_at",
    )
    readonly_fields = ("created_at",)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Organization, form: Any, change: bool) -> None:
        changes = {name: form.cleaned_data[name] for name in form.changed_data}
        services.update_organization(organization=obj, actor=_actor(request), changes=changes)


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role",)
    search_fields = ("user__email", "organization__name")
    list_select_related = ("user", "organization")


@admin.register(Invitation)
class InvitationAdmin(ReadOnlyAdmin):
    list_display = ("email", "organization", "role", "invited_by", "expires_at", "accepted_at", "revoked_at")
    search_fields = ("email", "organization__name")
    list_select_related = ("organization",)
    exclude = ("token_hash",)


@admin.register(Customer)
class CustomerAdmin(ReadOnlyAdmin):
    list_display = ("external_id", "organization", "name", "zone", "billing_cycle_day", "created_at")
    search_fields = ("external_id__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("prefix", "name", "organization", "scopes", "expires_at", "revoked_at", "last_used_at")
    search_fields = ("prefix", "name", "organization__name")
    list_select_related = ("organization",)
    exclude = ("secret_hash",)
    actions = ("revoke",)

    @admin.action(description="Revoke the selected keys at once")
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        for key in keys.select_related("organization"):
            services.revoke_api_key(
                organization=key.organization, actor=_actor(request), api_key=key, now=timezone.now()
            )
        self.message_user(request, "Revoked. Whoever uses these keys is refused from now on.", messages.SUCCESS)


@admin.register(Project)
class ProjectAdmin(ReadOnlyAdmin):
    list_display = ("key", "name", "organization", "hex_id", "created_at")
    list_select_related = ("organization",)


@admin.register(Environment)
class EnvironmentAdmin(ReadOnlyAdmin):
    list_display = ("key", "name", "project", "organization", "hex_id", "created_at")
    list_select_related = ("organization", "project")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "organization", "actor", "action", "target")
    list_filter = ("action",)
    search_fields = ("actor", "target", "organization__name")
    list_select_related = ("organization",)


@admin.register(EmailAddress)
class EmailAddressAdmin(ReadOnlyAdmin):
    list_display = ("email", "user", "primary", "verified")
    search_fields = ("email",)
    list_select_related = ("user",)


@admin.register(Authenticator)
class AuthenticatorAdmin(ReadOnlyAdmin):
    """Deleting one lets a person who lost the second factor sign in by password and set up another."""

    list_display = ("user", "type", "created_at", "last_used_at")
    search_fields = ("user__email",)
    list_select_related = ("user",)
    exclude = ("data",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super(ReadOnlyAdmin, self).has_delete_permission(request, obj)


def _actor(request: HttpRequest) -> str:
    """Name the staff member as such: to the organization they are a stranger."""
    return f"staff:{request.user.get_username()}"
