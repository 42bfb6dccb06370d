"""The optional limit of requests per key, against a real Redis."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts import rate_limits
from accounts.models import Organization
from accounts.rate_limits import take_request
from accounts.services import IssuedKey, update_organization
from tests import factories

# No other test counts in this minute.
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def key_id(request: pytest.FixtureRequest) -> int:
    """An id that no key has, another for each test, so that their counts never meet."""
    return -abs(hash((request.node.nodeid, datetime.now(UTC))))


def test_admits_up_to_the_limit_and_counts_no_refusals(key_id: int) -> None:
    verdicts = [take_request(key_id=key_id, limit=3, now=NOON) for _ in range(5)]

    assert [verdict and verdict.is_allowed for verdict in verdicts] == [True, True, True, False, False]
    # The next minute starts with the weight of three, not of five.
    half_later = take_request(key_id=key_id, limit=3, now=NOON + timedelta(seconds=90))
    assert half_later is not None
    assert (half_later.is_allowed, half_later.remaining) == (True, 1)


def test_there_is_no_double_burst_at_the_turn_of_the_minute(key_id: int) -> None:
    for _ in range(10):
        take_request(key_id=key_id, limit=10, now=NOON + timedelta(seconds=59))

    verdict = take_request(key_id=key_id, limit=10, now=NOON + timedelta(seconds=60))

    assert verdict is not None
    assert (verdict.is_allowed, verdict.retry_after_seconds) == (False, 1)


def test_parallel_requests_get_exactly_the_room_there_is(key_id: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda _: take_request(key_id=key_id, limit=25, now=NOON), range(60)))

    assert sum(verdict.is_allowed for verdict in verdicts if verdict) == 25


def test_everything_is_let_through_while_redis_is_away(settings: LazySettings, key_id: int) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    rate_limits._script.cache_clear()
    try:
        assert take_request(key_id=key_id, limit=1, now=NOON) is None
    finally:
        rate_limits._script.cache_clear()


@pytest.mark.django_db
class TestOverHTTP:
    def test_without_a_limit_nothing_is_counted_or_told(self, api_client: Client) -> None:
        assert "RateLimit-Limit" not in api_client.get("/v1/organization").headers

    def test_beyond_the_limit_is_429_with_headers(
        self, api_client: Client, org: Organization, outsider_client: Client
    ) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 2})

        answers = [api_client.get("/v1/organization") for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
        refused = answers[-1]
        assert refused.json()["code"] == "rate_limited"
        assert refused["RateLimit-Limit"] == "2"
        assert 1 <= int(refused["RateLimit-Reset"]) <= 60
        assert 1 <= int(refused["Retry-After"]) <= 61
        assert outsider_client.get("/v1/organization").status_code == 200

    def test_each_key_has_its_own_share(
        self, api_client: Client, org: Organization, api_client_for: Callable[[IssuedKey], Client]
    ) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 1})
        assert api_client.get("/v1/organization").status_code == 200
        assert api_client.get("/v1/organization").status_code == 429

        other = api_client_for(factories.make_api_key(organization=org))
        assert other.get("/v1/organization").status_code == 200

    def test_limit_holds_for_the_refused_too(self, api_client: Client, org: Organization) -> None:
        update_organization(organization=org, actor="test", changes={"rate_limit_per_minute": 1})

        assert api_client.get("/v1/organization?nonsense=1").status_code == 422
        assert api_client.get("/v1/organization").status_code == 429
