"""Senders that race: twins with the same keys, retries, new customers, voids of one event. All on real connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from accounts.models import Customer, Organization
from metering.models import Event, EventVoid
from metering.services.ingest import IngestResult
from metering.services.voids import AlreadyVoided
from tests.metering.meter import Meter, utc
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = 10_000
CONNECTIONS_PER_CLIENT = 4
NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    return Meter(org, now)


def event(number: int) -> dict[str, Any]:
    return {
        "idempotency_key": f"key-{number}",
        # New customers, too, are created by whoever comes first.
        "customer": f"cust-{number % 97}",
        "type": "m",
        "value": number,
        "properties": {"shard": number % 7},
    }


def send_share(meter: Meter, numbers: Sequence[int], batch_size: int, connection: int) -> list[IngestResult]:
    """Send every so manieth batch of one client, as one of its connections."""
    batches = [numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size)]
    return [meter.send(*map(event, batch)) for batch in batches[connection::CONNECTIONS_PER_CLIENT]]


@pytest.mark.parametrize("is_opposite", [False, True], ids=["in the same order", "in opposite order"])
def test_two_clients_sending_the_same_10000_keys_store_each_once(meter: Meter, is_opposite: bool) -> None:
    meter.define("m", "sum", dimensions=["shard"])
    ascending = range(KEYS)
    # So large that all keys are under way at once, and of different sizes, so that each overlaps several of the twin's.
    clients = [(ascending, 2500), (ascending[::-1] if is_opposite else ascending, 1200)]

    results = race(
        [
            partial(send_share, meter, numbers, batch_size, connection)
            for numbers, batch_size in clients
            for connection in range(CONNECTIONS_PER_CLIENT)
        ]
    )

    verdicts = Counter[str]()
    for result in (result for share in results for result in share):
        verdicts.update(stored=result.stored, duplicates=result.duplicates, errors=len(result.errors))
    assert verdicts == Counter(stored=KEYS, duplicates=KEYS, errors=0)
    keys = Event.objects.for_organization(meter.organization).values_list("idempotency_key", flat=True)
    assert sorted(keys) == sorted(f"key-{number}" for number in ascending)
    assert Customer.objects.for_organization(meter.organization).count() == 97
    for roll_up in (False, True):
        if roll_up:
            meter.roll_up()
        assert meter.value("m", *NOVEMBER) == sum(ascending)


def test_eight_retries_of_one_event_at_once_are_one_event(meter: Meter) -> None:
    meter.define("m", "sum")
    sent = [event(1), {**event(2), "customer": "brand new"}]

    results = race([partial(meter.send, *sent, at=meter.now + timedelta(seconds=n)) for n in range(8)])

    assert sum(result.stored for result in results) == 2
    assert sum(result.duplicates for result in results) == 14
    assert [result.errors for result in results] == [[]] * 8
    assert meter.value("m", *NOVEMBER) == 3


def test_of_two_contents_racing_for_one_key_one_is_stored_and_the_other_conflicts(meter: Meter) -> None:
    meter.define("m", "sum")
    contents = [{**event(place), "customer": f"c{side}", "value": side} for place in range(200) for side in (1, 2)]

    results = race([partial(meter.send, *contents[side::2]) for side in (0, 1) for _ in range(2)])

    assert sum(result.stored for result in results) == 200
    assert sum(result.duplicates for result in results) == 200
    assert sum(len(result.errors) for result in results) == 400
    assert {error.code for result in results for error in result.errors} == {"conflict"}


def test_one_event_is_taken_back_once_however_many_try(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.send_all(event(5), event(7))
    meter.roll_up()

    def void() -> str:
        try:
            meter.void("key-5")
        except AlreadyVoided as error:
            return error.code
        return "voided"

    assert Counter(race([void] * 6)) == Counter({"voided": 1, "already_voided": 5})
    assert EventVoid.objects.for_organization(meter.organization).count() == 1
    assert meter.value("m", *NOVEMBER) == 7
