"""Having finalised invoices paid at Stripe: plan what is to be pushed, and push it step by step.

The states are those of usage reports, and so is the discipline: an attempt is written down and committed before it is
made, each step's answer after it. A repetition bears the same keys for 23 hours and looks at what is there first, so
whoever is killed in between, one invoice comes of it. Owns no rule of amounts (`billing.domain.stripe_invoices`) and
no call (`billing.clients.stripe_invoices`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from accounts.models import Organization
from accounts.services import record_audit
from billing.clients.failures import CallFailed
from billing.clients.invoices import InvoiceDraft, InvoiceSink, RemoteInvoice, RemoteItem
from billing.domain.currencies import money_text
from billing.domain.notices import NoticeType
from billing.domain.reporting import LEASE, Answer, ReportState, delay
from billing.domain.stripe_invoices import (
    KEYS_LIVE,
    Item,
    NotSayable,
    check_payable,
    days_until_due,
    list_items,
    reference_of,
    stripe_amount,
)
from billing.models import MAX_ERROR_CHARACTERS, Invoice, InvoiceLine, InvoiceState, StripeInvoice
from billing.queries.reporting import find_stripe_customer
from billing.queries.stripe_invoices import list_due_pushes, list_settled_pushes, list_unpushed
from billing.services.notices import write_notice
from billing.services.reporting import NotRejected
from billing.services.stripe_account import NotMapped
from billing.services.stripe_pace import MAX_THROTTLED, MAX_UNCLEAR, Pace, TokenBucket, pause_seconds
from common.moments import rfc3339
from common.numbers import exact_text

# What an invoice may be at Stripe for good.
SETTLED_THERE = frozenset({"paid", "void"})
DRAFT, DELETED, PAID = "draft", "deleted", "paid"
VOIDED_BEFORE = "Voided before it was sent."
PAID_BEFORE = "Paid before it was sent."
MAX_URL_CHARACTERS = 1000

logger = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Another worker has taken the row meanwhile, or somebody changed it: nothing more of it is ours."""


class Mismatch(Exception):
    """Stripe's sum is not the invoice's."""


@dataclass(slots=True)
class PushRun:
    """What a run pushed, by answer. `stopped_by`: why it ended with rows still due, empty where it did not."""

    answers: Counter[str] = field(default_factory=Counter)
    stopped_by: str = ""


# --- planning -------------------------------------------------------------------------------------------------


def plan_pushes(*, organization: Organization, now: datetime) -> int:
    """Append a row for each finalised invoice that is to be pushed, and take up those settled here since they were.

    Returns how many there are. Idempotent, and safe beside others: an invoice has one row.
    """
    rows = [
        StripeInvoice(
            organization=organization,
            invoice=invoice,
            stripe_customer_id=invoice.stripe_customer_id,
            state=ReportState.PENDING,
            next_attempt_at=now,
            created_at=now,
        )
        for invoice in list_unpushed(organization=organization, now=now)
    ]
    StripeInvoice.objects.bulk_create(rows, ignore_conflicts=True)
    settled = list_settled_pushes(organization=organization)
    return len(rows) + settled.update(state=ReportState.PENDING, next_attempt_at=now)


# --- pushing --------------------------------------------------------------------------------------------------


def send_pushes(
    *, organization: Organization, sink: InvoiceSink, until: datetime | None = None, pace: Pace | None = None
) -> PushRun:
    """Push the rows that are due, one after the other. Safe beside others; ends early as reporting does."""
    pace = pace or Pace()
    run = PushRun()
    bucket = TokenBucket(pace=pace)
    unclear = throttled = 0
    while until is None or pace.now() < until:
        taken = _take_due(organization, pace.now())
        if taken is None:
            break
        answer, message = Push(taken, sink, pace, bucket).run()
        run.answers[answer] += 1
        unclear = unclear + 1 if answer == Answer.UNCLEAR else 0
        throttled = throttled + 1 if answer == Answer.THROTTLED else 0
        if answer == Answer.UNAUTHORIZED or unclear >= MAX_UNCLEAR or throttled >= MAX_THROTTLED:
            run.stopped_by = message
            break
        if throttled:
            pace.wait(pause_seconds(throttled, pace))
    return run


@dataclass(frozen=True, slots=True)
class Taken:
    """A row that is ours for a while, as it is now, and the state it was taken in."""

    row: StripeInvoice
    was: ReportState


