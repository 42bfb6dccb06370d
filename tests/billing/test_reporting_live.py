"""The same adapter against Stripe itself: with a sandbox key in `STRIPE_TEST_KEY`, else skipped.

Leaves a deactivated meter and nothing else in the sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from secrets import token_hex

import pytest
import stripe

from billing.clients.meters import MeterEvent
from billing.clients.stripe import StripeMeters
from billing.domain.reporting import Answer

KEY = os.environ.get("STRIPE_TEST_KEY", "")
IS_SANDBOX = KEY.startswith(("sk_test_", "rk_test_"))
pytestmark = pytest.mark.skipif(not IS_SANDBOX, reason="no sandbox key in STRIPE_TEST_KEY")


@pytest.fixture(scope="module")
def first() -> Iterator[MeterEvent]:
    client = stripe.StripeClient(KEY)
    name = f"meterbook_test_{token_hex(6)}"
    customer = client.v1.customers.create({"name": name})
    meter = client.v1.billing.meters.create(
        {"display_name": name, "event_name": name, "default_aggregation": {"formula": "sum"}}
    )
    yield MeterEvent(
        event_name=name,
        customer_id=customer.id,
        quantity=Decimal(5),
        event_time=(datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0),
        identifier=f"{name}-0",
        attempt_key=f"{name}-0-1",
    )
    client.v1.billing.meters.deactivate(meter.id)
    client.v1.customers.delete(customer.id)


def changed(event: MeterEvent, name: str, **changes: object) -> MeterEvent:
    fields = {slot: getattr(event, slot) for slot in event.__slots__}
    own = {"identifier": f"{event.event_name}-{name}", "attempt_key": f"{event.event_name}-{name}-1"}
    return MeterEvent(**{**fields, **own, **changes})


def test_stripe_answers_as_the_fake_does(first: MeterEvent) -> None:
    account = StripeMeters(api_key=KEY)
    late = first.event_time - timedelta(days=36)

    answers = {
        "first": account.send(first).answer,
        "again": account.send(changed(first, "again", identifier=first.identifier)).answer,
        "replayed": account.send(first).answer,
        "negative": account.send(changed(first, "negative", quantity=Decimal(-2))).answer,
        "digits": account.send(changed(first, "digits", quantity=Decimal("1234567890123456"))).answer,
        "late": account.send(changed(first, "late", event_time=late)).answer,
        "nobody": account.send(changed(first, "nobody", customer_id="cus_nobody")).answer,
    }

    assert answers == {
        "first": Answer.ACCEPTED,
        "again": Answer.DUPLICATE,
        "replayed": Answer.ACCEPTED,
        "negative": Answer.ACCEPTED,
        "digits": Answer.REFUSED,
        "late": Answer.REFUSED,
        "nobody": Answer.REFUSED,
    }
    assert first.event_name in {meter.event_name for meter in account.list_meters()}


def test_an_unknown_key_is_told_from_a_refusal(first: MeterEvent) -> None:
    assert StripeMeters(api_key="sk_test_unknown").send(first).answer == Answer.UNAUTHORIZED
