"""Who calls, as LaunchDarkly's clients say it: the bare key in `Authorization`, and rate limits in their headers.

For views of this package alone: `authentication_classes = [KeyAuthentication]`. Nobody is signed in here by a
session: these addresses are for programs.
"""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.access import Caller, authenticate_key, limit_rate
from accounts.domain import RateVerdict
from common.errors import NotAuthenticated


class KeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[None, Caller]:
        key = read_key(request.headers.get("Authorization", ""))
        if not key:
            raise NotAuthenticated(
                "Send your API key in the header `Authorization`.",
                headers={"WWW-Authenticate": self.authenticate_header(request)},
            )
        caller = authenticate_key(key, now=timezone.now())
        limit_rate(request._request, caller, tell=tell_rate)
        return None, caller

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class KeyAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI document how a client authenticates; found by drf-spectacular on import."""

    target_class = "usage_reports.launchdarkly.authentication.KeyAuthentication"
    name = "bareApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "Authorization"}


def read_key(header: str) -> str:
    """Return the key of an `Authorization` header that holds nothing else, or the word Bearer before it."""
    first, _, rest = header.strip().partition(" ")
    return rest.strip() if first.lower() == "bearer" else header.strip()


def tell_rate(verdict: RateVerdict, now: datetime) -> dict[str, str]:
    """Return the headers that say how much of its share the key has left.

    The reset is a moment, in Unix milliseconds: when the count begins to fall or, for a request that was refused,
    when the next one fits.
    """
    seconds = verdict.reset_seconds if verdict.is_allowed else verdict.retry_after_seconds
    reset_at = now.replace(microsecond=0) + timedelta(seconds=seconds)
    return {
        "X-Ratelimit-Auth-Token-Limit": str(verdict.limit),
        "X-Ratelimit-Auth-Token-Remaining": str(verdict.remaining),
        "X-Ratelimit-Auth-Token-Reset": str(int(reset_at.timestamp()) * 1000),
    }