def _take_due(organization: Organization, now: datetime) -> Taken | None:
    """Take the row that has waited longest, by a committed lease; None where none is due."""
    with transaction.atomic():
        due = list_due_pushes(organization=organization, now=now)
        row: StripeInvoice | None = due.select_for_update(skip_locked=True, no_key=True, of=("self",)).first()
        if row is None:
            return None
        was = ReportState(row.state)
        row.state, row.attempts, row.next_attempt_at = ReportState.SENDING, row.attempts + 1, now + LEASE
        if row.keyed_at is None or now - row.keyed_at >= KEYS_LIVE:
            row.keyed_at = now
        row.save(update_fields=["state", "attempts", "next_attempt_at", "keyed_at"])
        return Taken(row, was)


class Push:
    """One attempt at one row."""

    def __init__(self, taken: Taken, sink: InvoiceSink, pace: Pace, bucket: TokenBucket) -> None:
        self.row, self.invoice = taken.row, taken.row.invoice
        self._sink, self._pace, self._bucket = sink, pace, bucket
        # Whether it is known what of it is there.
        self._is_certain = taken.was not in {ReportState.UNKNOWN, ReportState.SENDING}
        self._is_first = self.row.attempts == 1
        assert self.invoice.issued_at is not None  # only what is finalised has a row
        self.draft = InvoiceDraft(
            customer_id=self.row.stripe_customer_id,
            currency=self.invoice.currency,
            reference=reference_of(
                prefix=settings.STRIPE_IDENTIFIER_PREFIX,
                organization_id=self.row.organization_id,
                invoice_id=self.row.invoice_id,
            ),
            number=self.invoice.number,
            days_until_due=days_until_due(issued_at=self.invoice.issued_at, due_at=self.invoice.due_at),
        )

    def run(self) -> tuple[Answer, str]:
        """Do what is still to be done, and write down what came of it."""
        try:
            answer, message = self._attempt()
        except LeaseLost:
            answer, message = Answer.UNCLEAR, "Another worker has it."
        if answer != Answer.ACCEPTED:
            logger.warning("invoice not pushed", invoice=self.invoice.number, answer=answer, message=message)
        return answer, message

    def _attempt(self) -> tuple[Answer, str]:
        try:
            self._push()
        except (Mismatch, NotSayable) as refusal:
            self._write(state=ReportState.REJECTED, next_attempt_at=None, last_error=str(refusal))
            return Answer.REFUSED, str(refusal)
        except CallFailed as failure:
            self._write_failure(failure)
            return failure.answer, failure.message
        if self.row.state == ReportState.REJECTED:
            return Answer.REFUSED, self.row.last_error
        return Answer.ACCEPTED, ""

    def _push(self) -> None:
        remote = self._look()
        self._is_certain = True
        if self.invoice.state == InvoiceState.VOID or self.invoice.paid_at is not None:
            self._settle(remote)
            return
        if remote is None:
            items = self._list_items()
            self._renew()
            remote = self._sink.create(self.draft, key=self._key("create"))
            self._renew(stripe_invoice_id=remote.id, stripe_status=remote.status)
            self._add_items(remote.id, items)
        elif remote.status == DRAFT:
            self._renew(stripe_invoice_id=remote.id, stripe_status=remote.status)
            there = self._sink.list_places(remote.id)
            self._add_items(remote.id, [item for item in self._list_items() if item.place not in there])
        if remote.status == DRAFT:
            remote = self._finalise(remote.id)
        else:
            self._compare(remote)
        self._deliver(remote)

    def _look(self) -> RemoteInvoice | None:
        """Return what is there of it already. The first attempt knows that nothing is."""
        if self._is_first:
            return None
        self._renew()
        if not self.row.stripe_invoice_id:
            return self._sink.find(
                customer_id=self.draft.customer_id, reference=self.draft.reference, since=self.row.created_at
            )
        remote = self._sink.get(self.row.stripe_invoice_id)
        if remote is None:
            # Somebody deleted the draft. Under the old keys its creation would be answered with it once more.
            self._renew(stripe_invoice_id="", stripe_status="", keyed_at=self._pace.now())
        return remote

    def _list_items(self) -> list[RemoteItem]:
        """Return the items in Stripe's units. Raises `NotSayable`."""
        currency = self.invoice.currency
        check_payable(self.invoice.due_minor, currency)
        lines = InvoiceLine.objects.for_organization(self.row.organization_id).filter(invoice=self.invoice)
        items = list_items(
            lines=[(_describe(line), line.amount_minor) for line in lines.order_by("position")],
            taxes=[(_describe_tax(tax), int(tax["amount_minor"])) for tax in self.invoice.taxes],
            credits_minor=self.invoice.credits_minor,
        )
        return [_remote_item(item, currency) for item in items]

    def _add_items(self, invoice_id: str, items: list[RemoteItem]) -> None:
        for item in items:
            self._renew()
            self._sink.add_item(invoice_id, self.draft, item, key=self._key(f"item-{item.place}"))

    def _finalise(self, invoice_id: str) -> RemoteInvoice:
        """Make the draft an open invoice, where it comes to the same sum. Raises `Mismatch`."""
        self._renew()
        filled = self._sink.get(invoice_id)
        if filled is None:
            raise Mismatch(f"Somebody deleted {invoice_id} at Stripe meanwhile.")
        self._compare(filled)
        if filled.status != DRAFT:
            return filled
        self._renew()
        return self._sink.finalise(invoice_id, key=self._key("finalise"))

    def _compare(self, remote: RemoteInvoice) -> None:
        expected = stripe_amount(self.invoice.due_minor, self.invoice.currency)
        if (remote.total, remote.currency) != (expected, self.invoice.currency):
            raise Mismatch(
                f"Stripe's {remote.id} comes to {remote.total} {remote.currency} in its units, and the invoice here to "
                f"{expected} {self.invoice.currency}. Correct or delete the draft there, then have it tried again."
            )

    def _settle(self, remote: RemoteInvoice | None) -> None:
        """End there what has ended here, so that nobody pays it: void what was voided or credited, note what was paid.

        A draft is deleted. What somebody has paid there already is left to people.
        """
        ended = name_end(self.invoice)
        reason = VOIDED_BEFORE if self.invoice.state == InvoiceState.VOID else PAID_BEFORE
        if remote is None:
            self._supersede(reason)
        elif remote.status == DRAFT:
            self._renew(stripe_invoice_id=remote.id)
            self._sink.delete_draft(remote.id)
            self._supersede(reason, stripe_status=DELETED)
        elif remote.status in SETTLED_THERE:
            self._deliver(remote)
        else:
            self._renew(stripe_invoice_id=remote.id)
            end = self._sink.void if ended else self._sink.mark_paid
            self._deliver(end(remote.id, key=self._key("end")))

    # --- writing down -----------------------------------------------------------------------------

    def _key(self, step: str) -> str:
        """Return the key of a step: the same at each repetition while keys live, then another."""
        assert self.row.keyed_at is not None
        prefix, since = settings.STRIPE_IDENTIFIER_PREFIX, int(self.row.keyed_at.timestamp() * 1000)
        return f"{prefix}-{self.row.organization_id}-invoice-{self.row.pk}-{since}-{step}"

    def _renew(self, **changes: Any) -> None:
        """Hold the lease for the next call, and write down what is known so far. Raises `LeaseLost`."""
        self._bucket.take()
        self._write(next_attempt_at=self._pace.now() + LEASE, **changes)

    def _write(self, **changes: Any) -> None:
        if "last_error" in changes:
            changes["last_error"] = changes["last_error"][:MAX_ERROR_CHARACTERS]
        rows = StripeInvoice.objects.for_organization(self.row.organization_id).filter(
            pk=self.row.pk, state=ReportState.SENDING, attempts=self.row.attempts
        )
        if not rows.update(**changes):
            raise LeaseLost
        for name, value in changes.items():
            setattr(self.row, name, value)

    def _supersede(self, reason: str, **changes: Any) -> None:
        self._write(state=ReportState.SUPERSEDED, next_attempt_at=None, last_error=reason, **changes)

    def _deliver(self, remote: RemoteInvoice) -> None:
        """Write down that it is there; or that it is rejected, where it was paid there and had ended here."""
        now = self._pace.now()
        with transaction.atomic():
            self._write(
                state=ReportState.DELIVERED,
                delivered_at=self.row.delivered_at or now,
                next_attempt_at=None,
                last_error="",
                stripe_invoice_id=remote.id,
            )
            recorded = lock_push(self.row)
            record_remote(push=recorded, remote=remote, cause="", now=now)
        self.row.state, self.row.last_error = recorded.state, recorded.last_error

    def _write_failure(self, failure: CallFailed) -> None:
        if failure.answer == Answer.REFUSED:
            self._write(state=ReportState.REJECTED, next_attempt_at=None, last_error=failure.message)
            return
        later = self._pace.now() + delay(self.row.attempts, jitter=self._pace.jitter())
        is_unknown = failure.answer == Answer.UNCLEAR or not self._is_certain
        changes: dict[str, Any] = {"state": ReportState.UNKNOWN if is_unknown else ReportState.PENDING}
        if failure.answer == Answer.UNCLEAR and failure.is_answered:
            # An error on Stripe's side is its answer to the key for a day, and nothing is going on there any more.
            changes["keyed_at"] = None
        self._write(next_attempt_at=later, last_error=failure.message, **changes)


