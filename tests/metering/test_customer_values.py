"""Many customers' values in one read are what each customer's own read gives."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Customer
from metering import queries
from tests.metering.meter import Meter, utc

BEGIN, END = utc(2026, 11, 1, 0, 30), utc(2026, 11, 20, 12)


@pytest.fixture
def used(meter: Meter, aggregation: str) -> Meter:
    """Three customers, one of whom sent nothing to the metric; a part of the events is not rolled up."""
    meter.define("m", aggregation, dimensions=["plan"])
    meter.define("other", "count")
    values: Sequence[Any] = ["a", "b", "a"] if aggregation == "count_unique" else [3, 5, 4]
    for customer, plans in (("ann", ("free", "paid", "paid")), ("bob", ("paid", "free", "free"))):
        for hours, (value, plan) in enumerate(zip(values, plans, strict=True)):
            meter.send_all(
                {
                    "customer": customer,
                    "type": "m",
                    "value": value,
                    "timestamp": (BEGIN + timedelta(hours=30 * hours)).isoformat(),
                    "properties": {"plan": plan},
                }
            )
        if customer == "ann":
            meter.roll_up()
    meter.send_all({"customer": "eve", "type": "other", "value": 1})
    return meter


def list_values(meter: Meter, customers: Sequence[str], **filters: list[str]) -> dict[str, Decimal]:
    by_id = {meter.customer_id(name): name for name in customers}
    values = queries.list_customer_values(
        organization=meter.organization,
        metric=meter.metrics["m"],
        start=BEGIN,
        end=END,
        customer_ids=by_id.keys(),
        filters=filters,
    )
    return {by_id[customer_id]: value for customer_id, value in values.items()}


# Of 3, 5 and 4 for everybody; of the plan `paid` ann has 5 and 4, bob 3. Members: a, b, a; ann paid b and a, bob a.
@pytest.mark.parametrize(
    ("aggregation", "whole", "paid"),
    [
        ("count", 3, (2, 1)),
        ("sum", 12, (9, 3)),
        ("max", 5, (5, 3)),
        ("min", 3, (4, 3)),
        ("latest", 4, (4, 3)),
        ("count_unique", 2, (2, 1)),
    ],
)
def test_each_has_its_own_value(used: Meter, whole: int, paid: tuple[int, int]) -> None:
    assert list_values(used, ["ann", "bob", "eve"]) == {"ann": whole, "bob": whole, "eve": 0}
    assert list_values(used, ["ann", "bob", "eve"], plan=["paid"]) == {"ann": paid[0], "bob": paid[1], "eve": 0}
    assert list_values(used, ["bob"]) == {"bob": whole}


@pytest.mark.parametrize("aggregation", ["sum", "count_unique"])
def test_costs_no_more_for_more_customers(used: Meter) -> None:
    def count_statements(*customers: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            queries.list_customer_values(
                organization=used.organization,
                metric=used.metrics["m"],
                start=BEGIN,
                end=END,
                customer_ids=list(
                    Customer.objects.for_organization(used.organization)
                    .filter(external_id__in=customers)
                    .values_list("pk", flat=True)
                ),
            )
        return len(captured)

    assert count_statements("ann", "bob", "eve") == count_statements("ann")
