"""The live stream of alerts over the wire: everything once and in order, and nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts.models import Organization, Scope
from accounts.services import IssuedKey
from alerts.alert_stream import APPLICATION_NAME, MAX_WAITING
from config.streams import alerts as wire
from tests import factories
from tests.clients.web_server import Servers, WebServer, servers_on_test_database
from tests.runtime.alert_reader import AlertReader, Message, Refused
from tests.runtime.crossing_log import Log, append_slowly, offsets

# A kilobyte in every alert: 5,000 of them are more than the kernel buffers for a reader.
LONG_NAME = "\N{MATHEMATICAL DOUBLE-STRUCK SMALL C}" * 256


@pytest.fixture
def log(transactional_db: None, org: Organization) -> Log:
    return Log(org)


# --- over the wire, with the real servers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_on_test_database(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def web(servers: Servers, transactional_db: None) -> WebServer:
    servers.web.start()
    servers.stream.start()
    return servers.web


@pytest.fixture
def read(web: WebServer, api_key: IssuedKey) -> Iterator[Callable[..., AlertReader]]:
    """Return a maker of readers, by default with a key that sees all of `org`."""
    readers: list[AlertReader] = []

    def make(key: IssuedKey = api_key, **options: Any) -> AlertReader:
        readers.append(AlertReader(web.url, key.text, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


Read = Callable[..., AlertReader]


class TestOverTheWire:
    def test_alert_arrives_as_the_list_shows_it(self, log: Log, read: Read, api_client: Client) -> None:
        log.append()  # before anybody listens: not told
        reader = read()

        log.append()
        message = reader.next()

        listed = api_client.get("/v1/alerts").json()["data"]
        assert message == Message(id="2", event="message", data=listed[1])
        assert message.data["threshold_value"] == "100.5"

    def test_since_resumes_after_the_offset_and_goes_on_live(self, log: Log, read: Read) -> None:
        log.append(1_000)
        reader = read(since=100)

        backlog = reader.take(900)
        log.append(3)

        assert offsets(backlog) == list(range(101, 1_001))
        assert offsets(reader.take(3)) == [1_001, 1_002, 1_003]

    def test_last_event_id_wins_over_since(self, log: Log, read: Read) -> None:
        log.append(10)

        assert offsets(read(since=2, last_event_id=7).take(3)) == [8, 9, 10]

    def test_position_before_the_first_alert_is_told(self, log: Log, read: Read) -> None:
        log.append(5)
        reader = read()
        reader.close()
        log.append(2)  # while nobody listens

        assert reader.start_id == "5"
        assert offsets(read(last_event_id=int(reader.start_id)).take(2)) == [6, 7]

    def test_offset_that_is_not_there_yet_is_waited_for(self, log: Log, read: Read) -> None:
        log.append(2)
        reader = read(since=4)

        log.append(4)

        assert offsets(reader.take(2)) == [5, 6]

    def test_nothing_is_lost_or_repeated_where_backlog_and_live_meet(self, log: Log, read: Read) -> None:
        log.append(500)
        writer = threading.Thread(target=append_slowly, args=(log, 150))
        writer.start()

        readers = [read(since=number) for number in range(0, 500, 100)]
        told = [reader.take(650 - number) for reader, number in zip(readers, range(0, 500, 100), strict=True)]
        writer.join()

        for number, messages in zip(range(0, 500, 100), told, strict=True):
            assert offsets(messages) == list(range(number + 1, 651))

    def test_reader_that_stopped_for_5000_alerts_gets_every_one_in_order(self, log: Log, read: Read) -> None:
        reader = read(receive_buffer=4_096)
        for _ in range(50):
            log.append(100, customer=LONG_NAME)
        wait_until_told(5_000, read)
        time.sleep(3 * wire.PATIENCE_SECONDS)

        told, connections = [], 1
        while len(told) < 5_000:
            message = reader.next()
            if message is None or message.event == "resume":
                if message is not None:
                    # Where to go on is exactly where it stopped, and then the stream ends.
                    assert message.data == {"since": str(told[-1])}
                    assert reader.next() is None
                reader, connections = read(since=told[-1]), connections + 1
                continue
            told.append(message.offset)

        assert told == list(range(1, 5_001))
        assert connections > 1  # it was closed for being slow

    def test_flood_does_not_close_a_reader_that_takes_it(self, log: Log, read: Read) -> None:
        reader = read()

        log.append(2 * MAX_WAITING)

        assert offsets(reader.take(2 * MAX_WAITING)) == list(range(1, 2 * MAX_WAITING + 1))

    def test_lost_notification_only_delays(self, log: Log, read: Read) -> None:
        reader = read()

        log.append_unheard(3)

        assert offsets(reader.take(3)) == [1, 2, 3]

    def test_lost_connections_lose_nothing(self, log: Log, read: Read) -> None:
        reader = read()
        log.append()
        assert offsets(reader.take(1)) == [1]

        for _ in range(3):
            _terminate_stream_connections()
            log.append(5)
        reader_from_the_start = read(since=0)

        assert offsets(reader.take(15)) == list(range(2, 17))
        assert offsets(reader_from_the_start.take(16)) == list(range(1, 17))

    def test_restarted_stream_process_goes_on_where_the_reader_was(
        self, log: Log, read: Read, servers: Servers
    ) -> None:
        reader = read()
        log.append(10)
        last = reader.take(10)[-1]
        servers.stream.kill()
        log.append(10)
        servers.stream.start()

        assert reader.next() is None
        assert offsets(read(last_event_id=last.offset).take(10)) == list(range(11, 21))


def wait_until_told(end: int, read: Read) -> None:
    """Wait until another reader has got everything: by then everybody was offered it."""
    reader = read(since=end - 1)
    assert offsets(reader.take(1)) == [end]


def _terminate_stream_connections() -> None:
    """End the connections of the stream as soon as it has some."""
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s",
                [APPLICATION_NAME],
            )
            [ended] = cursor.fetchone()
            if ended:
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestWhoSeesWhat:
    @pytest.fixture
    def mixed(self, log: Log) -> Log:
        """Offsets 1 to 6: two customers, two metrics."""
        for customer, metric in [("a", "calls"), ("a", "bytes"), ("b", "calls"), ("b", "bytes")]:
            log.append(customer=customer, metric=metric)
        return log

    @pytest.mark.parametrize("is_live", [False, True], ids=["backlog", "live"])
    @pytest.mark.parametrize(
        ("bounds", "wanted", "seen"),
        [
            ({}, {}, [1, 2, 3, 4]),
            ({"customer": "a"}, {}, [1, 2]),
            ({"metric_codes": ("bytes",)}, {}, [2, 4]),
            ({"customer": "a"}, {"customer": "b"}, []),
            ({"customer": "b"}, {"metric": "calls"}, [3]),
            ({}, {"customer": ["a", "b"], "metric": ["bytes", "none"]}, [2, 4]),
            ({}, {"customer": "nobody"}, []),
        ],
        ids=["all", "customer's key", "metric's key", "another's", "one metric", "lists", "unknown"],
    )
    def test_key_and_filters_narrow_what_is_told(
        self,
        mixed: Log,
        read: Read,
        bounds: dict[str, Any],
        wanted: dict[str, Any],
        seen: list[int],
        is_live: bool,
    ) -> None:
        if "customer" in bounds:
            bounds = {**bounds, "customer": mixed.customers[bounds["customer"]]}
        key = factories.make_api_key(organization=mixed.organization, scopes=(Scope.USAGE_READ,), **bounds)

        if is_live:
            reader, first = read(key, **wanted), 5
            for customer, metric in [("a", "calls"), ("a", "bytes"), ("b", "calls"), ("b", "bytes")]:
                mixed.append(customer=customer, metric=metric)
        else:
            reader, first = read(key, since=0, **wanted), 1

        assert offsets(reader.take(len(seen))) == [offset - 1 + first for offset in seen]
        if not seen:
            assert reader.is_silent_for(1)

    def test_other_organizations_see_nothing(self, log: Log, read: Read, other_org: Organization) -> None:
        other_log = Log(other_org)
        other = read(factories.make_api_key(organization=other_org), since=0)
        ours = read(since=0)

        log.append(3)
        assert offsets(ours.take(3)) == [1, 2, 3]
        other_log.append(customer="theirs")

        message = other.next()
        assert message is not None
        assert (message.id, message.data["customer"]) == ("1", "theirs")


# --- in the web process ------------------------------------------------------------------------------------------


class TestRedirect:
    def test_names_the_stream_port_and_carries_a_ticket(self, api_client: Client, org: Organization) -> None:
        answer = api_client.get("/v1/alerts/stream?customer=a&since=5", headers={"host": "meter.example:8000"})

        assert answer.status_code == 307
        location = answer.headers["Location"]
        assert location.startswith("http://meter.example:9000/v1/alerts/stream?customer=a&since=5&ticket=")

    def test_member_names_the_organization(self, client_for: Any, bob: Any, org: Organization) -> None:
        client = client_for(bob)

        assert client.get(f"/v1/alerts/stream?organization={org.pk}").status_code == 307
        assert client.get(f"/v1/alerts/stream?organization={org.pk + 1}").status_code == 404

    @pytest.mark.django_db
    def test_stranger_gets_no_ticket(self, client: Client) -> None:
        assert client.get("/v1/alerts/stream").status_code == 401

    def test_key_without_the_scope_is_refused(self, org: Organization, api_client_for: Any) -> None:
        key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,))

        assert api_client_for(key).get("/v1/alerts/stream").status_code == 403

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("custmer=a", "custmer"),
            ("type=a", "type"),
            ("ticket=a", "ticket"),
            ("since=", "since"),
            ("since=-1", "since"),
            ("since=1.5", "since"),
            ("since=now", "since"),
            ("since=9223372036854775808", "since"),
            ("since=" + "9" * 5000, "since"),
            ("since=1&since=2", "since"),
            ("customer=", "customer"),
            ("metric=" + "m" * 65, "metric"),
            ("&".join(f"customer={number}" for number in range(101)), "customer"),
            ("customer=%00", "customer"),
        ],
    )
    def test_meaningless_parameters_are_named(self, api_client: Client, query: str, field: str) -> None:
        answer = api_client.get(f"/v1/alerts/stream?{query}")

        assert answer.status_code == 422, answer.content
        assert answer.json()["errors"][0]["field"].startswith(field)

    @pytest.mark.parametrize("sent", ["abc", "-1", "1.0", "9223372036854775808", "9" * 5000])
    def test_last_event_id_that_we_never_sent_is_refused(self, api_client: Client, sent: str) -> None:
        answer = api_client.get("/v1/alerts/stream", headers={"Last-Event-ID": sent})

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Last-Event-ID"

    def test_only_get_is_there(self, api_client: Client) -> None:
        answer = api_client.post("/v1/alerts/stream")

        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


class TestStreamPort:
    """What the stream's own process answers to those whom the web process did not send."""

    def test_forged_ticket_is_refused(self, servers: Servers, web: WebServer) -> None:
        with pytest.raises(Refused) as refused:
            AlertReader(servers.stream.url, "", ticket="forged")

        assert refused.value.status == 401

    def test_key_itself_is_enough(self, servers: Servers, log: Log, read: Read, api_key: IssuedKey) -> None:
        log.append()
        with AlertReader(servers.stream.url, api_key.text, since=0) as reader:
            assert offsets(reader.take(1)) == [1]

    def test_unknown_parameter_is_named(self, servers: Servers, web: WebServer, api_key: IssuedKey) -> None:
        with pytest.raises(Refused) as refused:
            AlertReader(servers.stream.url, api_key.text, sinc=0)

        assert refused.value.status == 422
        assert refused.value.body["errors"][0]["field"] == "sinc"
