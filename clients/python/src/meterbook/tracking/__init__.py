"""Recording every request that an application serves, without holding one up.

    recorder = client.track_requests()
    application = WSGITracking(application, recorder, user_of=lambda environ: environ.get("REMOTE_USER"))

The middleware (`WSGITracking`, `ASGITracking`, and for Django `meterbook.tracking.django.TrackingMiddleware`) looks at
each request as it passes; the recorder sends what it saw in batches, from a thread of its own. What a request counts
for is decided on the server, by the route it belongs to.
"""

from meterbook.tracking.asgi import ASGITracking
from meterbook.tracking.recorder import RequestRecorder, TrackingCounters
from meterbook.tracking.wsgi import WSGITracking

__all__ = ["ASGITracking", "RequestRecorder", "TrackingCounters", "WSGITracking"]
