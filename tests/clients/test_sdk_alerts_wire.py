"""Subscriptions to alerts and the interruptions they outlive, against servers that interrupt at will."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from meterbook import AsyncClient, AuthenticationError, Client, NotFoundError, ValidationError, transport

from tests.clients.alert_servers import KEY, AlertServers, message
from tests.clients.conftest import IMPATIENT
from tests.runtime.installation import wait_for

SECONDS = 20.0
# Before the time of every other alert.
EARLIER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def servers(alert_servers: AlertServers) -> AlertServers:
    return alert_servers


@pytest.fixture
def client(alert_client: Client) -> Client:
    return alert_client


def take(subscription: object, count: int) -> list[int]:
    """Return the offsets of the next alerts."""
    alerts = [subscription.get(SECONDS) for _ in range(count)]  # type: ignore[attr-defined]
    return [alert.offset for alert in alerts]


def wait_until(condition: Callable[[], bool]) -> None:
    wait_for(condition, SECONDS)


class TestWhereItBegins:
    def test_without_an_offset_only_what_comes_from_now_on(self, client: Client, servers: AlertServers) -> None:
        servers.append(*range(1, 1235))

        with client.alerts.subscribe() as subscription:
            assert subscription.offsets() == 1234
            servers.append(1235)

            assert take(subscription, 1) == [1235]
        assert len(servers.log_requests) == 1  # the server says where the log ends

    @pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 16, 17, 84, 85, 86, 1234])
    def test_a_moment_in_the_log_is_searched_for_whatever_its_length(
        self, client: Client, servers: AlertServers, length: int
    ) -> None:
        servers.append(*range(1, length + 1), triggered_at=EARLIER.isoformat())
        servers.append(*range(length + 1, length + 4))

        assert client.alerts.find_position(before=EARLIER + timedelta(seconds=1)) == length
        assert len(servers.log_requests) < 25

    def test_a_moment_is_found_where_the_visible_offsets_have_gaps(self, client: Client, servers: AlertServers) -> None:
        servers.append(3, 7, 40, 41, triggered_at=EARLIER.isoformat())
        servers.append(900)

        assert client.alerts.find_position(before=EARLIER + timedelta(seconds=1)) == 41

    def test_what_came_before_the_first_connection_is_not_missed(self, client: Client, servers: AlertServers) -> None:
        servers.append(1)
        servers.scripts.append([])  # the first connection ends before it says anything

        with client.alerts.subscribe() as subscription:
            servers.append(2)

            assert take(subscription, 1) == [2]

    def test_offset_resumes_after_it(self, client: Client, servers: AlertServers) -> None:
        servers.append(*range(1, 11))

        with client.alerts.subscribe(since_offset=7) as subscription:
            assert take(subscription, 3) == [8, 9, 10]
            assert subscription.offsets() == 10

    def test_alert_is_typed(self, client: Client, servers: AlertServers) -> None:
        servers.append(1)

        with client.alerts.subscribe(since_offset=0) as subscription:
            alert = subscription.get(SECONDS)

        assert alert is not None
        assert (alert.offset, alert.customer, alert.metric, alert.threshold_code) == (1, "acme", "requests", "cap")
        assert (alert.threshold_value, alert.value_at_cross) == (Decimal("100.5"), Decimal(101))
        assert alert.period.end.isoformat() == "2026-12-01T00:00:00+00:00"
        assert alert.triggered_at.isoformat() == "2026-11-21T12:00:00+00:00"


class TestInterruptions:
    def test_message_cut_in_the_middle_comes_again_whole(self, client: Client, servers: AlertServers) -> None:
        servers.append(1, 2, 3)
        servers.scripts.append([message(1), message(2)[:-20]])

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 3) == [1, 2, 3]
        assert servers.stream_requests[:2] == [0, 1]

    def test_repeated_alerts_are_handed_out_once(self, client: Client, servers: AlertServers) -> None:
        servers.append(1, 2, 3, 4)
        servers.scripts.append([message(1), message(2), message(1), message(2), message(3), message(2)])

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 4) == [1, 2, 3, 4]

    def test_told_to_resume_it_comes_back_at_once_after_the_last_alert(
        self, client: Client, servers: AlertServers
    ) -> None:
        servers.append(*range(1, 7))
        servers.scripts.append([message(1), message(2), b'event: resume\ndata: {"since": "2"}\n\n', "hold"])

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 6) == [1, 2, 3, 4, 5, 6]
        assert servers.stream_requests == [0, 2]

    def test_silent_connection_counts_as_dead(
        self, client: Client, servers: AlertServers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "STREAM_SILENCE_SECONDS", 0.3)
        servers.append(1, 2)
        servers.scripts.append([message(1), "hold"])

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 2) == [1, 2]

    def test_heartbeats_and_unknown_messages_are_no_alerts(self, client: Client, servers: AlertServers) -> None:
        servers.append(1, 2)
        servers.scripts.append(
            [b": heartbeat\n\n", b"event: news\ndata: {}\n\n", message(1), b": heartbeat\n\n", message(2), "hold"]
        )

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 2) == [1, 2]

    def test_errors_of_the_server_are_waited_out(self, client: Client, servers: AlertServers) -> None:
        servers.append(1)
        servers.refusals += [503, 502, 429]

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 1) == [1]

    def test_single_refusal_is_asked_about_again(self, client: Client, servers: AlertServers) -> None:
        """A redirect's ticket may have run out before it was used."""
        servers.append(1)
        servers.refusals.append(401)

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 1) == [1]

    @pytest.mark.parametrize(
        ("status", "error"), [(401, AuthenticationError), (404, NotFoundError), (422, ValidationError)]
    )
    def test_refusal_is_raised_to_the_consumer(
        self, status: int, error: type[Exception], client: Client, servers: AlertServers
    ) -> None:
        servers.append(1)
        servers.scripts.append([message(1)])
        servers.refusals += [0, *[status] * 3]  # the first request passes

        with client.alerts.subscribe(since_offset=0) as subscription:
            assert take(subscription, 1) == [1]  # what had arrived is handed out first
            with pytest.raises(error):
                subscription.get(SECONDS)
            with pytest.raises(error):
                next(subscription)

    def test_wrong_key_is_told_by_subscribe_itself(self, client: Client, servers: AlertServers) -> None:
        servers.refusals += [401]

        with pytest.raises(AuthenticationError):
            client.alerts.subscribe()


