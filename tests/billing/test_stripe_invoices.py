"""Invoices on their way to Stripe: the real `stripe` package, over HTTP, to a server that keeps Stripe's rules.

Whatever goes wrong at whichever call, one invoice of the right sum is open there in the end; and each of the classic
mistakes, made on purpose, breaks that.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import stripe as stripe_package

from billing.clients.invoices import InvoiceDraft, RemoteInvoice, RemoteItem
from billing.clients.stripe_invoices import StripeInvoices
from billing.domain.reporting import Answer, ReportState
from billing.domain.stripe_invoices import (
    NotSayable,
    check_payable,
    days_until_due,
    list_items,
    stripe_amount,
)
from billing.models import BillingSettings, Invoice, InvoiceKind, InvoiceState, Notice
from billing.services import stripe_invoices as service
from billing.services.reporting import NotRejected
from billing.services.stripe_invoices import retry_push
from tests.billing.invoices import FEE, Line
from tests.billing.pusher import DUE, ITEMS, Around, Pusher
from tests.billing.reporter import Clock, Killed
from tests.billing.seller import Seller
from tests.billing.stripe_fake import INVOICES, FakeStripe, Fault
from tests.metering.meter import utc

# The draft, its four items, the step from draft to open.
WRITES = 6
SOON, NEXT_DAY = timedelta(minutes=10), timedelta(hours=26)


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def pusher(seller: Seller, clock: Clock) -> Iterator[Pusher]:
    with FakeStripe(now=clock.read) as server:
        server.fault_paths = INVOICES
        yield Pusher(seller, server, clock)


def expected(*numbers: str, status: str = "open") -> list[tuple[str, str, list[tuple[str, int]]]]:
    return [(number, status, sorted(ITEMS)) for number in numbers]


class TestPush:
    def test_arrives_as_an_open_invoice_of_the_same_sum(self, pusher: Pusher) -> None:
        """What else waits for the customer at Stripe, and its discounts there, stay out of it."""
        pusher.stripe.add_pending_item("cus_acme", 777)
        pusher.stripe.discounts["cus_acme"] = 50
        invoice = pusher.issue()

        assert pusher.push().answers == {Answer.ACCEPTED: 1}

        assert pusher.at_stripe() == expected("INV-1")
        row = pusher.row()
        assert (row.state, row.stripe_status, row.attempts, row.last_error) == ("delivered", "open", 1, "")
        assert row.hosted_url == f"https://invoice.stripe.test/{row.stripe_invoice_id}"
        there = pusher.stripe.invoices[row.stripe_invoice_id]
        assert there["metadata"]["meterbook_invoice"] == f"meterbook-{pusher.organization.pk}-{invoice.pk}"
        assert (there["auto_advance"], there["days_until_due"], there["currency"]) == (False, "14", "usd")
        assert invoice.due_minor == DUE == sum(amount for _, amount in ITEMS)
        keys = [call.idempotency_key for call in pusher.stripe.calls if call.method == "POST"]
        assert len(set(keys)) == len(keys) == WRITES
        assert not Notice.objects.for_organization(pusher.organization).exists()

    def test_only_what_is_to_be_paid_there_is_pushed_and_each_once(self, pusher: Pusher) -> None:
        """Neither drafts, voids and credit notes, nor what is paid, of nothing, of long ago or of nobody there."""
        unnamed = pusher.seller.subscribe("unnamed", "pro")
        pushed = pusher.issue()
        pusher.issue(state=InvoiceState.DRAFT, issued_at=None, due_at=None)
        pusher.issue(state=InvoiceState.VOID)
        pusher.issue(None, Line("Back", -500), kind=InvoiceKind.CREDIT_NOTE)
        pusher.issue(paid_at=pusher.clock.now)
        pusher.issue(None, FEE, credits_minor=FEE.amount_minor)
        pusher.issue(issued_at=pusher.clock.now - timedelta(days=8))
        pusher.issue(unnamed)

        assert (pusher.plan(), pusher.plan()) == (1, 0)
        assert pusher.row().invoice == pushed

    def test_nothing_is_pushed_unless_it_is_switched_on(self, pusher: Pusher) -> None:
        BillingSettings.objects.for_organization(pusher.organization).update(is_pushed_to_stripe=False)
        pusher.issue()

        assert pusher.plan() == 0

    def test_a_customer_that_stripe_does_not_know_stops_nobody_and_is_tried_again_by_hand(self, pusher: Pusher) -> None:
        pusher.issue(pusher.subscribe("gone", is_at_stripe=False))
        pusher.issue()

        assert pusher.push().answers == {Answer.REFUSED: 1, Answer.ACCEPTED: 1}

        refused, arrived = pusher.rows()
        assert (refused.state, refused.last_error) == ("rejected", "400: No such customer: 'cus_gone'")
        with pytest.raises(NotRejected):
            retry_push(push=arrived, actor="test", now=pusher.clock.now)
        pusher.stripe.add_customer("cus_found")
        pusher.name("gone", "cus_found")
        retry_push(push=refused, actor="test", now=pusher.clock.now)
        pusher.send()
        assert pusher.at_stripe() == expected("INV-2", "INV-1")
        assert {row.state for row in pusher.rows()} == {"delivered"}

    def test_what_does_not_come_to_the_same_sum_stays_a_draft(self, pusher: Pusher) -> None:
        pusher.issue()
        meddled = Around(pusher.sink)

        def meddle() -> None:
            name = next(iter(pusher.stripe.invoices))
            if len(pusher.stripe.items_of(name)) == 1:
                pusher.stripe.add_pending_item("cus_acme", 5, invoice=name)

        meddled.after = meddle
        assert pusher.push(meddled).answers == {Answer.REFUSED: 1}

        row = pusher.row()
        assert (row.state, row.stripe_status) == ("rejected", "draft")
        assert row.last_error.startswith(
            "Stripe's in_1 comes to 5335 USD in its units, and the invoice here to 5330 USD"
        )
        pusher.stripe._drop(row.stripe_invoice_id)
        retry_push(push=row, actor="test", now=pusher.clock.now)
        pusher.send()
        assert pusher.at_stripe() == expected("INV-1")


class TestTakingBack:
    def test_a_voided_invoice_is_voided_there(self, pusher: Pusher) -> None:
        invoice = pusher.issue()
        pusher.push()
        pusher.void(invoice)
        pusher.stripe.faults = [Fault.DROP_AFTER]

        pusher.come_to_rest()
        pusher.push()

        assert pusher.at_stripe() == expected("INV-1", status="void")
        assert (pusher.row().state, pusher.row().stripe_status) == ("delivered", "void")

    def test_one_voided_on_its_way_is_deleted_there_and_one_before_is_never_made(self, pusher: Pusher) -> None:
        half, unsent = pusher.issue(), pusher.issue()
        pusher.stripe.faults = [None, None, Fault.DROP_BEFORE, Fault.DROP_BEFORE]
        pusher.push()
        pusher.void(half)
        pusher.void(unsent)

        pusher.come_to_rest()

        assert pusher.at_stripe() == []
        assert [row.state for row in pusher.rows()] == ["superseded", "superseded"]
        assert {row.last_error for row in pusher.rows()} == {"Voided before it was sent."}

    def test_what_was_paid_or_credited_here_is_not_to_be_paid_there(self, pusher: Pusher) -> None:
        """Paid by hand: noted there. Given back by a credit note: voided there. Before it was sent: not sent."""
        by_hand, credited, unsent = pusher.issue(), pusher.issue(), pusher.issue()
        pusher.stripe.faults = [None] * 12 + [Fault.DROP_BEFORE]
        pusher.push()
        pusher.credit(credited)
        for invoice, reference in ((by_hand, "wire 7"), (unsent, "cash")):
            rows = Invoice.objects.for_organization(pusher.organization).filter(pk=invoice.pk)
            rows.update(paid_at=pusher.clock.now, payment_reference=reference)

        pusher.come_to_rest()

        assert pusher.at_stripe() == [*expected("INV-1", status="paid"), *expected("INV-2", status="void")]
        assert [row.state for row in pusher.rows()] == ["delivered", "delivered", "superseded"]
        by_hand.refresh_from_db()
        assert by_hand.payment_reference == "wire 7"
        assert pusher.plan() == 0

    @pytest.mark.parametrize("ended_by", ["void", "credit"])
    def test_one_that_was_paid_there_is_left_to_people(self, pusher: Pusher, ended_by: str) -> None:
        invoice = pusher.issue()
        pusher.push()
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        getattr(pusher, ended_by)(invoice)

        assert pusher.push().answers == {Answer.REFUSED: 1}

        assert pusher.at_stripe() == expected("INV-1", status="paid")
        row = pusher.row()
        assert (row.state, row.stripe_status) == ("rejected", "paid")
        assert row.last_error == f"It was {ended_by}ed here, and paid at Stripe as in_1: give the money back there."
        assert pusher.plan() == 0


@pytest.mark.parametrize("pause", [SOON, NEXT_DAY], ids=["while keys live", "after keys are forgotten"])
class TestMisfortunes:
    """One write after the other, on an invoice each: one open invoice comes of each."""

    @pytest.mark.parametrize("fault", list(Fault))
    def test_any_fault_at_any_call(self, pusher: Pusher, fault: Fault, pause: timedelta) -> None:
        for place in range(WRITES):
            pusher.issue()
            pusher.stripe.faults = [*[None] * place, fault]
            pusher.come_to_rest(every=pause)
            assert not pusher.stripe.faults

        assert sorted(pusher.at_stripe()) == expected(*(f"INV-{place}" for place in range(1, WRITES + 1)))

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_worker_that_is_killed_at_any_call(self, pusher: Pusher, moment: str, pause: timedelta) -> None:
        for place in range(WRITES):
            pusher.issue()
            with pytest.raises(Killed):
                pusher.push(killed_at(pusher, place, moment))
            assert [row.state for row in pusher.rows(state="sending")] == ["sending"]
            assert pusher.send().answers == {}, "its lease is not over"
            pusher.clock.now += pause
            pusher.come_to_rest(every=pause)

        assert sorted(pusher.at_stripe()) == expected(*(f"INV-{place}" for place in range(1, WRITES + 1)))


def killed_at(pusher: Pusher, place: int, moment: str) -> Around:
    calls = iter(range(WRITES))

    def kill() -> None:
        if next(calls) == place:
            raise Killed

    return Around(pusher.sink, **{moment: kill})


@pytest.mark.parametrize("fault", [None, Fault.DROP_AFTER], ids=["with its answer", "without"])
def test_a_worker_that_stood_still_leaves_the_row_to_who_took_it(pusher: Pusher, fault: Fault | None) -> None:
    pusher.issue()
    others: list[Any] = []

    def stand_still() -> None:
        if not others:
            others.append(None)
            pusher.clock.now += timedelta(minutes=6)
            others[0] = pusher.send().answers
            pusher.stripe.faults = [fault]

    assert pusher.push(Around(pusher.sink, before=stand_still)).answers == {Answer.UNCLEAR: 1}
    assert others == [{Answer.ACCEPTED: 1}]
    assert pusher.at_stripe() == expected("INV-1")
    assert pusher.row().state == ReportState.DELIVERED


def test_a_stripe_that_is_away_ends_a_run(pusher: Pusher) -> None:
    for _ in range(5):
        pusher.issue()
    pusher.stripe.faults = [Fault.DROP_BEFORE] * 10

    run = pusher.push()

    assert (run.answers, run.stopped_by) == ({Answer.UNCLEAR: 3}, "No answer from Stripe: APIConnectionError.")


class Mutant(StripeInvoices):
    """The adapter with one mistake."""

    def __init__(self, mistake: str, stripe: FakeStripe) -> None:
        super().__init__(api_key=stripe.key, api_base=stripe.url)
        self.mistake = mistake

    def find(self, **selection: Any) -> RemoteInvoice | None:
        return None if self.mistake == "does not look for the invoice" else super().find(**selection)

    def list_places(self, invoice_id: str) -> set[int]:
        return set() if self.mistake == "does not look for items" else super().list_places(invoice_id)

    def add_item(self, invoice_id: str, draft: InvoiceDraft, item: RemoteItem, *, key: str) -> None:
        if self.mistake == "names no invoice":
            parameters: Any = {"customer": draft.customer_id, "currency": "usd", "amount": item.amount}
            try:
                self._client.v1.invoice_items.create(parameters, {"idempotency_key": key})
            except stripe_package.StripeError:
                raise service.CallFailed(Answer.UNCLEAR, "", is_answered=False) from None
        elif self.mistake == "swallows lost answers":
            try:
                super().add_item(invoice_id, draft, item, key=key)
            except service.CallFailed:
                return
        else:
            super().add_item(invoice_id, draft, item, key=key)


def check(pusher: Pusher, sink: StripeInvoices) -> None:
    """Push through a lost answer at each call and a day of silence, and require one right invoice of each."""
    for place in range(WRITES):
        pusher.issue()
        pusher.stripe.faults = [*[None] * place, Fault.DROP_AFTER if place % 2 else Fault.DROP_BEFORE]
        pusher.push(sink)
        pusher.issue()
        pusher.stripe.faults = [*[None] * place, Fault.DROP_AFTER]
        pusher.push(sink)
        pusher.clock.now += NEXT_DAY
        pusher.come_to_rest(sink)
    assert sorted(pusher.at_stripe()) == sorted(expected(*(f"INV-{place}" for place in range(1, 2 * WRITES + 1))))


def test_the_real_adapter_keeps_the_invariant(pusher: Pusher) -> None:
    check(pusher, pusher.sink)


@pytest.mark.parametrize(
    "mistake",
    ["does not look for the invoice", "does not look for items", "names no invoice", "swallows lost answers"],
)
def test_a_mistake_of_the_adapter_is_noticed(pusher: Pusher, mistake: str) -> None:
    with pytest.raises(AssertionError):
        check(pusher, Mutant(mistake, pusher.stripe))


def test_finalising_without_comparing_is_noticed(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.Push, "_compare", lambda push, remote: None)

    with pytest.raises(AssertionError):
        check(pusher, Mutant("swallows lost answers", pusher.stripe))
    assert any(status == "open" and items != sorted(ITEMS) for _, status, items in pusher.at_stripe())


class TestAmounts:
    @pytest.mark.parametrize(
        ("minor", "currency", "amount"),
        [(1234, "USD", 1234), (1234, "JPY", 1234), (12, "ISK", 1200), (1200, "MGA", 12), (-7, "EUR", -7)],
    )
    def test_are_said_in_stripes_units(self, minor: int, currency: str, amount: int) -> None:
        assert stripe_amount(minor, currency) == amount

    @pytest.mark.parametrize(("minor", "currency"), [(1250, "MGA"), (5, "UGX"), (1234, "KWD")])
    def test_that_cannot_be_paid_there_are_refused(self, minor: int, currency: str) -> None:
        with pytest.raises(NotSayable):
            check_payable(minor, currency)

    def test_more_lines_than_stripe_takes_are_one_item(self) -> None:
        items = list_items(lines=[(f"line {n}", n) for n in range(300)], taxes=[("VAT", 9)], credits_minor=4)

        assert len(items) == 250
        assert [item.place for item in items] == list(range(1, 251))
        assert sum(item.amount_minor for item in items) == 299 * 300 // 2 + 9 - 4
        # 299 lines of something, 247 of them alone.
        assert [(item.description, item.amount_minor) for item in items[246:]] == [
            ("line 247", 247),
            ("52 more lines, see the invoice", sum(range(248, 300))),
            ("VAT", 9),
            ("Paid by credits", -4),
        ]

    def test_are_due_in_whole_days_whenever_they_are_pushed(self) -> None:
        issued = utc(2026, 11, 2, 3)
        cases = {issued + timedelta(days=14): 14, issued + timedelta(days=13, hours=1): 14, issued: 1, None: 1}
        assert {due: days_until_due(issued_at=issued, due_at=due) for due in cases} == cases