def _describe(line: InvoiceLine) -> str:
    if not line.metric_code:
        return line.name
    return f"{line.name}: {exact_text(line.quantity)} {line.unit}".rstrip()


def _describe_tax(tax: Mapping[str, Any]) -> str:
    return f"{tax['name']}, {exact_text(Decimal(tax['percent']))} %"


def _remote_item(item: Item, currency: str) -> RemoteItem:
    return RemoteItem(item.place, item.description, stripe_amount(item.amount_minor, currency))


# --- what Stripe says of an invoice ---------------------------------------------------------------------------


def lock_push(push: StripeInvoice) -> StripeInvoice:
    """Return the row and its invoice as they are now, locked until the transaction ends: neither ends meanwhile."""
    rows = StripeInvoice.objects.for_organization(push.organization_id).select_related("invoice__customer")
    found: StripeInvoice = rows.select_for_update(no_key=True, of=("self", "invoice")).get(pk=push.pk)
    return found


def record_remote(*, push: StripeInvoice, remote: RemoteInvoice, cause: str, now: datetime) -> None:
    """Write down what has become of an invoice at Stripe, and have it told where that is news or `cause` is given.

    Runs in the caller's transaction, which holds the row's lock. What is paid or void there never goes back to open,
    whichever answer comes last. Of what was paid there and had ended here, somebody has to give the money back: the row
    is rejected, and says so.
    """
    before, invoice = push.stripe_status, push.invoice
    if before not in SETTLED_THERE or remote.status in SETTLED_THERE:
        push.stripe_status = remote.status
    push.stripe_invoice_id, push.hosted_url = remote.id, _safe_url(remote.hosted_url)
    if push.stripe_status == PAID and (ended := name_end(invoice)):
        push.state, push.next_attempt_at = ReportState.REJECTED, None
        push.last_error = f"It was {ended} here, and paid at Stripe as {remote.id}: give the money back there."
    push.save(
        update_fields=["stripe_invoice_id", "stripe_status", "hosted_url", "state", "next_attempt_at", "last_error"]
    )
    if push.stripe_status == PAID:
        unpaid = Invoice.objects.for_organization(push.organization_id).filter(
            pk=push.invoice_id, state=InvoiceState.FINALISED, paid_at=None
        )
        unpaid.update(paid_at=remote.paid_at or now, payment_reference=f"stripe:{remote.id}")
    is_news = push.stripe_status != before and push.stripe_status not in {DRAFT, "open"}
    if not is_news and not cause:
        return
    write_notice(
        organization=push.organization_id,
        type=NoticeType.PAYMENT_UPDATED,
        payload={
            "invoice": str(invoice.pk),
            "number": invoice.number,
            "customer": invoice.customer.external_id,
            "status": cause or push.stripe_status,
            "due_minor": str(invoice.due_minor),
            "currency": invoice.currency,
            "paid_at": rfc3339(remote.paid_at) if push.stripe_status == PAID and remote.paid_at else None,
            "stripe_invoice_id": push.stripe_invoice_id,
            "stripe_status": push.stripe_status,
            "hosted_url": push.hosted_url,
        },
        now=now,
    )
    logger.info(
        "invoice changed at Stripe",
        invoice=invoice.number,
        status=push.stripe_status,
        due=money_text(invoice.due_minor, invoice.currency),
    )


