"""The ledger of credits: what pays which invoice, what is left, and that nothing is paid twice or lost."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry, Customer, Organization
from billing.models import (
    BillingPeriod,
    CreditEntry,
    CreditGrant,
    EntryKind,
    GrantKind,
    Invoice,
    PeriodState,
    Subscription,
)
from billing.queries.credits import CreditBalance, list_balances, list_grants, list_usable_grants
from billing.services.credits import (
    CreditSpent,
    apply_grants_to,
    carry_over,
    expire_grants,
    grant_credits,
    return_credits,
    void_grant,
)
from billing.services.subscriptions import KeyReused
from billing.tasks import expire_credits_task
from common.errors import InvalidInput
from tests import factories
from tests.billing.seller import Seller
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db

MICROSECOND = timedelta(microseconds=1)
NOVEMBER, DECEMBER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


@dataclass
class Ledger:
    """A hand on one customer's credits, whose subscription began in October."""

    seller: Seller
    subscription: Subscription

    @property
    def customer(self) -> Customer:
        return self.subscription.customer

    def grant(self, amount_minor: int, **more: Any) -> CreditGrant:
        more = {"currency": "USD", "kind": GrantKind.PREPAID, "effective_at": datetime(2026, 1, 1, tzinfo=UTC)} | more
        return grant_credits(
            organization=self.seller.organization,
            customer=self.customer,
            amount_minor=amount_minor,
            actor="test",
            now=more.pop("now", self.seller.now),
            **more,
        ).grant

    def period(self, ends_at: datetime, *, state: PeriodState = PeriodState.GRACE) -> BillingPeriod:
        return BillingPeriod.objects.create(
            organization=self.seller.organization,
            subscription=self.subscription,
            starts_at=ends_at - timedelta(days=30),
            ends_at=ends_at,
            state=state,
            grace_ends_at=ends_at + timedelta(days=1),
        )

    def invoice(self, total_minor: int, *, period: BillingPeriod, currency: str = "USD") -> Invoice:
        """Make a draft that comes to an amount."""
        return Invoice.objects.create(
            organization=self.seller.organization,
            customer=self.customer,
            subscription=self.subscription,
            period=period,
            kind="adjustment",
            sequence=Invoice.objects.for_organization(self.seller.organization).count(),
            currency=currency,
            subtotal_minor=total_minor,
            tax_minor=0,
            total_minor=total_minor,
            due_minor=max(0, total_minor),
            known_at=self.seller.now,
        )

    def pay(self, invoice: Invoice) -> int:
        return apply_grants_to([invoice], now=self.seller.now)[invoice.pk]

    def expire(self, at: datetime) -> int:
        return expire_grants(organization=self.seller.organization, now=at)

    def left(self) -> dict[int, int]:
        return {grant.pk: grant.remaining_minor for grant in list_grants(organization=self.seller.organization)}

    def entries(self) -> list[tuple[str, int]]:
        rows = CreditEntry.objects.for_organization(self.seller.organization).order_by("pk")
        return [(entry.kind, entry.amount_minor) for entry in rows]


@pytest.fixture
def ledger(seller: Seller) -> Ledger:
    seller.plan("pro")
    return Ledger(seller, seller.subscribe("acme", "pro", start=datetime(2026, 10, 1, tzinfo=UTC)))


