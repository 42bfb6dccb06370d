"""Deriving an invoice again from raw events: to the cent, whatever came since, and not where something was planted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from billing.models import Invoice, TaxRate
from billing.queries.rederivation import Rederivation, rederive_invoice
from billing.services.commitments import create_commitment
from billing.services.corrections import issue_credit_note, void_invoice
from billing.services.invoice_runs import join_run, work_run
from tests.api.conftest import Api
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db(transaction=True)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def invoice(seller: Seller, at: datetime) -> Invoice:
    """Invoice what is due, and return the newest."""
    work_run(run=join_run(organization=seller.organization, actor="test", now=at), clock=lambda: at)
    return Invoice.objects.for_organization(seller.organization).filter(state="finalised").latest("number")


def derive(found: Invoice) -> Rederivation:
    return rederive_invoice(invoice=Invoice.objects.for_organization(found.organization_id).get(pk=found.pk))


@contextmanager
def without_triggers() -> Iterator[None]:
    """Let what was invoiced be changed, as somebody with the database's own tools could."""
    with connection.cursor() as cursor:
        for table in ("billing_invoice", "billing_invoiceline"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        for table in ("billing_invoice", "billing_invoiceline"):
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


@pytest.fixture
def october(seller: Seller) -> Invoice:
    """100 for the plan, 250 of 125 calls, 650 lacking to a commitment, and 20 % on all."""
    TaxRate.objects.create(organization=seller.organization, code="vat", name="VAT", percent=20)
    seller.define("calls", "sum")
    seller.plan("pro", written("flat", 100), written("per_unit", 2, metric="calls"))
    made = seller.subscribe("acme", "pro", start=utc(2026, 10, 1))
    create_commitment(subscription=made, amount_minor=1000, actor="test", now=utc(2026, 10, 1), is_recurring=True)
    seller.use("acme", "calls", 125, utc(2026, 10, 5))
    return invoice(seller, utc(2026, 11, 3))


def test_invoice_is_derived_again_whatever_came_since(seller: Seller, october: Invoice) -> None:
    assert october.total_minor == 1200
    seller.use("acme", "calls", 1000, utc(2026, 10, 6))
    TaxRate.objects.for_organization(seller.organization).update(percent=25)

    found = derive(october)

    assert found.agrees is True
    assert [(line.derived_quantity, line.derived_minor) for line in found.lines] == [(1, 100), (125, 250), (1, 650)]
    assert (found.derived_tax_minor, found.derived_total_minor) == (200, 1200)


def test_adjustments_credit_notes_and_void_invoices_are_derived_again(seller: Seller, october: Invoice) -> None:
    seller.use("acme", "calls", 1000, utc(2026, 10, 6))
    seller.use("acme", "calls", 3, utc(2026, 11, 6))
    november = invoice(seller, utc(2026, 12, 3))
    note = issue_credit_note(
        invoice=november, amounts={1: 33}, reason="A gift.", actor="test", now=utc(2026, 12, 4)
    ).note
    second = issue_credit_note(invoice=november, amounts=None, reason="All.", actor="test", now=utc(2026, 12, 5)).note
    void_invoice(invoice=october, reason="Wrong.", is_reissued=False, actor="test", now=utc(2026, 12, 6))

    # October comes to 2350 instead of 1000; November lacks 894 to its commitment.
    assert [line.derived_minor for line in derive(november).lines] == [100, 6, 894, 1350]
    assert [derive(each).agrees for each in (october, november, note, second)] == [True] * 4
    # 33 and 6.60 of tax, and then all the rest of 2350 and 470.
    assert (derive(note).derived_total_minor, derive(second).derived_total_minor) == (-40, -2780)


@pytest.mark.parametrize(
    ("statement", "places"),
    [
        pytest.param("UPDATE billing_invoiceline SET amount_minor = 251 WHERE position = 2", [2], id="amount"),
        pytest.param("UPDATE billing_invoiceline SET quantity = 126 WHERE position = 2", [2], id="quantity"),
        pytest.param(
            "UPDATE billing_invoiceline SET steps = jsonb_set(steps, '{0,amount}', '\"1\"') WHERE position = 2",
            [2],
            id="step",
        ),
        pytest.param("UPDATE metering_event SET value = 124", [2, 3], id="event"),
        pytest.param("UPDATE billing_invoice SET tax_minor = 201, total_minor = 1201, due_minor = 1201", [], id="tax"),
    ],
)
def test_what_was_planted_differs(
    seller: Seller, october: Invoice, api: Api, statement: str, places: list[int]
) -> None:
    with without_triggers(), connection.cursor() as cursor:
        cursor.execute(statement)

    answer = api.post(f"/v1/invoices/{october.pk}/verify")

    assert answer["agrees"] is False
    assert [line["position"] for line in answer["lines"] if not line["agrees"]] == places
    with pytest.raises(CommandError, match="1 differ"):
        call_command("check_billing", "--rederive", "--limit", "1")


def test_adjustment_that_takes_off_something_else_than_was_billed_differs(seller: Seller, october: Invoice) -> None:
    seller.use("acme", "calls", 1000, utc(2026, 10, 6))
    november = invoice(seller, utc(2026, 12, 3))
    assert derive(november).agrees is True

    with without_triggers(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_invoiceline SET amount_minor = 99 WHERE kind = 'fee' AND invoice_id = %s", [october.pk]
        )

    assert [line.agrees for line in derive(november).lines][-1] is False
    assert derive(november).derived_total_minor == november.total_minor
