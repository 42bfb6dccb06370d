"""Routes of the dialect's pages: the registration of a cluster, and the fleet below `/o/<organization>/`."""

from django.urls import include, path

from metering.dialects.influx import views

app_name = "influx"

organization_patterns = [
    path("fleet/", views.fleet, name="fleet"),
    path("fleet/<int:server_id>/", views.server, name="server"),
]

urlpatterns = [
    # No slash at the end: the client makes this address itself.
    path("start", views.start, name="start"),
    path("o/<int:organization_id>/", include(organization_patterns)),
]
