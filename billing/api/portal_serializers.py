"""Shapes of links to the customer portal."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.services.portal_links import DEFAULT_SECONDS, MAX_SECONDS, MIN_SECONDS, PortalLink
from common.api import StrictSerializer, WholeNumber


class PortalLinkWrite(StrictSerializer):
    expires_in_seconds = WholeNumber(min_value=MIN_SECONDS, max_value=MAX_SECONDS, default=DEFAULT_SECONDS)


class PortalLinkRead(serializers.Serializer):
    url = serializers.CharField(help_text="Whoever has it sees the customer's portal: send it to nobody else.")
    expires_at = serializers.DateTimeField()


def portal_link_json(link: PortalLink) -> dict[str, Any]:
    return {"url": link.url, "expires_at": link.expires_at}
