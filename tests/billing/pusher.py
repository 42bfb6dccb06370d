"""A hand on pushing invoices for tests: one organization, a fake Stripe, and a clock that both go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from billing.clients.invoices import InvoiceSink
from billing.clients.stripe_invoices import StripeInvoices
from billing.domain.reporting import UNSETTLED
from billing.models import BillingSettings, Invoice, InvoiceKind, InvoiceState, StripeInvoice, Subscription
from billing.services.stripe_invoices import PushRun, plan_pushes, send_pushes
from billing.services.stripe_names import name_customer
from tests.billing.invoices import FEE, USAGE, Line, store_invoice
from tests.billing.reporter import Clock
from tests.billing.seller import Seller, written
from tests.billing.stripe_fake import FakeStripe

# What `Pusher.issue` makes, as Stripe is told it: 4900 + 375, 20 % tax on 5275, and credits.
ITEMS = [("Base fee", 4900), ("API calls: 130 call", 375), ("VAT, 20 %", 1055), ("Paid by credits", -1000)]
DUE = 5330


@dataclass
class Around:
    """A sink that does something before and after each write of the real one."""

    sink: InvoiceSink
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.sink, name)
        if name in {"find", "get", "list_places"}:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self.before()
            answer = real(*args, **options)
            self.after()
            return answer

        return call


class Pusher:
    """Invoices of `acme`, which is `cus_acme` at Stripe, in an organization that has its invoices paid there."""

    def __init__(self, seller: Seller, stripe: FakeStripe, clock: Clock) -> None:
        self.seller, self.stripe, self.clock = seller, stripe, clock
        self.organization = seller.organization
        seller.plan("pro", written("flat", 4900))
        BillingSettings.objects.create(organization=self.organization, is_pushed_to_stripe=True)
        self.subscription = self.subscribe("acme")
        self.sink = StripeInvoices(api_key=stripe.key, api_base=stripe.url)
        self._issued = 0

    def subscribe(self, customer: str, *, is_at_stripe: bool = True) -> Subscription:
        subscription = self.seller.subscribe(customer, "pro")
        self.name(customer, f"cus_{customer}")
        if is_at_stripe:
            self.stripe.add_customer(f"cus_{customer}")
        return subscription

    def name(self, customer: str, stripe_customer_id: str) -> None:
        name_customer(
            organization=self.organization,
            customer=self.seller.customer(customer),
            stripe_customer_id=stripe_customer_id,
            actor="test",
            now=self.clock.now,
        )

    def issue(self, subscription: Subscription | None = None, *lines: Line, **fields: Any) -> Invoice:
        """Store a finalised invoice of one month after the other."""
        self._issued += 1
        defaults = {"tax_percent": 20, "credits_minor": 1000} if not lines else {}
        return store_invoice(
            subscription or self.subscription,
            f"INV-{self._issued}",
            *(lines or (FEE, USAGE)),
            **{
                "issued_at": self.clock.now,
                "due_at": self.clock.now + timedelta(days=14),
                "starts_at": self.clock.now - timedelta(days=31 * self._issued),
            }
            | defaults
            | fields,
        )

    def void(self, invoice: Invoice) -> None:
        rows = Invoice.objects.for_organization(self.organization).filter(pk=invoice.pk)
        rows.update(state=InvoiceState.VOID, voided_at=self.clock.now, void_reason="wrong")

    def credit(self, invoice: Invoice) -> None:
        """Give all of it back by a credit note, as `issue_credit_note` writes it down."""
        note = self.issue(
            None, Line("Back", -DUE), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=invoice, sequence=self._issued
        )
        rows = Invoice.objects.for_organization(self.organization).filter(pk=invoice.pk)
        rows.update(paid_at=self.clock.now, payment_reference=note.number)

    def plan(self) -> int:
        return plan_pushes(organization=self.organization, now=self.clock.now)

    def send(self, sink: InvoiceSink | Around | None = None) -> PushRun:
        return send_pushes(organization=self.organization, sink=sink or self.sink, pace=self.clock.pace)  # type: ignore[arg-type]

    def push(self, sink: InvoiceSink | Around | None = None) -> PushRun:
        self.plan()
        return self.send(sink)

    def come_to_rest(
        self, sink: InvoiceSink | Around | None = None, *, every: timedelta = timedelta(minutes=10)
    ) -> None:
        for _ in range(20):
            self.push(sink)
            if not self.rows(state__in=UNSETTLED):
                return
            self.clock.now += every
        raise AssertionError([(row.state, row.last_error) for row in self.rows()])

    def rows(self, **selection: Any) -> list[StripeInvoice]:
        rows = StripeInvoice.objects.for_organization(self.organization).filter(**selection)
        return list(rows.select_related("invoice").order_by("id"))

    def row(self) -> StripeInvoice:
        [row] = self.rows()
        return row

    def at_stripe(self) -> list[tuple[str, str, list[tuple[str, int]]]]:
        """Return each invoice there: whose number, its status, its items in order."""
        return [
            (invoice["metadata"]["meterbook_number"], invoice["status"], sorted(self.stripe.items_of(name)))
            for name, invoice in self.stripe.invoices.items()
        ]
