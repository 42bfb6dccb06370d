"""System checks of pairs of settings that only make sense together."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@register()
def check_mailed_links(**_: Any) -> list[CheckMessage]:
    """Mail that really leaves the machine needs links that others can open."""
    is_mailing = settings.EMAIL_BACKEND.endswith("smtp.EmailBackend")
    if is_mailing and urlsplit(settings.PUBLIC_URL).hostname in LOOPBACK:
        return [
            Warning(
                "METERBOOK_SMTP_URL is set, but the links in mails lead to this machine only.",
                hint="Set METERBOOK_PUBLIC_URL to the address at which people reach Meterbook.",
                id="accounts.W001",
            )
        ]
    return []
