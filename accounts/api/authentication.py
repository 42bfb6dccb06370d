"""DRF's view of `accounts.access`: `request.auth` is the `Caller`; there is no DRF user."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.access import Caller, authenticate_request


class CallerAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[None, Caller]:
        return None, authenticate_request(request._request)

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class CallerAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI document how a client authenticates; found by drf-spectacular on import."""

    target_class = "accounts.api.authentication.CallerAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "mb_<prefix>_<secret>"}
