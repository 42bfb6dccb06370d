"""Routes of the metering API under `/v1/`."""

from django.http import HttpRequest, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from metering.api import events, exports, ingest, metrics, usage

_list_events = events.EventListView.as_view()


@csrf_exempt
def events_by_method(request: HttpRequest) -> HttpResponseBase:
    """Send ingest around DRF and the list through it."""
    if request.method == "POST":
        return ingest.post_events(request)
    return _list_events(request) if request.method in {"GET", "HEAD"} else HttpResponseNotAllowed(["GET", "POST"])


# What DRF's own `as_view` sets: the OpenAPI document finds the list by it (ingest is described in `schema`).
events_by_method.cls = events.EventListView  # type: ignore[attr-defined]  # functions take attributes
events_by_method.initkwargs = {}  # type: ignore[attr-defined]


app_name = "metering_api"
urlpatterns = [
    path("events", events_by_method, name="events"),
    path("events/validate", ingest.post_validation, name="events-validate"),
    path("events/<path:key>/void", events.EventVoidView.as_view(), name="event-void"),
    path("events/<path:key>/replace", events.EventReplaceView.as_view(), name="event-replace"),
    path("events/<path:key>", events.EventView.as_view(), name="event"),
    path("inbox", events.InboxView.as_view(), name="inbox"),
    path("inbox/replay", events.InboxReplayView.as_view(), name="inbox-replay"),
    path("inbox/discard", events.InboxDiscardView.as_view(), name="inbox-discard"),
    path("metrics", metrics.MetricListView.as_view(), name="metrics"),
    path("metrics/<str:code>", metrics.MetricView.as_view(), name="metric"),
    path("catalogs", metrics.CatalogListView.as_view(), name="catalogs"),
    path("catalogs/<str:name>/install", metrics.CatalogInstallView.as_view(), name="catalog-install"),
    path("usage", usage.RangeView.as_view(), name="usage"),
    path("usage/realtime", usage.RealtimeView.as_view(), name="usage-realtime"),
    path("usage/breakdown", usage.BreakdownView.as_view(), name="usage-breakdown"),
    path("usage/series", usage.SeriesView.as_view(), name="usage-series"),
    path("usage/export", exports.ExportView.as_view(), name="usage-export"),
]
