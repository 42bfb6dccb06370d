"""URLs of accounts under `/v1/`. Ids that cannot exist do not match, and so are a 404 like any other."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from accounts.api import schema, views


class IdConverter:
    """The decimal id of a row."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


class ExternalIdConverter(StringConverter):
    """A customer's id as the organization writes it: any characters, also slashes, but no NUL."""

    regex = r"(?s:[^\x00]{1,256})"


class KeyConverter(StringConverter):
    """The key of a project or environment."""

    regex = "[A-Za-z0-9._-]{1,64}"


register_converter(IdConverter, "id")
register_converter(KeyConverter, "key")
register_converter(ExternalIdConverter, "external_id")

app_name = "accounts_api"
urlpatterns = [
    path("openapi.json", schema.openapi, name="openapi"),
    path("docs", schema.docs, name="docs"),
    path("organization", views.OrganizationView.as_view(), name="organization"),
    path("customers", views.CustomerListView.as_view(), name="customers"),
    path("customers/<external_id:external_id>", views.CustomerView.as_view(), name="customer"),
    path("api-keys", views.ApiKeyListView.as_view(), name="api-keys"),
    path("api-keys/current", views.CurrentApiKeyView.as_view(), name="current-api-key"),
    path("api-keys/<id:key_id>", views.ApiKeyView.as_view(), name="api-key"),
    path("api-keys/<id:key_id>/rotate", views.ApiKeyRotateView.as_view(), name="rotate-api-key"),
    path("api-keys/<id:key_id>/revoke", views.ApiKeyRevokeView.as_view(), name="revoke-api-key"),
    path("projects", views.ProjectListView.as_view(), name="projects"),
    path("projects/<key:project_key>", views.ProjectView.as_view(), name="project"),
    path("projects/<key:project_key>/environments", views.EnvironmentListView.as_view(), name="environments"),
    path(
        "projects/<key:project_key>/environments/<key:environment_key>",
        views.EnvironmentView.as_view(),
        name="environment",
    ),
    path("members", views.MemberListView.as_view(), name="members"),
    path("members/<id:member_id>", views.MemberView.as_view(), name="member"),
    path("invitations", views.InvitationListView.as_view(), name="invitations"),
    path("invitations/<id:invitation_id>/revoke", views.InvitationRevokeView.as_view(), name="revoke-invitation"),
    path("audit-log", views.AuditLogView.as_view(), name="audit-log"),
]
