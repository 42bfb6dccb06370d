"""What becomes of an invoice after it is final: voided, waived or issued anew, credited, paid; never edited or lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection, transaction

from billing.documents.words import stored_step_text
from billing.models import BillingPeriod, CreditGrant, Invoice, InvoiceLine
from billing.queries.explain import explain_line
from billing.queries.invoices import NotFinalised
from billing.queries.rederivation import rederive_invoice
from billing.services.corrections import (
    AlreadyPaid,
    HasCreditNotes,
    NothingLeft,
    issue_credit_note,
    mark_paid,
    void_invoice,
)
from billing.services.credits import CreditSpent, grant_credits
from billing.services.invoicing import NotInGrace, finalise_invoice
from billing.services.tax_rates import TaxRateDefinition, create_tax_rate
from common.errors import InvalidInput
from tests.billing.auditor import audit, audit_charges
from tests.billing.seller import Seller, written
from tests.billing.test_invoicing import send

pytestmark = pytest.mark.django_db(transaction=True)
AT = datetime(2026, 11, 10, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def void(invoice: Invoice, *, reissue: bool = False, at: datetime = AT) -> Invoice:
    return void_invoice(invoice=invoice, reason="wrong", is_reissued=reissue, actor="test", now=at)


def credit(invoice: Invoice, amounts: Mapping[int, int] | None = None, *, at: datetime = AT) -> Invoice:
    return issue_credit_note(invoice=invoice, amounts=amounts, reason="sorry", actor="test", now=at).note


def tax(seller: Seller, code: str, percent: str) -> None:
    definition = TaxRateDefinition(code, code.upper(), Decimal(percent))
    create_tax_rate(organization=seller.organization, definition=definition, actor="test", now=seller.now)


def grant(seller: Seller, customer: str, amount: int, start: datetime) -> CreditGrant:
    made = grant_credits(
        organization=seller.organization,
        customer=seller.customer(customer),
        currency="USD",
        amount_minor=amount,
        kind="prepaid",
        actor="test",
        now=start,
    )
    return made.grant


class TestVoid:
    def test_and_waived_is_never_charged_again(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 500), written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 8, 1))
        paid_from = grant(seller, "acme", 300, utc(2026, 8, 1))
        [august] = seller.run(utc(2026, 9, 3))
        assert (august.credits_minor, august.due_minor) == (300, 200)

        void(august, at=utc(2026, 9, 4))
        seller.use("acme", "calls", 50, utc(2026, 8, 5))
        august, september = seller.run(utc(2026, 10, 3))

        assert (august.state, august.number, september.number) == ("void", "INV-000001", "INV-000002")
        assert seller.lines(september) == [("fee", 1, 500), ("usage", 0, 0)]
        # What paid it pays the next one.
        assert september.credits_minor == paid_from.amount_minor
        with pytest.raises(NotFinalised):
            void(august)
        audit(seller.organization)
        audit_charges(seller.organization)

    def test_and_issued_anew_has_a_new_number(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("graduated", metric="calls", tiers=[(100, 10), (None, 1)]))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        seller.use("acme", "calls", 90, utc(2026, 7, 10))
        seller.run(utc(2026, 8, 3))
        seller.use("acme", "calls", 30, utc(2026, 7, 11))
        july, august = seller.run(utc(2026, 9, 3))
        assert seller.lines(august) == [("usage", 0, 0), ("adjustment", 1, 120)]

        # The adjustment of July comes back with August, and stands on both no longer.
        void(august, reissue=True, at=utc(2026, 9, 4))
        *_, anew = seller.run(utc(2026, 9, 4))
        assert (anew.number, anew.period_id, seller.lines(anew)) == (
            "INV-000003",
            august.period_id,
            seller.lines(august),
        )
        # July itself anew, with all that is known, though 120 of it stand on another invoice: the next gives them back.
        void(july, reissue=True, at=utc(2026, 9, 5))
        *_, july_anew = seller.run(utc(2026, 9, 5))
        assert seller.lines(july_anew) == [("usage", 120, 1020)]
        *_, september = seller.run(utc(2026, 10, 3))
        assert seller.lines(september) == [("usage", 0, 0), ("adjustment", 1, -120)]
        *_, october = seller.run(utc(2026, 11, 3))
        assert seller.lines(october) == [("usage", 0, 0)]
        audit(seller.organization)
        audit_charges(seller.organization)

    def test_after_the_time_for_adjustments_loses_none(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 3, 1))
        seller.run(utc(2026, 4, 3))
        seller.use("acme", "calls", 30, utc(2026, 3, 11))
        _, april = seller.run(utc(2026, 5, 3))
        assert seller.lines(april) == [("usage", 0, 0), ("adjustment", 1, 30)]
        seller.run(utc(2026, 10, 3))

        void(april, reissue=True)
        *_, anew = seller.run(AT)

        assert [line for line in map(seller.lines, seller.run(AT)) if ("adjustment", 1, 30) in line] == [
            [("usage", 0, 0), ("adjustment", 1, 30)],
            [("usage", 0, 0), ("adjustment", 1, 30)],
        ]
        assert anew.number == "INV-000009"
        audit(seller.organization)
        audit_charges(seller.organization)

    def test_long_after_the_subscription_ended_loses_and_doubles_nothing(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 3, 1))
        seller.cancel(made, "period_end", at=utc(2026, 3, 20))
        send(seller, "a", "acme", 10, utc(2026, 3, 10))
        seller.run(utc(2026, 4, 3))
        send(seller, "b", "acme", 5, utc(2026, 3, 11))
        march, late = seller.run(utc(2026, 4, 5))
        assert (march.total_minor, late.total_minor) == (10, 5)

        # March anew has all 15, 5 of which stand on the other invoice too: they go back.
        void(march, reissue=True)
        *_, anew, back = seller.run(AT)
        assert (anew.total_minor, back.total_minor) == (15, -5)
        # The 5 that went back stand nowhere once that invoice is void: nothing is lost either.
        void(back)
        *_, again = seller.run(AT)
        assert (again.number, again.total_minor) == ("INV-000005", -5)
        # Late and back both void come to nothing; what was looked at is not looked at once more.
        void(late)
        void(again)
        assert seller.run(AT)[-1].number == "INV-000005"
        period = BillingPeriod.objects.for_organization(seller.organization).get()
        assert period.billed_quantities == ["15"]
        audit(seller.organization)
        audit_charges(seller.organization)

    def test_of_what_gave_credit_takes_it_back_unless_it_is_spent(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        send(seller, "a", "acme", 900, utc(2026, 7, 10))
        seller.use("acme", "calls", 40, utc(2026, 9, 10))
        seller.run(utc(2026, 8, 3))
        seller.void("a")
        _, august = seller.run(utc(2026, 9, 3))
        assert august.total_minor == -900

        void(august, reissue=True, at=utc(2026, 9, 4))
        *_, anew, september = seller.run(utc(2026, 10, 3))
        assert (anew.total_minor, september.credits_minor) == (-900, 40)
        with pytest.raises(CreditSpent):
            void(anew)
        void(september, at=utc(2026, 10, 4))
        void(anew, at=utc(2026, 10, 4))
        seller.run(utc(2026, 11, 3))

        # August and September are waived; the 900 of July come back with October.
        assert seller.run(utc(2026, 11, 3))[-1].total_minor == -900
        audit(seller.organization)
        audit_charges(seller.organization)


class TestCreditNote:
    def test_gives_back_in_parts_with_taxes_to_the_cent(self, seller: Seller) -> None:
        tax(seller, "vat", "7.7")
        tax(seller, "city", "1.25")
        seller.plan("pro", written("flat", 999, name="A"), written("flat", 334, name="B"))
        seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
        [invoice] = seller.run(utc(2026, 10, 3))
        # Of 1333, 7.7 % are 102.641 and 1.25 % are 16.6625.
        assert [(each["code"], each["amount_minor"]) for each in invoice.taxes] == [("city", "17"), ("vat", "103")]
        assert invoice.total_minor == 1453

        first = credit(invoice, {1: 333})
        # 1000 are left: taxes of 77 and 12.5, rounded up.
        assert (first.number, first.subtotal_minor, first.tax_minor, first.total_minor) == (
            "CN-000001",
            -333,
            -30,
            -363,
        )
        assert seller.lines(first) == [("credit", 1, -333)]
        for amounts in ({1: 667}, {1: 0}, {3: 1}):
            with pytest.raises(InvalidInput):
                credit(invoice, amounts)
        with pytest.raises(HasCreditNotes):
            void(invoice)
        second = credit(invoice, {1: 1, 2: 334})
        rest = credit(invoice)

        notes = (first, second, rest)
        assert sum(note.subtotal_minor for note in notes) == -1333
        assert sum(note.tax_minor for note in notes) == -120
        with pytest.raises(NothingLeft):
            credit(invoice)
        # Nothing of it is open any more, and nothing was paid for it: no credit comes of it.
        invoice.refresh_from_db()
        assert (invoice.payment_reference, sum(note.credits_minor for note in notes)) == ("CN-000003", 1453)
        assert not CreditGrant.objects.for_organization(seller.organization).exists()
        # A note taken back is open again, whichever it was.
        void(first)
        invoice.refresh_from_db()
        assert (invoice.paid_at, invoice.payment_reference) == (None, "")
        assert credit(invoice).total_minor == first.total_minor
        audit(seller.organization)

    def test_of_a_paid_invoice_is_credit_and_not_charged_again(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 8, 1))
        seller.use("acme", "calls", 700, utc(2026, 8, 2))
        [august] = seller.run(utc(2026, 9, 3))
        paid = mark_paid(invoice=august, reference="wire 7", actor="test", now=utc(2026, 9, 4))
        with pytest.raises(AlreadyPaid):
            mark_paid(invoice=august, reference="again", actor="test", now=AT)
        with pytest.raises(AlreadyPaid):
            void(august)

        note = credit(paid, {1: 200}, at=utc(2026, 9, 5))
        with pytest.raises(NotFinalised):
            credit(note)
        seller.use("acme", "calls", 20, utc(2026, 8, 3))
        seller.use("acme", "calls", 500, utc(2026, 9, 3))
        *_, september = seller.run(utc(2026, 10, 3))

        assert seller.lines(september) == [("usage", 500, 500), ("adjustment", 1, 20)]
        assert (september.credits_minor, september.due_minor) == (200, 320)
        audit(seller.organization)
        audit_charges(seller.organization)

    def test_counts_when_its_usage_is_taken_back_too(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        for key, value in (("wrong", 100), ("half", 30)):
            send(seller, key, "acme", value, utc(2026, 7, 2))
        [july] = seller.run(utc(2026, 8, 3))
        note = credit(july, {1: 100}, at=utc(2026, 8, 4))

        # Of 130 that were charged 100 were given back; the 30 that are left are what July comes to.
        seller.void("wrong")
        _, _, august = seller.run(utc(2026, 9, 3))
        assert seller.lines(august) == [("usage", 0, 0)]
        seller.void("half")
        *_, september = seller.run(utc(2026, 10, 3))
        # Nothing is left of July; its rest is given back, and no more.
        assert seller.lines(september) == [("usage", 0, 0), ("adjustment", 1, -30)]
        line = InvoiceLine.objects.for_organization(seller.organization).get(invoice=september, position=2)
        assert [(step["kind"], step["name"], step["amount"]) for step in line.steps] == [
            ("recomputed", "calls", "0"),
            ("billed", "INV-000001", "-130"),
            ("credited", "CN-000001", "100"),
        ]
        assert stored_step_text(line.steps[2], "USD").text == "but CN-000001 gave back"
        audit(seller.organization)
        audit_charges(seller.organization)

        # Once the note is void the 100 are charged again, and so they go back with the next invoice.
        void(note, at=utc(2026, 10, 4))
        *_, october = seller.run(utc(2026, 11, 3))
        assert seller.lines(october) == [("usage", 0, 0), ("adjustment", 1, -100)]
        assert audit_charges(seller.organization)[july.period_id] == 0
        for invoice in (september, october):
            found = explain_line(invoice=invoice, position=2)
            assert found.agrees.is_whole
            assert rederive_invoice(invoice=invoice).agrees
        assert explain_line(invoice=september, position=2).adjustment.credited == [("CN-000001", 100)]

    def test_voided_long_after_charges_nothing_that_came_too_late(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        send(seller, "in time", "acme", 100, utc(2026, 7, 2))
        [july] = seller.run(utc(2026, 8, 3))
        note = credit(july, {1: 100}, at=utc(2026, 8, 4))
        send(seller, "late", "acme", 7, utc(2026, 7, 2))

        # July is adjusted for 92 days, until 1 November.
        void(note, at=utc(2026, 11, 2))

        assert [seller.lines(invoice) for invoice in seller.run(utc(2026, 12, 3))[-4:]] == [[("usage", 0, 0)]] * 4
        audit(seller.organization)

    def test_gives_back_no_more_than_the_whole_invoice_came_to(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 100), written("per_unit", 1, metric="calls"))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        for key, value in (("a", 30), ("b", 500)):
            send(seller, key, "acme", value, utc(2026, 7, 2))
        seller.run(utc(2026, 8, 3))
        seller.void("a")
        *_, august = seller.run(utc(2026, 9, 3))
        assert [amount for *_, amount in seller.lines(august)] == [100, 0, -30]

        with pytest.raises(InvalidInput):
            credit(august, {1: 71})
        assert credit(august, {1: 70}).total_minor == -70
        with pytest.raises(NothingLeft):
            credit(august)
        seller.void("b")
        *_, september = seller.run(utc(2026, 10, 3))
        assert september.total_minor == -400
        with pytest.raises(NothingLeft):
            credit(september)
        audit(seller.organization)


class TestDraft:
    def test_is_made_final_at_once_if_it_charges_anything(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        seller.pause(made, at=utc(2026, 8, 1), until=utc(2026, 9, 1))
        send(seller, "a", "acme", 10, utc(2026, 7, 2))
        [july] = seller.run(utc(2026, 8, 1, 1))
        final = finalise_invoice(invoice=july, actor="test", now=utc(2026, 8, 1, 2))
        assert (final.state, final.number, final.total_minor) == ("finalised", "INV-000001", 10)
        with pytest.raises(NotInGrace):
            finalise_invoice(invoice=july, actor="test", now=utc(2026, 8, 1, 3))

        # August is paused; all that its draft has is an adjustment, which is taken back.
        seller.use("acme", "calls", 5, utc(2026, 7, 3))
        send(seller, "back", "acme", -5, utc(2026, 7, 3))
        seller.void("back")
        draft, _ = seller.run(utc(2026, 9, 1, 1))
        assert (draft.state, draft.total_minor) == ("draft", 5)
        send(seller, "again", "acme", -5, utc(2026, 7, 3))
        with pytest.raises(NotInGrace):
            finalise_invoice(invoice=draft, actor="test", now=utc(2026, 9, 1, 2))
        assert [each.number for each in seller.run(utc(2026, 9, 1, 3))] == ["INV-000001"]
        audit(seller.organization)


def test_the_database_refuses_to_change_or_lose_what_was_invoiced(seller: Seller) -> None:
    seller.plan("pro", written("flat", 100))
    seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
    grant(seller, "acme", 30, utc(2026, 9, 1))
    [invoice] = seller.run(utc(2026, 10, 3))
    refused = (
        "UPDATE billing_invoice SET total_minor = total_minor + 1, subtotal_minor = subtotal_minor + 1",
        "UPDATE billing_invoice SET number = 'INV-7'",
        "UPDATE billing_invoice SET state = 'draft', number = '', issued_at = NULL",
        "UPDATE billing_invoiceline SET amount_minor = 0",
        'INSERT INTO billing_invoiceline SELECT (jsonb_populate_record(line, \'{"id": 0, "position": 9}\')).* '
        "FROM billing_invoiceline AS line",
        "UPDATE billing_creditentry SET amount_minor = 0",
        "DELETE FROM billing_creditentry",
        "DELETE FROM billing_invoiceline",
        "DELETE FROM billing_creditentry; DELETE FROM billing_invoiceline; DELETE FROM billing_invoice",
    )

    for statement in refused:
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)

    invoice.refresh_from_db()
    assert (invoice.total_minor, invoice.number, InvoiceLine.objects.all_tenants().count()) == (100, "INV-000001", 1)
    seller.organization.delete()
    assert not Invoice.objects.all_tenants().exists()
