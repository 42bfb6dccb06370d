"""A meter with a watch: define thresholds, evaluate, look into the log."""

from __future__ import annotations

from datetime import datetime

import pytest

from accounts.models import Organization
from tests.alerts.watch import Watch
from tests.api.conftest import api, api_with  # noqa: F401  (fixtures)


@pytest.fixture
def watch(transactional_db: None, org: Organization, now: datetime) -> Watch:
    return Watch(org, now)