def name_end(invoice: Invoice) -> str:
    """Return how an invoice ended here without anybody's payment: voided, or credited as a whole; empty: it did not."""
    if invoice.state == InvoiceState.VOID:
        return "voided"
    notes = Invoice.objects.for_organization(invoice.organization_id).filter(credited_invoice=invoice)
    return "credited" if notes.filter(number=invoice.payment_reference).exists() else ""


def _safe_url(url: str) -> str:
    """Return an address that pages may lead to: one of https, as Stripe's own are; else, or cut short, none."""
    return url if url.startswith("https://") and len(url) <= MAX_URL_CHARACTERS else ""


# --- trying again ---------------------------------------------------------------------------------------------


@transaction.atomic
def retry_push(*, push: StripeInvoice, actor: str, now: datetime) -> StripeInvoice:
    """Have a refused row tried again, from where it stands, under new keys and the customer's name of today.

    Raises `NotRejected` for any other row, and `NotMapped` where the customer has no name at Stripe any more.
    """
    row = lock_push(push)
    if row.state != ReportState.REJECTED:
        raise NotRejected("Only a rejected invoice is tried again; the others settle by themselves.")
    if not row.stripe_invoice_id:
        named = find_stripe_customer(organization=row.organization, customer=row.invoice.customer)
        if named is None:
            raise NotMapped("Say first what the customer is called at Stripe.")
        row.stripe_customer_id = named.stripe_customer_id
    row.state, row.next_attempt_at, row.keyed_at = ReportState.PENDING, now, None
    row.save(update_fields=["state", "next_attempt_at", "keyed_at", "stripe_customer_id"])
    record_audit(
        organization=row.organization,
        actor=actor,
        action="stripe_invoice.retried",
        target=row.invoice.number,
        details={"error": row.last_error},
    )
    return row
