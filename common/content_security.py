"""The Content-Security-Policy of our pages: scripts and styles come from our own files and from nowhere else.

Inline scripts do not run, so text that slipped through unescaped stays text. Django's admin and the API's reference
bring inline scripts of their own and keep their own ways; the other answers of the APIs are no pages.
"""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "Content-Security-Policy"
ADMIN_PREFIX = "/admin/"


class ContentSecurityPolicyMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not request.path.startswith((ADMIN_PREFIX, *settings.API_ERRORS)):
            response.headers.setdefault(HEADER, content_security_policy(request))
        return response


def content_security_policy(request: HttpRequest, *, form_targets: Sequence[str] = ()) -> str:
    """Return the policy of a page. `form_targets`: where its forms may lead besides to ourselves, also by redirects."""
    return "; ".join(
        (
            "default-src 'self'",
            # The QR code of two-factor sign-in is a data: image.
            "img-src 'self' data:",
            f"connect-src 'self' {_stream_origin(request)}",
            "object-src 'none'",
            "base-uri 'none'",
            " ".join(("form-action 'self'", *form_targets)),
            "frame-ancestors 'none'",
        )
    )


def _stream_origin(request: HttpRequest) -> str:
    """Return where the live tail is redirected to: a page may connect nowhere else."""
    if settings.STREAM_URL:
        parts = urlsplit(settings.STREAM_URL)
        return f"{parts.scheme}://{parts.netloc}"
    host = urlsplit(f"//{request.get_host()}").hostname or "localhost"
    return f"{request.scheme}://{f'[{host}]' if ':' in host else host}:{settings.STREAM_PORT}"
