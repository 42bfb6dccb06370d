"""Routes below `/api/v1/`, also when the client's URL ends with a slash and the path begins with two.

Without slashes at the end, as the client sends them. A product may be anything, also empty, which the reader refuses.
"""

from django.urls import re_path

from metering.dialects.influx.api import views

app_name = "influx_api"
urlpatterns = [
    re_path(r"^servers$", views.post_server, name="servers"),
    re_path(r"^stats/(?P<product>[\s\S]*)$", views.post_stats, name="stats"),
    re_path(r"^usage/(?P<product>[\s\S]*)$", views.post_usage, name="usage"),
    re_path(r"^(?P<rest>[\s\S]*)$", views.find_nothing, name="nothing"),
]
