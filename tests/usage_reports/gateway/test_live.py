"""The live requests: which of them a listener gets, what each looks like, and where it goes on after a break."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test import Client
from psycopg.conninfo import make_conninfo

from accounts.models import Organization
from accounts.services import IssuedKey
from config import streams
from config.streams.requests import serve_requests
from metering.event_tail import EventTail, TailFilter
from metering.sql.tail_events import TailEvent
from tests import factories
from tests.usage_reports.gateway.traffic import SentRequest, send
from usage_reports.gateway.records import RequestFilter

PATIENCE_SECONDS = 30
MOMENT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def make_event(event_type: str = "api_request", **properties: str) -> TailEvent:
    return TailEvent(
        offset=1,
        idempotency_key="r",
        customer_id=1,
        customer="ann",
        event_type=event_type,
        value=None,
        member=None,
        operation=0,
        occurred_at=MOMENT,
        received_at=MOMENT,
        properties={"status": "404", "route_id": "users-api"} | properties,
        metric_codes=["api_requests"],
    )


@pytest.mark.parametrize(
    ("wanted", "event", "is_match"),
    [
        (RequestFilter(), make_event(), True),
        (RequestFilter(), make_event("page_view"), False),
        (RequestFilter(), make_event()._replace(properties=None), True),
        (RequestFilter(route="users-api"), make_event(), True),
        (RequestFilter(route="users-api"), make_event(route_id="orders-api"), False),
        (RequestFilter(route="users-api"), make_event()._replace(properties=None), False),
        (RequestFilter(statuses=frozenset({"404"})), make_event(), True),
        (RequestFilter(statuses=frozenset({"500", "503"})), make_event(), False),
        (RequestFilter(wanted_customers=frozenset({"ann"})), make_event(), True),
        (RequestFilter(wanted_customers=frozenset({"bea"})), make_event(), False),
        (RequestFilter(customer_id=2), make_event(), False),
    ],
)
def test_filter_lets_through_what_was_asked_for(wanted: RequestFilter, event: TailEvent, is_match: bool) -> None:
    assert wanted.matches(event) is is_match


class Listening:
    """One listener of the stream's own code, without a server between: what it was sent so far."""

    def __init__(self, query: str, headers: dict[str, str]) -> None:
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": "/admin/analytics/live",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        self.text = ""
        self.status = 0
        self._heard = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
        self._heard.set()

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()  # stays on until the test ends
        return {}

    async def until(self, is_heard: Callable[[str], bool]) -> None:
        while not is_heard(self.text):
            self._heard.clear()
            try:
                await asyncio.wait_for(self._heard.wait(), PATIENCE_SECONDS)
            except TimeoutError:
                raise AssertionError(f"heard {self.status} {self.text!r}") from None

    @property
    def messages(self) -> list[tuple[int, dict[str, Any]]]:
        blocks = [block.split("\n") for block in self.text.split("\n\n") if block.startswith("id: ")]
        return [(int(lines[0][4:]), json.loads(lines[1][6:])) for lines in blocks]