class TestGranting:
    def test_same_request_under_a_key_is_one_grant(self, ledger: Ledger) -> None:
        first = ledger.grant(500, idempotency_key="order 7", effective_at=None)
        again = ledger.grant(
            500, idempotency_key="order 7", effective_at=None, now=ledger.seller.now + timedelta(days=1)
        )

        assert again == first
        assert ledger.entries() == [("granted", 500)]
        assert (
            AuditEntry.objects.for_organization(ledger.seller.organization).filter(action="credit.granted").count() == 1
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"amount_minor": 501},
            {"currency": "EUR"},
            {"kind": GrantKind.PROMOTIONAL},
            {"name": "Other"},
            {"priority": 1},
            {"effective_at": NOVEMBER},
            {"expires_at": DECEMBER},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_key_of_another_request_is_refused(self, ledger: Ledger, change: dict[str, Any]) -> None:
        ledger.grant(500, idempotency_key="order 7", effective_at=None)

        with pytest.raises(KeyReused):
            ledger.grant(**{"amount_minor": 500, "idempotency_key": "order 7", "effective_at": None} | change)

    def test_key_of_another_customer_is_refused(self, ledger: Ledger) -> None:
        ledger.grant(500, idempotency_key="order 7")
        other = Ledger(ledger.seller, ledger.seller.subscribe("bolt", "pro"))

        with pytest.raises(KeyReused):
            other.grant(500, idempotency_key="order 7")

    @pytest.mark.parametrize(
        ("field", "change"),
        [
            ("amount_minor", {"amount_minor": 0}),
            ("amount_minor", {"amount_minor": 10**14 + 1}),
            ("currency", {"currency": "XXX"}),
            ("kind", {"kind": GrantKind.CARRIED_OVER}),
            ("priority", {"priority": 1001}),
            ("name", {"name": "x" * 201}),
            ("expires_at", {"effective_at": NOVEMBER, "expires_at": NOVEMBER}),
            ("expires_at", {"expires_at": datetime(9999, 12, 31, tzinfo=UTC)}),
        ],
        ids=["nothing", "too_much", "currency", "kind", "priority", "name", "empty_time", "too_late"],
    )
    def test_names_the_field_that_is_wrong(self, ledger: Ledger, field: str, change: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput) as refusal:
            ledger.grant(**{"amount_minor": 500} | change)

        assert [error.field for error in refusal.value.errors] == [field]
        assert ledger.entries() == []


class TestApplying:
    def test_takes_by_priority_and_never_more_than_is_due(self, ledger: Ledger) -> None:
        late, early = ledger.grant(1000), ledger.grant(300, priority=10)
        period = ledger.period(NOVEMBER)

        assert ledger.pay(ledger.invoice(500, period=period)) == 500
        assert ledger.left() == {late.pk: 800, early.pk: 0}
        assert ledger.pay(ledger.invoice(900, period=period)) == 800
        assert ledger.pay(ledger.invoice(900, period=period)) == 0
        assert ledger.left() == {late.pk: 0, early.pk: 0}

    @pytest.mark.parametrize(
        ("more", "paid"),
        [
            ({"effective_at": NOVEMBER}, 100),
            ({"effective_at": NOVEMBER + MICROSECOND}, 0),
            ({"expires_at": NOVEMBER + MICROSECOND}, 100),
            ({"expires_at": NOVEMBER}, 0),
            ({"currency": "EUR"}, 0),
        ],
        ids=["effective_at_the_end", "effective_after", "expires_after", "expires_at_the_end", "currency"],
    )
    def test_grant_is_in_force_at_the_periods_end(self, ledger: Ledger, more: dict[str, Any], paid: int) -> None:
        ledger.grant(100, **more)

        assert ledger.pay(ledger.invoice(900, period=ledger.period(NOVEMBER))) == paid

    def test_nothing_pays_what_is_not_due(self, ledger: Ledger) -> None:
        ledger.grant(100)
        period = ledger.period(NOVEMBER)

        invoices = [ledger.invoice(amount, period=period) for amount in (0, -5)]

        assert set(apply_grants_to(invoices, now=ledger.seller.now).values()) == {0}
        assert ledger.entries() == [("granted", 100)]

    def test_invoices_of_one_customer_share_their_grants_the_earliest_first(self, ledger: Ledger) -> None:
        ledger.grant(250)
        later, earlier = (ledger.invoice(200, period=ledger.period(end)) for end in (DECEMBER, NOVEMBER))

        paid = apply_grants_to([later, earlier], now=ledger.seller.now)

        assert paid == {earlier.pk: 200, later.pk: 50}
        assert ledger.entries() == [("granted", 250), ("applied", -200), ("applied", -50)]

    def test_many_customers_cost_as_many_queries_as_one(self, ledger: Ledger) -> None:
        hands = [ledger, *(Ledger(ledger.seller, ledger.seller.subscribe(name, "pro")) for name in ("b", "c", "d"))]
        invoices = [hand.invoice(200, period=hand.period(NOVEMBER)) for hand in hands]

        with CaptureQueriesContext(
            connection,
        ) as without:
            assert set(apply_grants_to(invoices, now=ledger.seller.now).values()) == {0}
        for hand in hands:
            hand.grant(10)
        counts = []
        for some in (invoices[:1], invoices[1:]):
            with CaptureQueriesContext(connection) as queries:
                assert set(apply_grants_to(some, now=ledger.seller.now).values()) == {10}
            counts.append(len(queries))

        # Beside the savepoint of the test's own transaction.
        assert len(without) == 1 + 2
        assert counts[0] == counts[1] <= 4 + 2

    def test_one_entry_of_a_kind_for_a_grant_and_an_invoice(self, ledger: Ledger) -> None:
        ledger.grant(1000)
        invoice = ledger.invoice(500, period=ledger.period(NOVEMBER))
        ledger.pay(invoice)

        with pytest.raises(IntegrityError), transaction.atomic():
            ledger.pay(invoice)