class TestSlowConsumer:
    def test_what_does_not_fit_the_buffer_is_counted_and_read_from_the_log(
        self, client: Client, servers: AlertServers
    ) -> None:
        servers.append(*range(1, 5001))

        with client.alerts.subscribe(since_offset=0, buffer=64) as subscription:
            wait_until(lambda: subscription.dropped() > 0)
            offsets = take(subscription, 5000)
            servers.append(5001)

            assert offsets == list(range(1, 5001))
            assert take(subscription, 1) == [5001]
        assert len(servers.log_requests) >= 4900 // 64

    def test_nothing_is_asked_for_while_the_buffer_is_full(self, client: Client, servers: AlertServers) -> None:
        servers.append(*range(1, 101))

        with client.alerts.subscribe(since_offset=0, buffer=10) as subscription:
            wait_until(lambda: subscription.dropped() > 0)
            time.sleep(0.3)

            assert (servers.stream_requests, servers.log_requests) == ([0], [])
            assert subscription.offsets() == 0

    def test_buffer_of_one_works(self, client: Client, servers: AlertServers) -> None:
        servers.append(1, 2, 3, 4, 5)

        with client.alerts.subscribe(since_offset=0, buffer=1) as subscription:
            assert take(subscription, 5) == [1, 2, 3, 4, 5]

    def test_several_threads_share_the_alerts(self, client: Client, servers: AlertServers) -> None:
        servers.append(*range(1, 301))
        taken: list[int] = []
        with client.alerts.subscribe(since_offset=0, buffer=16) as subscription:
            threads = [
                threading.Thread(target=lambda: taken.extend(take(subscription, 100)), daemon=True) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS)

        assert sorted(taken) == list(range(1, 301))


