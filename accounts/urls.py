"""Routes of the account pages. Whatever belongs to one organization lies below `/o/<its id>/`."""

from django.urls import include, path

from accounts import views

app_name = "accounts"

organization_patterns = [
    path("customers/", views.customer_list, name="customer_list"),
    path("customers/new", views.new_customer, name="new_customer"),
    path("customers/<int:customer_id>/edit", views.edit_customer, name="edit_customer"),
    path("settings/", views.organization_settings, name="organization_settings"),
    path("members/", views.member_list, name="member_list"),
    path("members/<int:member_id>/role", views.change_role, name="change_role"),
    path("members/<int:member_id>/remove", views.remove, name="remove_member"),
    path("invitations/<int:invitation_id>/revoke", views.revoke_invitation, name="revoke_invitation"),
    path("keys/", views.api_key_list, name="api_key_list"),
    path("keys/<int:key_id>/rotate", views.rotate_key, name="rotate_api_key"),
    path("keys/<int:key_id>/revoke", views.revoke_key, name="revoke_api_key"),
    path("projects/", views.project_list, name="project_list"),
    path("projects/new", views.new_project, name="create_project"),
    path("projects/environments/new", views.new_environment, name="create_environment"),
    path("audit/", views.audit_log, name="audit_log"),
]

urlpatterns = [
    path("", views.home, name="home"),
    path("organizations/new", views.new_organization, name="new_organization"),
    path("invitations/<str:token>", views.invitation, name="invitation"),
    path("o/<int:organization_id>/", include(organization_patterns)),
]