class TestVoids:
    def test_voided_grant_keeps_what_it_paid(self, ledger: Ledger) -> None:
        grant = ledger.grant(1000)
        ledger.pay(ledger.invoice(400, period=ledger.period(NOVEMBER)))

        for _ in range(2):
            voided = void_grant(grant=grant, actor="test", now=ledger.seller.now)

        assert voided.voided_at == ledger.seller.now
        assert ledger.entries() == [("granted", 1000), ("applied", -400), ("voided", -600)]
        assert list_usable_grants(organization=ledger.seller.organization, customer_ids=[ledger.customer.pk]) == {}

    def test_grant_with_nothing_left_is_not_voided(self, ledger: Ledger) -> None:
        grant = ledger.grant(400)
        ledger.pay(ledger.invoice(400, period=ledger.period(NOVEMBER)))

        assert void_grant(grant=grant, actor="test", now=ledger.seller.now).voided_at is None
        assert ledger.entries() == [("granted", 400), ("applied", -400)]

    def test_voided_invoice_gives_back_once(self, ledger: Ledger) -> None:
        kept, voided = ledger.grant(300), ledger.grant(300)
        invoice = ledger.invoice(500, period=ledger.period(NOVEMBER))
        ledger.pay(invoice)
        void_grant(grant=voided, actor="test", now=ledger.seller.now)

        for _ in range(2):
            assert return_credits(invoice=invoice, now=ledger.seller.now) == 500

        assert ledger.left() == {kept.pk: 300, voided.pk: 0}
        assert ledger.entries()[-3:] == [("returned", 300), ("returned", 200), ("voided", -200)]

    def test_what_a_credit_note_settled_is_not_carried_over(self, ledger: Ledger) -> None:
        notes = [ledger.invoice(-700, period=ledger.period(end)) for end in (NOVEMBER, DECEMBER)]
        for note, settled in zip(notes, (300, 700), strict=True):
            note.credits_minor = settled

        carried = [carry_over(invoice=note, now=ledger.seller.now) for note in notes]

        assert [None if grant is None else grant.amount_minor for grant in carried] == [400, None]

    def test_negative_total_is_carried_over_once_and_taken_back(self, ledger: Ledger) -> None:
        period = ledger.period(NOVEMBER)
        invoice = ledger.invoice(-700, period=period)
        ledger.grant(1000, priority=1)

        grant = carry_over(invoice=invoice, now=ledger.seller.now)
        assert grant is not None
        assert carry_over(invoice=invoice, now=ledger.seller.now) == grant
        assert carry_over(invoice=ledger.invoice(0, period=period), now=ledger.seller.now) is None
        paid = ledger.invoice(100, period=period)
        ledger.pay(paid)

        assert (grant.kind, grant.amount_minor, grant.effective_at) == ("carried_over", 700, NOVEMBER)
        assert ledger.left()[grant.pk] == 600  # before any other
        with pytest.raises(CreditSpent):
            return_credits(invoice=invoice, now=ledger.seller.now)
        return_credits(invoice=paid, now=ledger.seller.now)
        return_credits(invoice=invoice, now=ledger.seller.now)
        assert ledger.left()[grant.pk] == 0

    def test_what_was_spent_of_a_carried_over_grant_is_no_less_spent_once_the_rest_is_voided(
        self, ledger: Ledger
    ) -> None:
        now, period = ledger.seller.now, ledger.period(NOVEMBER)
        invoice = ledger.invoice(-100, period=period)
        grant = carry_over(invoice=invoice, now=now)
        assert grant is not None
        paid = ledger.invoice(30, period=period)
        ledger.pay(paid)
        void_grant(grant=grant, actor="test", now=now)

        # Issued anew the invoice would give all 100 once more.
        with pytest.raises(CreditSpent):
            return_credits(invoice=invoice, now=now)

        spent = [("granted", 100), ("applied", -30), ("voided", -70)]
        assert ledger.entries() == spent
        return_credits(invoice=paid, now=now)
        for _ in range(2):
            return_credits(invoice=invoice, now=now)
        assert ledger.entries() == [*spent, ("returned", 30), ("voided", -30)]


