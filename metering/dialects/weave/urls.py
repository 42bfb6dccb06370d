"""Routes of the forward port's pages, all below `/o/<organization>/forwarding/`."""

from django.urls import include, path

from metering.dialects.weave import views

app_name = "weave"

organization_patterns = [
    path("", views.forwarding, name="forwarding"),
    path("map", views.map_instance, name="map_instance"),
    path("unmap", views.unmap_instance, name="unmap_instance"),
    path("settings", views.change_settings, name="change_settings"),
    path("quarantine/", views.quarantine, name="quarantine"),
]

urlpatterns = [path("o/<int:organization_id>/forwarding/", include(organization_patterns))]
