"""Routes of the gateway's pages, all below `/o/<organization>/`."""

from django.urls import include, path

from metering.dialects.gateway import views

app_name = "gateway"

organization_patterns = [
    path("routes/", views.route_list, name="route_list"),
    path("routes/new", views.new_route, name="new_route"),
    path("routes/check", views.check_expression, name="check_expression"),
    path("routes/<str:code>/edit", views.edit_route, name="edit_route"),
    path("routes/<str:code>/delete", views.delete_route, name="delete_route"),
    path("request-tracking/", views.settings, name="settings"),
]

urlpatterns = [path("o/<int:organization_id>/", include(organization_patterns))]
