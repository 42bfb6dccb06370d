"""Stripe's webhooks: whether a body was signed by Stripe, and what a thin event leaves out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import stripe

from billing.clients.stripe import calls, connect
from common.errors import BadRequest

# How old a signature may be. https://docs.stripe.com/webhooks#replay-attacks
TOLERANCE_SECONDS = 300
# What the database's JSON has no place for: zero bytes, as they are written, and halves of characters.
UNSTORABLE = re.compile(r"\\u0000|[\ud800-\udfff]")


class InvalidSignature(BadRequest):
    code = "invalid_signature"


def read_event(body: bytes, signature: str, *, secrets: Sequence[str]) -> dict[str, Any]:
    """Return the event, signed with any of the secrets. Raises `InvalidSignature`, or `BadRequest` for another body.

    The package's `construct_event` would refuse thin events, which are signed in the same way.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidSignature("The body is not text.") from None
    if not any(_is_signed(text, signature, secret) for secret in secrets):
        raise InvalidSignature("The body is not signed with a secret of this installation, or was signed too long ago.")
    try:
        event = json.loads(text, parse_constant=_refuse_constant)
        is_storable = not UNSTORABLE.search(json.dumps(event, ensure_ascii=False))
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.", code="invalid_json") from None
    if not is_storable or not isinstance(event, dict) or not all(_is_name(event.get(name)) for name in ("id", "type")):
        raise BadRequest("The body is not an event.", code="invalid_event")
    return event


def _is_signed(text: str, signature: str, secret: str) -> bool:
    # The package compares in constant time, which Python does for ASCII alone, and raises a TypeError for the rest.
    if not signature.isascii():
        return False
    try:
        return stripe.WebhookSignature.verify_header(text, signature, secret, TOLERANCE_SECONDS)
    except stripe.SignatureVerificationError:
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and the infinities, which Python reads and JSON does not have


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


class StripeEvents:
    """The account that a key belongs to, asked for what an event says besides its name."""

    def __init__(self, *, api_key: str, api_base: str = "") -> None:
        self._client = connect(api_key=api_key, api_base=api_base)

    def get_data(self, event_id: str) -> Mapping[str, Any]:
        """Return the data of a thin event. Raises `CallFailed`."""
        with calls():
            data = self._client.v2.core.events.retrieve(event_id).to_dict().get("data")
        return data if isinstance(data, Mapping) else {}
