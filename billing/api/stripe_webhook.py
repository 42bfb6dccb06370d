"""`POST /v1/stripe/webhook`: where Stripe tells what happened. Signed by Stripe; there is no API key and no session."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing.clients.stripe_events import read_event
from billing.services.stripe_inbox import receive_event
from common.bodies import read_body
from common.errors import MethodNotAllowed, NotFound

MAX_BODY_BYTES = 512 * 1024


class WebhookNotConfigured(NotFound):
    code = "stripe_webhook_not_configured"


@csrf_exempt  # Stripe has no cookies; what it says is signed
def receive_webhook(request: HttpRequest) -> HttpResponse:
    """Keep the event and answer; it is handled afterwards. Says the same to a repetition, which changes nothing."""
    if request.method != "POST":
        raise MethodNotAllowed("Stripe posts its events here.", headers={"Allow": "POST"})
    if not settings.STRIPE_WEBHOOK_SECRETS:
        raise WebhookNotConfigured("This installation takes no events of Stripe's. Set STRIPE_WEBHOOK_SECRET.")
    body = read_body(request, max_bytes=MAX_BODY_BYTES)
    signature = request.headers.get("Stripe-Signature", "")
    event = read_event(body, signature, secrets=settings.STRIPE_WEBHOOK_SECRETS)
    is_new = receive_event(event=event, now=timezone.now())
    return JsonResponse({"id": event["id"], "is_new": is_new})
