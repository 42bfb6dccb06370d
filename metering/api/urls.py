"""Routes of the metering API under `/v1/`."""

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt

from metering.api import ingest

urlpatterns: list[URLPattern] = [
    path("events", ingest.post_events, name="events"),
    path("events/validate", ingest.validate_events, name="events-validate"),
]