def listen(
    organization: Organization, query: str, then: Callable[[], None], until: str, headers: dict[str, str] | None = None
) -> Listening:
    """Listen, do something meanwhile, and return the listener once it has heard a text."""
    url = make_conninfo(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"])
    ticket = streams.make_ticket(organization.pk, TailFilter())

    async def run() -> Listening:
        tail, listening = EventTail(url), Listening(f"{query}&ticket={ticket}", headers or {})
        serving = asyncio.create_task(serve_requests(tail, listening.scope, listening.receive, listening.send))
        await listening.until(lambda text: ": listening" in text)
        await tail._watching[organization.pk].wait()  # on a busy machine the first look may come after the first word
        await asyncio.to_thread(_then_hang_up, then)
        await listening.until(lambda text: until in text)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await tail.close()
        return listening

    return asyncio.run(run())


def _then_hang_up(act: Callable[[], None]) -> None:
    try:
        act()
    finally:
        connection.close()  # this thread's own


@pytest.mark.django_db(transaction=True)
def test_listener_gets_the_requests_that_it_asked_for_as_they_arrive(org: Organization) -> None:
    def arrive() -> None:
        requests = [
            SentRequest("r1", "ann", MOMENT, status=500, route="users-api"),
            SentRequest("r2", "bea", MOMENT, status=503, route="users-api"),
            SentRequest("r3", "ann", MOMENT, status=200, route="users-api"),
            SentRequest("r4", "ann", MOMENT, status=502, route="orders-api"),
            SentRequest("r5", "ann", MOMENT, status=503, route="users-api", path="/users", request_bytes=7),
        ]
        send(org, requests, now=MOMENT)

    heard = listen(org, "user=ann&status=5xx&route=users-api", arrive, until='"r5"')

    assert heard.status == 200
    assert [body["request_id"] for _, body in heard.messages] == ["r1", "r5"]
    assert heard.messages[1][1] == {
        "request_id": "r5",
        "user_id": "ann",
        "api_key_id": None,
        "route_id": "users-api",
        "method": "GET",
        "path": "/users",
        "query_params": None,
        "timestamp": "2026-11-20T12:00:00Z",
        "status_code": 503,
        "latency_ms": 10,
        "request_bytes": 7,
        "response_bytes": 0,
        "metered_units": 1,
        "metering_mode": "custom",
        "metering_error": None,
        "error_code": None,
        "ip_address": None,
    }


@pytest.mark.django_db(transaction=True)
def test_listener_that_comes_back_gets_what_it_missed(org: Organization) -> None:
    first = listen(org, "", lambda: send(org, [SentRequest("r1", "ann", MOMENT)], now=MOMENT), until='"r1"')
    [(offset, _)] = first.messages
    send(org, [SentRequest(f"r{n}", "ann", MOMENT, status=200 + n) for n in (2, 3, 4)], now=MOMENT)

    again = listen(
        org,
        "status=2xx",
        lambda: send(org, [SentRequest("r5", "ann", MOMENT)], now=MOMENT),
        until='"r5"',
        headers={"Last-Event-ID": str(offset)},
    )

    assert [body["request_id"] for _, body in again.messages] == ["r2", "r3", "r4", "r5"]


@pytest.mark.django_db
class TestRedirect:
    def test_leads_to_the_stream_with_the_filters_and_a_ticket(self, api_client: Client) -> None:
        answer = api_client.get("/admin/analytics/live?user=ann&status=5xx", headers={"host": "meter.example:8000"})

        location = urlsplit(answer.headers["Location"])
        query = parse_qs(location.query)
        assert answer.status_code == 307
        assert (location.netloc, location.path) == ("meter.example:9000", "/admin/analytics/live")
        assert (query["user"], query["status"]) == (["ann"], ["5xx"])
        assert query["ticket"]

    @pytest.mark.parametrize(
        ("query", "field"),
        [("status=6xx", "status"), ("user=", "user"), ("from=2026-01-01", "from"), ("user=a&user=b", "user")],
    )
    def test_is_not_given_for_what_the_stream_would_refuse(self, api_client: Client, query: str, field: str) -> None:
        answer = api_client.get(f"/admin/analytics/live?{query}")

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)

    def test_is_for_those_alone_who_may_read_usage(
        self, org: Organization, client: Client, api_client_for: Callable[[IssuedKey], Client]
    ) -> None:
        writer = api_client_for(factories.make_api_key(organization=org, scopes=("events:write",)))

        assert client.get("/admin/analytics/live").status_code == 401
        assert writer.get("/admin/analytics/live").status_code == 403

    def test_ticket_of_a_bound_key_holds_its_customer(
        self, org: Organization, api_client_for: Callable[[IssuedKey], Client]
    ) -> None:
        customer = factories.make_customer(organization=org, external_id="ann")
        bound = api_client_for(factories.make_api_key(organization=org, customer=customer))

        location = bound.get("/admin/analytics/live").headers["Location"]

        ticket = parse_qs(urlsplit(location).query)["ticket"][0]
        assert ticket.startswith(streams.make_ticket(org.pk, TailFilter(customer_id=customer.pk)).split(":")[0])