class TestClosing:
    def test_close_ends_a_waiting_consumer_at_once(self, client: Client, servers: AlertServers) -> None:
        subscription = client.alerts.subscribe()
        ended = threading.Event()

        def read() -> None:
            for _ in subscription:
                raise AssertionError("there is no alert")
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        wait_until(lambda: len(servers.stream_requests) == 1)

        began = time.monotonic()
        subscription.close()

        assert ended.wait(2)
        assert time.monotonic() - began < 2
        assert not subscription._thread.is_alive()  # although nothing arrives on its connection

    def test_close_ends_a_full_subscription(self, client: Client, servers: AlertServers) -> None:
        servers.append(*range(1, 101))
        subscription = client.alerts.subscribe(since_offset=0, buffer=10)
        wait_until(lambda: subscription.dropped() > 0)

        subscription.close()

        assert subscription.get() is None
        assert not subscription._thread.is_alive()

    def test_closed_client_closes_its_subscriptions(self, servers: AlertServers) -> None:
        client = Client(servers.url, KEY, trust_env=False)
        subscription = client.alerts.subscribe()

        client.close()

        assert list(subscription) == []

    def test_get_gives_up_after_its_timeout(self, client: Client) -> None:
        with client.alerts.subscribe() as subscription:
            assert subscription.get(0.05) is None
            assert not subscription.is_closed

    def test_child_of_a_fork_is_told_to_subscribe_itself(self, client: Client) -> None:
        with client.alerts.subscribe() as subscription:
            child = os.fork()
            if child == 0:
                try:
                    subscription.get(1)
                except RuntimeError:
                    os._exit(7)
                os._exit(1)

            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class TestAsync:
    def test_interruptions_and_a_small_buffer_lose_nothing(self, servers: AlertServers) -> None:
        servers.append(*range(1, 201))
        servers.scripts += [[message(1), message(2)[:-9]], [message(2), b"event: resume\ndata: {}\n\n"]]

        async def story() -> tuple[list[int], int | None, int]:
            async with AsyncClient(servers.url, KEY, retry=IMPATIENT, trust_env=False) as client:
                offsets: list[int] = []
                async with client.alerts.subscribe(since_offset=0, buffer=8) as subscription:
                    await asyncio.sleep(0.5)
                    async for alert in subscription:
                        offsets.append(alert.offset)
                        if alert.offset == 200:
                            break
                    return offsets, subscription.offsets(), subscription.dropped()

        offsets, position, dropped = asyncio.run(story())

        assert offsets == list(range(1, 201))
        assert position == 200
        assert dropped > 0

    def test_without_an_offset_only_what_comes_from_now_on(self, servers: AlertServers) -> None:
        servers.append(1, 2, 3)

        async def story() -> list[int]:
            async with AsyncClient(servers.url, KEY, trust_env=False) as client:
                subscription = client.alerts.subscribe()
                assert subscription.offsets() is None
                async with subscription:
                    assert subscription.offsets() == 3
                    servers.append(4)
                    return [(await anext(subscription)).offset]

        assert asyncio.run(story()) == [4]

    def test_close_ends_the_iteration(self, servers: AlertServers) -> None:
        async def story() -> list[object]:
            async with AsyncClient(servers.url, KEY, trust_env=False) as client:
                subscription = client.alerts.subscribe()

                async def read() -> list[object]:
                    return [alert async for alert in subscription]

                reading = asyncio.create_task(read())
                while not servers.stream_requests:
                    await asyncio.sleep(0.01)
                await subscription.close()
                return await asyncio.wait_for(reading, 5)

        assert asyncio.run(story()) == []

    def test_refusal_is_raised_to_the_consumer(self, servers: AlertServers) -> None:
        async def story() -> None:
            async with AsyncClient(servers.url, "mb_wrong", retry=IMPATIENT, trust_env=False) as client:
                await asyncio.wait_for(anext(client.alerts.subscribe(since_offset=0)), SECONDS)

        with pytest.raises(AuthenticationError):
            asyncio.run(story())
