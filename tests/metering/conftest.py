"""Fixtures of the metering tests."""

from datetime import datetime

import pytest

from accounts.models import Organization
from tests.metering.meter import Meter


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    """A hand on the services of `org`, whose clock stands at `now`."""
    return Meter(org, now)
