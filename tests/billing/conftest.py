"""Fixtures of billing's tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Organization
from accounts.services import IssuedKey
from tests import factories
from tests.api.conftest import Api
from tests.billing.seller import Seller


@pytest.fixture
def seller(org: Organization, now: datetime) -> Seller:
    """A hand on `org`, whose clock stands at noon of 20 November 2026."""
    return Seller(org, now)


@pytest.fixture
def live_seller(org: Organization) -> Seller:
    """A hand on `org` on the real clock, as the API is."""
    return Seller(org, timezone.now())


@pytest.fixture
def api(api_client: Client) -> Api:
    """A caller with every scope."""
    return Api(api_client)


@pytest.fixture
def api_with(org: Organization, api_client_for: Callable[[IssuedKey | str], Client]) -> Callable[..., Api]:
    """Return a maker of callers whose key has these scopes and bounds."""

    def make(*scopes: str, **bounds: object) -> Api:
        return Api(api_client_for(factories.make_api_key(organization=org, scopes=scopes, **bounds)))  # type: ignore[arg-type]

    return make
