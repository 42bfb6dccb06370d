"""Routes of the forward port's API under `/v1/weave/`."""

from django.urls import path

from metering.dialects.weave.api import views

app_name = "weave_api"
urlpatterns = [
    path("instances", views.InstanceListView.as_view(), name="instances"),
    # Ids are the sender's words: any characters, as customers' ids.
    path("instances/<external_id:internal_instance_id>", views.InstanceView.as_view(), name="instance"),
    path("quarantine", views.QuarantineView.as_view(), name="quarantine"),
    path("quarantine/release", views.QuarantineReleaseView.as_view(), name="quarantine-release"),
    path("quarantine/discard", views.QuarantineDiscardView.as_view(), name="quarantine-discard"),
    path("settings", views.SettingsView.as_view(), name="settings"),
]
