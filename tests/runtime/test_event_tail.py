"""The live tail: what is new, in whatever order it commits; who gets it; and what a slow reader costs."""

import asyncio
import json
import os
from datetime import UTC, datetime

import pytest
from django.core import signing
from django.db import connection
from django.test import Client
from psycopg.conninfo import make_conninfo

from accounts.models import Organization
from accounts.services import IssuedKey
from config import streams
from metering.catalogs import MetricDefinition
from metering.event_tail import MAX_WAITING_BYTES, BatchWatch, Delivery, EventTail, Listener, TailFilter
from metering.models import Aggregation
from metering.services.metrics import create_metric
from metering.sql.tail_events import Look, TailEvent

MOMENT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def make_tail_event(
    *, offset: int = 1, customer: str = "cust_42", metric_codes: tuple[str, ...] = ("requests",)
) -> TailEvent:
    return TailEvent(
        offset=offset,
        idempotency_key=f"key-{offset}",
        customer_id=1,
        customer=customer,
        event_type="request",
        value=None,
        member=None,
        operation=0,
        occurred_at=MOMENT,
        received_at=MOMENT,
        properties=None,
        metric_codes=list(metric_codes),
    )


class TestBatchWatch:
    def test_batch_that_commits_after_a_later_one_is_new(self) -> None:
        watch = BatchWatch(floor=0, known=set())

        first = watch.take_new(Look(10, 12, [1, 3], [5, 5]), now=0)
        second = watch.take_new(Look(10, 12, [1, 2, 3], [5, 7, 5]), now=0.5)

        assert first == [(1, 5), (3, 5)]
        assert second == [(2, 7)]

    def test_floor_waits_for_the_oldest_open_transaction(self) -> None:
        watch = BatchWatch(floor=0, known=set())
        watch.take_new(Look(10, 12, [1, 3], [5, 5]), now=0)

        watch.take_new(Look(11, 14, [1, 3], [5, 5]), now=60)  # transaction 11 may still fill batch 2
        assert watch.floor == 0

        watch.take_new(Look(12, 14, [1, 3], [5, 5]), now=61)
        assert watch.floor == 3

    def test_floor_waits_a_moment_for_transactions_without_an_id_yet(self) -> None:
        watch = BatchWatch(floor=0, known=set())

        watch.take_new(Look(12, 12, [1, 3], [5, 5]), now=0)

        assert watch.floor == 0

    def test_what_lies_below_the_floor_is_forgotten(self) -> None:
        watch = BatchWatch(floor=0, known=set())
        watch.take_new(Look(10, 10, [1, 2, 3], [1, 1, 1]), now=0)

        watch.take_new(Look(20, 20, [1, 2, 3, 4], [1, 1, 1, 1]), now=10)

        assert (watch.floor, watch.known) == (3, {4})


class TestListener:
    def test_slow_reader_is_given_up_instead_of_filling_memory(self) -> None:
        listener = Listener(TailFilter())
        large = [(make_tail_event(), b"x" * MAX_WAITING_BYTES)]

        for _ in range(4):
            listener.offer(large, 0)

        assert listener.is_lagging
        assert listener._waiting_bytes <= 2 * MAX_WAITING_BYTES

    @pytest.mark.parametrize(
        ("wanted", "is_match"),
        [
            (TailFilter(), True),
            (TailFilter(customer_id=1), True),
            (TailFilter(customer_id=2), False),
            (TailFilter(metric_codes=frozenset({"other"})), False),
            (TailFilter(metric_codes=frozenset({"other"}), wanted_metrics=frozenset({"requests"})), False),
            (TailFilter(wanted_customers=frozenset({"cust_42", "cust_1"})), True),
            (TailFilter(wanted_types=frozenset({"job"})), False),
        ],
    )
    def test_filter_narrows_what_is_delivered(self, wanted: TailFilter, is_match: bool) -> None:
        assert wanted.matches(make_tail_event()) is is_match


@pytest.mark.django_db(transaction=True)
def test_listener_gets_the_events_of_its_organization_alone(
    org: Organization, api_client: Client, outsider_client: Client, other_org: Organization
) -> None:
    for organization in (org, other_org):
        definition = MetricDefinition(code="requests", aggregation=Aggregation.COUNT, event_type="requests")
        create_metric(organization=organization, definition=definition, actor="test")
    url = make_conninfo(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"])

    delivery = asyncio.run(_deliver(url, org, [(outsider_client, "theirs"), (api_client, "ours")]))

    bodies = [json.loads(body) for _, body in delivery.events]
    assert [(body["idempotency_key"], body["metrics"]) for body in bodies] == [("ours", ["requests"])]


async def _deliver(url: str, organization: Organization, sent: list[tuple[Client, str]]) -> Delivery:
    """Return the first delivery to a listener of the organization after the events were sent, in this order."""
    tail = EventTail(url)
    async with tail.listen(organization.pk, TailFilter()) as listener:
        await asyncio.sleep(0.3)  # the poller has to have looked once
        for client, key in sent:
            await asyncio.to_thread(_send, client, key)
        return await asyncio.wait_for(listener.next_delivery(), 10)


def _send(client: Client, key: str) -> None:
    try:
        event = {"idempotency_key": key, "customer": "cust_42", "type": "requests"}
        answer = client.post("/v1/events", event, "application/json")
        assert answer.status_code == 200, answer.content
    finally:
        connection.close()  # this thread's own


class TestRedirect:
    def test_names_the_stream_port_and_carries_a_ticket(self, api_client: Client, org: Organization) -> None:
        answer = api_client.get("/v1/events/stream?customer=a&customer=b", headers={"host": "meter.example:8000"})

        location = answer.headers["Location"]
        assert answer.status_code == 307
        assert location.startswith("http://meter.example:9000/v1/events/stream?customer=a&customer=b&ticket=")

    def test_ticket_holds_what_a_bound_key_may_see(self, org: Organization) -> None:
        allowed = TailFilter(customer_id=7, metric_codes=frozenset({"requests"}))

        ticket = streams.make_ticket(org.pk, allowed)

        assert signing.loads(ticket, salt=streams.TICKET_SALT) == [org.pk, 7, ["requests"]]

    @pytest.mark.django_db
    def test_stranger_gets_no_ticket(self, client: Client) -> None:
        assert client.get("/v1/events/stream").status_code == 401

    def test_ticket_buys_no_second_one(self, client: Client, org: Organization) -> None:
        ticket = streams.make_ticket(org.pk, TailFilter())

        assert client.get(f"/v1/events/stream?ticket={ticket}").status_code == 422

    def test_unknown_parameter_is_named(self, api_client: Client) -> None:
        answer = api_client.get("/v1/events/stream?custmer=a")

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "custmer"

    def test_key_without_the_scope_is_refused(self, org: Organization, api_client_for: object) -> None:
        from tests.factories import make_api_key

        key: IssuedKey = make_api_key(organization=org, scopes=("events:write",))

        assert api_client_for(key).get("/v1/events/stream").status_code == 403  # type: ignore[operator]


def test_delivery_becomes_messages_with_the_offset_as_id() -> None:
    delivery = Delivery([(5, b'{"a":1}'), (6, b"{}")], 3)

    text = streams.encode_delivery(delivery, without={6})

    assert text == b'event: skipped\ndata: {"count": 3}\n\nid: 5\ndata: {"a":1}\n\n'
