"""Rows of `metering.sql.store_events`: what one batch leaves in the tables, and what it compares."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db import connection, transaction

from metering.dialects.native import decode_json
from metering.domain import OFFSET_BITS
from metering.models import BatchState, Event, Feed, IngestBatch
from metering.services.ingest import validate_events
from metering.sql import store_events
from tests.metering.meter import Meter, encode_body, utc
from tests.metering.rows import table_rows

EVENT_COLUMNS = ("idempotency_key", "occurred_at", "received_at", "has_own_time", "operation", "value", "member")


@pytest.mark.django_db
def test_a_batch_leaves_one_row_per_event_and_one_for_itself(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.define("seats", "count_unique")

    result = meter.send(
        {"idempotency_key": "b", "customer": "ann", "type": "m", "value": "1.50", "properties": {"x": 1}},
        {"idempotency_key": "a", "customer": "bob", "type": "seats", "value": "s", "operation": "remove",
         "timestamp": "2026-11-20T10:00:00Z"},
    )  # fmt: skip

    assert table_rows(meter.organization, "metering_event", *EVENT_COLUMNS) == [
        ("a", utc(2026, 11, 20, 10), meter.now, True, 1, None, "s"),
        ("b", meter.now, meter.now, False, 0, Decimal("1.50"), None),
    ]
    [batch] = IngestBatch.objects.for_organization(meter.organization)
    feeds = Feed.objects.for_organization(meter.organization).filter(event_type__in=["m", "seats"])
    assert (batch.state, batch.event_count, batch.received_at, batch.rolled_at) == (
        BatchState.PENDING,
        2,
        meter.now,
        None,
    )
    assert batch.feed_ids == sorted(feed.pk for feed in feeds)
    # An offset is the batch's id and the place in the batch.
    offsets = dict(Event.objects.for_organization(meter.organization).values_list("idempotency_key", "offset"))
    assert offsets == {"b": batch.id << OFFSET_BITS, "a": (batch.id << OFFSET_BITS) + 1}
    assert (result.first_offset, result.last_offset) == (offsets["b"], offsets["a"])


@pytest.mark.django_db
def test_a_batch_of_known_events_leaves_nothing(meter: Meter) -> None:
    meter.define("m", "sum")
    sent = {"idempotency_key": "a", "customer": "ann", "type": "m", "value": 1}
    meter.send_all(sent)
    before = table_rows(meter.organization, "metering_event", *EVENT_COLUMNS, "offset")

    meter.send(sent, {**sent, "value": 2})

    assert table_rows(meter.organization, "metering_event", *EVENT_COLUMNS, "offset") == before
    assert IngestBatch.objects.for_organization(meter.organization).count() == 1


@pytest.mark.django_db
def test_two_batches_in_one_transaction_do_not_see_each_others_stage(meter: Meter) -> None:
    """A replacement stores an event within a larger transaction; the stage empties itself only at its end."""
    meter.define("m", "sum")
    sent = {"idempotency_key": "a", "customer": "ann", "type": "m", "value": 1}

    with transaction.atomic():
        meter.send_all(sent)
        first = meter.send(sent)
        second = meter.send({**sent, "idempotency_key": "b"}, sent)

    assert (first.stored, first.duplicates) == (0, 1)
    assert (second.stored, second.duplicates) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_the_stage_survives_what_is_rolled_back_on_a_fresh_connection(meter: Meter) -> None:
    """The stage is created once per connection; a dry run, which is undone, must not take it along for good."""
    meter.define("m", "sum")
    sent = {"idempotency_key": "a", "customer": "ann", "type": "m", "value": 1}
    connection.close()

    validate_events(organization=meter.organization, events=decode_json(encode_body(sent)), now=meter.now)

    assert meter.send(sent).stored == 1
    assert meter.send({**sent, "idempotency_key": "b"}).stored == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event_stage")
        assert cursor.fetchone() == (0,), "it empties itself with each transaction"


@pytest.mark.django_db
def test_comparison_tells_each_staged_twin_apart(meter: Meter) -> None:
    meter.define("m", "sum")
    sent = {"idempotency_key": "a", "customer": "ann", "type": "m", "value": 1}
    meter.send_all(sent)

    with transaction.atomic():
        meter.send({**sent, "value": "1.000"}, {**sent, "value": 2}, {**sent, "idempotency_key": "new"})
        compared = store_events.compare_staged(organization_id=meter.organization.pk)

    places = {row.offset & ((1 << OFFSET_BITS) - 1): row.is_same for row in compared}
    assert places == {0: True, 1: False}
