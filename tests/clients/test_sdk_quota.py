"""Quotas and reservations through the SDK, against the real server."""

import asyncio
import threading
from decimal import Decimal

import pytest
from meterbook import (
    UNCHANGED,
    AlreadyExistsError,
    AsyncClient,
    Client,
    ConflictError,
    Event,
    NotFoundError,
    Quota,
    QuotaExceededError,
    QuotaMode,
)

from accounts.services import IssuedKey
from tests.clients.web_server import WebServer


@pytest.fixture(autouse=True)
def _metric(client: Client) -> None:
    client.metrics.create("tokens", "sum")


class TestSettings:
    def test_created_quota_reads_back(self, client: Client) -> None:
        created = client.quotas.create("tokens", "1000.5", mode="soft", grace=10, warning_percents=[80, 100])

        assert client.quotas.get(created.id) == created
        assert client.quotas.list() == [created]
        assert (created.metric, created.customer, created.limit) == ("tokens", None, Decimal("1000.5"))
        assert (created.mode, created.grace, created.warning_percents) == (QuotaMode.SOFT, Decimal(10), (80, 100))

    def test_second_quota_of_one_metric_raises_already_exists(self, client: Client) -> None:
        client.quotas.create("tokens", 10)

        with pytest.raises(AlreadyExistsError):
            client.quotas.create("tokens", 20)

    def test_customers_own_quota_is_listed_by_customer(self, client: Client) -> None:
        client.ingest(Event(customer="acme", metric="tokens", value=1))
        client.quotas.create("tokens", 10)
        own = client.quotas.create("tokens", 20, customer="acme")

        assert client.quotas.list(customer="acme") == [own]

    @pytest.mark.parametrize(("limit", "expected"), [(None, None), (UNCHANGED, 10), ("0", 0)])
    def test_update_tells_no_limit_from_no_change(self, limit: object, expected: int | None, client: Client) -> None:
        quota = client.quotas.create("tokens", 10)

        changed = client.quotas.update(quota.id, limit=limit, mode="warn")  # type: ignore[arg-type]

        assert (changed.limit, changed.mode) == (expected, QuotaMode.WARN)

    def test_deleted_quota_is_gone(self, client: Client) -> None:
        quota = client.quotas.create("tokens", 10)

        client.quotas.delete(quota.id)

        with pytest.raises(NotFoundError):
            client.quotas.get(quota.id)


@pytest.fixture
def quota(client: Client) -> Quota:
    client.ingest(Event(customer="acme", metric="tokens", value=4))
    return client.quotas.create("tokens", 10)


@pytest.mark.usefixtures("quota")
class TestRoom:
    def test_check_says_what_is_left(self, client: Client) -> None:
        verdict = client.quota.check("acme", "tokens", "6.5")

        assert not verdict.allowed
        assert [verdict.limit, verdict.used, verdict.remaining] == [10, 4, 6]
        assert verdict.reset_at is not None
        assert client.quota.check("acme", "tokens", 6).allowed

    def test_end_of_the_block_counts_the_amount_as_used(self, client: Client) -> None:
        with client.quota.reserve("acme", "tokens", "2.5") as reservation:
            assert client.quota.check("acme", "tokens").used == Decimal("6.5")

        assert client.query_realtime("acme", "tokens").value == Decimal("6.5")
        event = client.get_event(f"reservation:{reservation.id}")
        assert (event.customer, event.value) == ("acme", Decimal("2.5"))

    def test_exception_in_the_block_gives_the_amount_back(self, client: Client) -> None:
        with pytest.raises(ZeroDivisionError), client.quota.reserve("acme", "tokens", 6):
            _ = 1 // 0

        assert client.quota.check("acme", "tokens").used == 4
        assert client.query_realtime("acme", "tokens").value == 4

    def test_less_may_be_committed_than_was_reserved(self, client: Client) -> None:
        with client.quota.reserve("acme", "tokens", 6) as reservation:
            settled = reservation.commit(amount="1.25", properties={"model": "small"})

        assert (settled.state, settled.committed_amount) == ("committed", Decimal("1.25"))
        assert client.query_realtime("acme", "tokens").value == Decimal("5.25")
        assert client.get_event(f"reservation:{reservation.id}").properties == {"model": "small"}

    def test_block_may_release(self, client: Client) -> None:
        with client.quota.reserve("acme", "tokens", 6) as reservation:
            assert reservation.release().state == "released"

        assert client.quota.check("acme", "tokens").used == 4

    def test_too_much_raises_with_the_verdict(self, client: Client) -> None:
        with pytest.raises(QuotaExceededError) as caught:
            client.quota.reserve("acme", "tokens", 7)

        assert (caught.value.status, caught.value.code) == (402, "quota_exceeded")
        verdict = caught.value.verdict
        assert verdict is not None
        assert not verdict.allowed
        assert [verdict.used, verdict.remaining] == [4, 6]

    def test_repeated_request_holds_nothing_twice(self, client: Client) -> None:
        first = client.quota.reserve("acme", "tokens", 4, idempotency_key="job-1")
        second = client.quota.reserve("acme", "tokens", 4, idempotency_key="job-1")

        assert first.id == second.id
        assert client.quota.check("acme", "tokens").used == 8

    def test_committing_twice_counts_once(self, client: Client) -> None:
        reservation = client.quota.reserve("acme", "tokens", 4)

        client.quota.commit(reservation.id)
        client.quota.commit(reservation.id)

        assert client.query_realtime("acme", "tokens").value == 8

    def test_released_reservation_cannot_be_committed(self, client: Client) -> None:
        reservation = client.quota.reserve("acme", "tokens", 4)
        client.quota.release(reservation.id)

        with pytest.raises(ConflictError) as caught:
            reservation.commit()

        assert caught.value.code == "already_released"

    def test_callers_in_parallel_get_exactly_the_room(self, client: Client) -> None:
        outcomes: list[bool] = []

        def call() -> None:
            try:
                client.quota.reserve("acme", "tokens", 1)
            except QuotaExceededError:
                outcomes.append(False)
            else:
                outcomes.append(True)

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sorted(outcomes) == [False] * 10 + [True] * 6


def test_unlimited_has_no_limit_and_no_rest(client: Client) -> None:
    client.quotas.create("tokens", None)

    reservation = client.quota.reserve("acme", "tokens", 1_000_000)

    assert reservation.quota is not None
    assert (reservation.quota.limit, reservation.quota.remaining) == (None, None)


@pytest.mark.usefixtures("quota")
def test_async_block_commits_and_releases(server: WebServer, api_key: IssuedKey) -> None:
    async def story() -> tuple[Decimal, Decimal]:
        async with AsyncClient(server.url, api_key.text, trust_env=False) as client:
            async with client.quota.reserve("acme", "tokens", 2) as reservation:
                assert reservation.amount == 2
            with pytest.raises(ZeroDivisionError):
                async with client.quota.reserve("acme", "tokens", 3):
                    _ = 1 // 0
            held = await client.quota.reserve("acme", "tokens", 1)
            with pytest.raises(QuotaExceededError):
                async with client.quota.reserve("acme", "tokens", 4):
                    raise AssertionError("there is no room for the block")
            used = (await client.quota.check("acme", "tokens")).used
            await held.release()
            return used, (await client.query_realtime("acme", "tokens")).value

    assert asyncio.run(story()) == (Decimal(7), Decimal(6))
