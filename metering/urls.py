"""Routes of the metering pages, all below `/o/<organization>/`."""

from django.urls import include, path

from metering import views

app_name = "metering"

organization_patterns = [
    path("", views.metric_list, name="metric_list"),
    path("new-metric", views.new_metric, name="new_metric"),
    path("metrics/<str:code>/", views.metric, name="metric"),
    path("metrics/<str:code>/edit", views.edit_metric, name="edit_metric"),
    path("metrics/<str:code>/archive", views.archive_metric, name="archive_metric"),
    path("customers/<int:customer_id>/", views.customer, name="customer"),
    path("events/", views.event_list, name="event_list"),
    path("events/rows", views.event_rows, name="event_rows"),
    path("event/", views.event, name="event"),
    path("event/void", views.void_event, name="void_event"),
    path("inbox/", views.inbox, name="inbox"),
    path("catalogs/", views.catalog_list, name="catalog_list"),
    path("catalogs/<str:name>/install", views.install_catalog, name="install_catalog"),
]

urlpatterns = [path("o/<int:organization_id>/", include(organization_patterns))]
