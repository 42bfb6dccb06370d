"""Turning customers away who are over a limit, without asking the server for every request.

    caps = UsageCaps(client, thresholds={"hard_cap"})
    enforcement = Enforcement(caps, client.buffered(), metric="api_calls")
    application = WSGIEnforcement(application, enforcement, customer_of=lambda environ: environ.get("HTTP_X_CUSTOMER"))

`UsageCaps` knows who is over a threshold, from the stream of alerts; the middleware answers them 402 and records the
requests of the others. For Django there is `meterbook.django.EnforcementMiddleware`. This is a local, slightly late
view: a limit that must hold to the unit is what `client.quota.reserve` is for.
"""

from meterbook.enforcement.asgi import ASGIEnforcement
from meterbook.enforcement.caps import Cap, UsageCaps
from meterbook.enforcement.gate import Enforcement, refusal_body
from meterbook.enforcement.wsgi import WSGIEnforcement

__all__ = ["ASGIEnforcement", "Cap", "Enforcement", "UsageCaps", "WSGIEnforcement", "refusal_body"]