class TestExpiry:
    def test_expires_at_its_time_and_once(self, ledger: Ledger) -> None:
        ledger.period(DECEMBER, state=PeriodState.FINALISED)
        ledger.grant(100, expires_at=DECEMBER - timedelta(days=1))

        assert ledger.expire(DECEMBER - timedelta(days=1) - MICROSECOND) == 0
        assert ledger.expire(DECEMBER - timedelta(days=1)) == 1
        assert ledger.expire(DECEMBER) == 0
        assert ledger.entries() == [("granted", 100), ("expired", -100)]

    @pytest.mark.parametrize(
        ("ends_at", "expired"),
        [(NOVEMBER - MICROSECOND, 0), (NOVEMBER, 1), (NOVEMBER + MICROSECOND, 1)],
        ids=["could_pay_it", "ends_as_it_expires", "ends_after"],
    )
    def test_waits_for_a_period_that_it_can_pay(self, ledger: Ledger, ends_at: datetime, expired: int) -> None:
        period = ledger.period(ends_at)
        ledger.grant(100, expires_at=NOVEMBER)
        # What follows goes on.
        ledger.period(DECEMBER, state=PeriodState.OPEN)

        assert ledger.expire(DECEMBER) == expired
        BillingPeriod.objects.filter(pk=period.pk).update(state=PeriodState.FINALISED)
        assert ledger.expire(DECEMBER) == 1 - expired

    def test_waits_for_periods_that_nobody_wrote_down_yet(self, ledger: Ledger) -> None:
        ledger.grant(100, expires_at=NOVEMBER)

        assert ledger.expire(DECEMBER) == 0
        ledger.period(NOVEMBER - timedelta(days=1), state=PeriodState.FINALISED)
        assert ledger.expire(DECEMBER) == 0
        ledger.seller.cancel(ledger.subscription, "now", at=ledger.seller.now)
        Subscription.objects.filter(pk=ledger.subscription.pk).update(ends_at=NOVEMBER - timedelta(days=1))
        assert ledger.expire(DECEMBER) == 1

    def test_customer_without_a_subscription_waits_for_nothing(self, ledger: Ledger) -> None:
        ledger.seller.customer("bolt")
        grant_credits(
            organization=ledger.seller.organization,
            customer=ledger.seller.customer("bolt"),
            currency="USD",
            amount_minor=5,
            kind=GrantKind.PROMOTIONAL,
            effective_at=datetime(2026, 1, 1, tzinfo=UTC),
            expires_at=NOVEMBER,
            actor="test",
            now=ledger.seller.now,
        )

        assert ledger.expire(NOVEMBER) == 1

    def test_task_books_them_in_every_organization(self, org: Organization, other_org: Organization) -> None:
        for organization in (org, other_org):
            grant_credits(
                organization=organization,
                customer=factories.make_customer(organization=organization),
                currency="USD",
                amount_minor=5,
                kind=GrantKind.PROMOTIONAL,
                effective_at=datetime(2020, 1, 1, tzinfo=UTC),
                expires_at=datetime(2020, 2, 1, tzinfo=UTC),
                actor="test",
                now=datetime(2020, 1, 1, tzinfo=UTC),
            )

        for _ in range(2):
            expire_credits_task()

        expired = CreditEntry.objects.filter(kind=EntryKind.EXPIRED)
        assert sorted(expired.values_list("organization", flat=True)) == sorted([org.pk, other_org.pk])

    def test_what_a_void_gives_back_expires_anew(self, ledger: Ledger) -> None:
        period = ledger.period(NOVEMBER - MICROSECOND)
        ledger.period(DECEMBER, state=PeriodState.OPEN)
        grant = ledger.grant(100, expires_at=NOVEMBER)
        invoice = ledger.invoice(60, period=period)
        ledger.pay(invoice)
        BillingPeriod.objects.filter(pk=period.pk).update(state=PeriodState.FINALISED)
        assert ledger.expire(DECEMBER) == 1

        BillingPeriod.objects.filter(pk=period.pk).update(state=PeriodState.GRACE)
        return_credits(invoice=invoice, now=ledger.seller.now)
        assert ledger.expire(DECEMBER) == 0
        assert ledger.pay(ledger.invoice(50, period=period)) == 50
        BillingPeriod.objects.filter(pk=period.pk).update(state=PeriodState.FINALISED)
        assert ledger.expire(DECEMBER) == 1

        assert ledger.left() == {grant.pk: 0}
        assert [amount for kind, amount in ledger.entries() if kind == "expired"] == [-40, -10]


def test_balances_tell_what_is_left_from_what_is_in_force(ledger: Ledger) -> None:
    now = ledger.seller.now
    ledger.grant(100, expires_at=now)
    ledger.grant(20, expires_at=now + MICROSECOND)
    ledger.grant(3, effective_at=now + MICROSECOND)
    ledger.grant(4000, currency="EUR")
    void_grant(grant=ledger.grant(50, currency="CHF"), actor="test", now=now)

    assert list_balances(customer=ledger.customer, now=now) == [
        CreditBalance("CHF", 0, 0),
        CreditBalance("EUR", 4000, 4000),
        CreditBalance("USD", 123, 20),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_any_history_leaves_what_plain_arithmetic_leaves(ledger: Ledger, seed: int) -> None:
    """Random grants, payments, voids and expiries, followed with a dictionary of numbers."""
    chance = random.Random(seed)
    period = ledger.period(NOVEMBER - MICROSECOND)
    ledger.period(DECEMBER, state=PeriodState.OPEN)
    left: dict[int, int] = {}
    rank: dict[int, tuple[int, bool, int]] = {}
    voided: set[int] = set()
    taken_by: dict[int, dict[int, int]] = {}
    invoices: list[Invoice] = []
    for _ in range(60):
        match chance.choice(["grant", "pay", "pay", "pay", "unpay", "void", "expire"]):
            case "grant":
                amount, priority, expires = chance.randint(1, 500), chance.randint(0, 2), chance.random() < 0.5
                grant = ledger.grant(amount, priority=priority, expires_at=NOVEMBER if expires else None)
                left[grant.pk], rank[grant.pk] = amount, (priority, not expires, grant.pk)
            case "pay":
                due = chance.randint(1, 400)
                invoice = ledger.invoice(due, period=period)
                taken_by[invoice.pk] = {}
                for pk in sorted(left.keys() - voided, key=lambda pk: rank[pk]):
                    amount = min(due, left[pk])
                    if amount:
                        taken_by[invoice.pk][pk] = amount
                        left[pk] -= amount
                        due -= amount
                assert ledger.pay(invoice) == sum(taken_by[invoice.pk].values())
                invoices.append(invoice)
            case "unpay" if invoices:
                invoice = chance.choice(invoices)
                for pk, amount in taken_by.pop(invoice.pk, {}).items():
                    left[pk] += 0 if pk in voided else amount
                return_credits(invoice=invoice, now=ledger.seller.now)
            case "void" if left:
                pk = chance.choice(sorted(left))
                void_grant(grant=CreditGrant.objects.get(pk=pk), actor="test", now=ledger.seller.now)
                if left[pk]:
                    voided.add(pk)
                    left[pk] = 0
            case "expire":
                # The period is still to be invoiced: nothing may go.
                assert ledger.expire(DECEMBER) == 0
        assert ledger.left() == left

    BillingPeriod.objects.filter(pk=period.pk).update(state=PeriodState.FINALISED)
    ledger.expire(DECEMBER)
    assert ledger.left() == {pk: 0 if not rank[pk][1] else amount for pk, amount in left.items()}
    assert sum(amount for _, amount in ledger.entries()) == sum(ledger.left().values())


@pytest.mark.django_db(transaction=True)
def test_two_that_pay_at_once_never_take_more_than_there_is(ledger: Ledger) -> None:
    grant = ledger.grant(1000)
    period = ledger.period(NOVEMBER)
    invoices = [ledger.invoice(400, period=period) for _ in range(4)]

    paid = race(
        [
            *(partial(ledger.pay, invoice) for invoice in invoices),
            lambda: void_grant(grant=grant, actor="test", now=ledger.seller.now) and 0,
        ]
    )

    assert ledger.left() == {grant.pk: 0}
    voided = -sum(amount for kind, amount in ledger.entries() if kind == EntryKind.VOIDED)
    assert sum(paid) + voided == 1000
    assert all(0 <= amount <= 400 for amount in paid)


@pytest.mark.django_db(transaction=True)
def test_requests_under_one_key_at_once_make_one_grant(ledger: Ledger) -> None:
    made = race([partial(ledger.grant, 500, idempotency_key="order 7") for _ in range(4)])

    assert len({grant.pk for grant in made}) == 1
    assert ledger.entries() == [("granted", 500)]
