"""Invoicing by many at once, while usage comes in and subscriptions change; and by one who is killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, groupby
from pathlib import Path
from threading import Event as Signal
from time import monotonic, sleep

import pytest
from django.db import connections, transaction

from billing.domain.periods import BillingPeriod as Span
from billing.models import (
    BillingPeriod,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceRun,
    NumberSeries,
    PeriodState,
    Subscription,
)
from billing.queries.spend import rate_terms
from billing.queries.terms import list_period_terms
from billing.services import invoice_runs
from billing.services.commitments import create_commitment
from billing.services.corrections import void_invoice
from billing.services.invoice_runs import join_run
from billing.services.invoicing import ChunkResult, finalise_leftovers, finalise_periods
from config.env import BASE_DIR
from metering.domain import Cutoff
from metering.services import cutoffs
from metering.sql import cutoffs as sql
from metering.sql.roll_up import ROLLUP_LOCK
from metering.sql.store_events import FENCE_LOCK
from tests.billing.auditor import audit, audit_charges, settings_of
from tests.billing.seller import Seller, written
from tests.clients.web_server import url_of_test_database
from tests.scenarios.racing import count_waiting, race

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 60.0
AT = datetime(2026, 11, 5, tzinfo=UTC)
AUGUST = datetime(2026, 8, 1, tzinfo=UTC)


def sell(seller: Seller, customers: int, start: datetime, *, every: timedelta = timedelta(days=9)) -> None:
    """Subscribe customers to one plan, and have each of them use something in every period."""
    seller.define("calls", "sum")
    tiers = [(50, 7), (None, 3)]
    seller.plan("pro", written("flat", 500), written("graduated", metric="calls", tiers=tiers))
    for number in range(customers):
        seller.subscribe(f"c{number}", "pro", start=start)
    moments = [start + every * number for number in range(10)]
    seller.send_all(*(call(f"c{number}", number, at) for number in range(customers) for at in moments))


def call(customer: str, value: int, at: datetime) -> dict[str, object]:
    return {"customer": customer, "type": "calls", "value": value, "timestamp": at.isoformat()}


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, explain()
        sleep(0.01)


def assert_one_each(seller: Seller, period_count: int) -> list[Invoice]:
    """Every period has one invoice, and their numbers are 1, 2, 3 …"""
    invoices = list(Invoice.objects.for_organization(seller.organization).filter(kind=InvoiceKind.PERIOD))
    assert {invoice.state for invoice in invoices} == {"finalised"}
    assert set(Counter(invoice.period_id for invoice in invoices).values()) == {1}
    assert len(invoices) == period_count
    audit(seller.organization)
    return invoices


@contextmanager
def in_background(*runners: Callable[[], object]) -> Iterator[list[object]]:
    """Run beside the block, each on a connection of its own; afterwards the list has their results."""
    results: list[object] = []

    def run(runner: Callable[[], object]) -> object:
        try:
            return runner()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(runners)) as pool:
        futures = [pool.submit(run, runner) for runner in runners]
        yield results
        results += [future.result() for future in futures]


def test_eight_workers_make_one_invoice_each_of_exactly_what_its_cut_off_knows(
    seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One each, with some customers in it.
    monkeypatch.setattr(invoice_runs, "BUCKETS", 8)
    settings_of(seller.organization, adjustment_days=120)
    sell(seller, 60, AUGUST)
    # Three due periods each; some ended, so that adjustments of theirs stand on invoices of their own.
    for subscription in Subscription.objects.for_organization(seller.organization).order_by("pk")[:10]:
        seller.cancel(subscription, "now", at=datetime(2026, 10, 20, tzinfo=UTC))
    is_done = Signal()

    def ingest() -> int:
        for sent in count():
            if is_done.is_set():
                return sent
            at = AUGUST + timedelta(hours=17 * (sent % 120))
            seller.send_all(*(call(f"c{number}", 1, at) for number in range(sent % 7, 60, 7)))
            sleep(0.05)
        raise AssertionError

    with in_background(ingest) as sent:
        try:
            race([partial(seller.run, AT) for _ in range(8)])
        finally:
            is_done.set()
    assert int(str(sent[0])) > 0
    seller.run(AT)

    invoices = assert_one_each(seller, 180)
    derive_again(seller, invoices)
    # What came too late for one invoice is on the next; the last ones wait for the month to end.
    seller.run(datetime(2026, 12, 5, tzinfo=UTC))
    audit(seller.organization)
    audit_charges(seller.organization)


def derive_again(seller: Seller, invoices: list[Invoice]) -> None:
    """Each line of its own period is what the raw events say that the invoice's cut-off knows."""
    rows = InvoiceLine.objects.for_organization(seller.organization).exclude(kind="adjustment").order_by("position")
    lines: dict[int, list[tuple[object, int]]] = {invoice.pk: [] for invoice in invoices}
    for line in rows.filter(invoice__in=lines):
        lines[line.invoice_id].append((line.quantity, line.amount_minor))
    invoices.sort(key=lambda invoice: (invoice.cutoff_id or 0, invoice.pk))
    for _, group in groupby(invoices, key=lambda invoice: invoice.cutoff_id):
        together = list(group)
        assert together[0].cutoff_id is not None
        terms = list_period_terms(
            [(each.subscription, Span(each.period.starts_at, each.period.ends_at)) for each in together],
            organization=seller.organization,
        )
        cutoff = Cutoff(together[0].cutoff_id, together[0].known_at)
        for each, rated in zip(
            together, rate_terms(terms, organization=seller.organization, as_of=cutoff), strict=True
        ):
            assert lines[each.pk] == [(line.rated.quantity, line.rated.amount_minor) for line in rated.lines]


def test_without_any_order_between_them_the_same_is_still_invoiced_once(seller: Seller) -> None:
    """Buckets only share the work. Here four do the very same periods, and then the very same adjustments."""
    sell(seller, 12, AUGUST)
    for subscription in Subscription.objects.for_organization(seller.organization):
        seller.cancel(subscription, "now", at=datetime(2026, 8, 20, tzinfo=UTC))
    join_run(organization=seller.organization, actor="test", now=AT)
    periods = list(BillingPeriod.objects.for_organization(seller.organization).values_list("pk", flat=True))
    finalise = partial(finalise_periods, organization=seller.organization, period_ids=periods, now=AT)

    results = race([finalise] * 4)

    assert sum(result.period_count for result in results) == len(assert_one_each(seller, 12))
    seller.send_all(*(call(f"c{number}", 10, AUGUST) for number in range(12)))
    ids = list(Subscription.objects.for_organization(seller.organization).values_list("pk", flat=True))
    adjust = partial(finalise_leftovers, organization=seller.organization, subscription_ids=ids, now=AT)
    race([adjust] * 4)
    adjustments = Invoice.objects.for_organization(seller.organization).filter(kind=InvoiceKind.ADJUSTMENT)
    assert sorted(adjustments.values_list("subscription", flat=True)) == sorted(ids)
    audit(seller.organization)
    audit_charges(seller.organization)


def test_what_changes_while_it_is_computed_is_not_invoiced(seller: Seller) -> None:
    seller.plan("pro", written("flat", 500))
    made = seller.subscribe("acme", "pro", start=AUGUST)
    [august, september, october] = seller.run(AT)[:3]
    void_invoice(invoice=october, reason="wrong", is_reissued=True, actor="test", now=AT)
    period = BillingPeriod.objects.get(pk=october.period_id)
    finalise = partial(finalise_periods, organization=seller.organization, period_ids=[period.pk], now=AT)
    october_on = {"starts_at": datetime(2026, 10, 1, tzinfo=UTC), "actor": "test", "now": AT}
    changes: list[Callable[[], object]] = [
        partial(create_commitment, subscription=made, amount_minor=800, **october_on),
        partial(void_invoice, invoice=september, reason="wrong", is_reissued=True, actor="test", now=AT),
        partial(seller.change, made, "pro", "now", at=AT),
        partial(seller.pause, made, at=AT),
        partial(seller.cancel, made, "now", at=AT + timedelta(days=1)),
    ]

    for change in changes:
        with in_background(partial(race_to, finalise)) as results, transaction.atomic():
            change()
            CHANGED.set()
            wait_until(lambda: count_waiting() == 1)
        CHANGED.clear()
        [result] = results
        assert isinstance(result, ChunkResult)
        assert (result.finalised, result.stale) == ([], [period.pk])

    *_, first, second = seller.run(AT)
    assert {each.period_id: each.total_minor for each in (first, second)} == {september.period_id: 500, period.pk: 800}
    assert august.period.state == PeriodState.FINALISED
    audit(seller.organization)


CHANGED = Signal()


def race_to(runner: Callable[[], ChunkResult]) -> ChunkResult:
    """Begin when something was changed that is not committed yet."""
    assert CHANGED.wait(PATIENCE)
    return runner()


def test_period_that_is_written_down_while_its_subscription_ends_ends_with_it(seller: Seller) -> None:
    seller.plan("pro", written("flat", 3100))
    made = seller.subscribe("acme", "pro", start=AUGUST)
    ended_at = datetime(2026, 8, 11, tzinfo=UTC)
    join = partial(join_run, organization=seller.organization, actor="test", now=ended_at)

    with in_background(partial(race_to, join)), transaction.atomic():  # type: ignore[arg-type]
        seller.cancel(made, "now", at=ended_at)
        CHANGED.set()
        wait_until(lambda: count_waiting() == 1)
    CHANGED.clear()

    [invoice] = seller.run(AT)
    assert (invoice.period.ends_at, invoice.total_minor) == (ended_at, 1000)
    audit(seller.organization)


def test_period_that_a_clock_ahead_has_closed_is_cut_all_the_same(seller: Seller) -> None:
    seller.plan("pro", written("flat", 3100))
    made = seller.subscribe("acme", "pro", start=AUGUST)
    seller.run(datetime(2026, 9, 1, 0, 0, 3, tzinfo=UTC))
    ended_at = datetime(2026, 8, 31, 12, tzinfo=UTC)

    seller.cancel(made, "now", at=ended_at)

    [invoice] = seller.run(AT)
    # 30 and a half of 31 days.
    assert (invoice.period.ends_at, invoice.total_minor) == (ended_at, 3050)
    audit(seller.organization)


def test_usage_that_is_being_changed_for_long_is_nobodys_problem(
    seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell(seller, 3, AUGUST)
    monkeypatch.setattr(cutoffs, "LOCKS", ((ROLLUP_LOCK, 20), (FENCE_LOCK, 20)))
    is_held, is_over = Signal(), Signal()

    def hold() -> None:
        with transaction.atomic():
            sql.take_session_lock(lock=ROLLUP_LOCK, organization_id=seller.organization.pk, timeout_ms=5_000)
        is_held.set()
        is_over.wait(PATIENCE)

    with in_background(hold):
        assert is_held.wait(PATIENCE)
        try:
            assert seller.run(AT) == []
        finally:
            is_over.set()
    assert not BillingPeriod.objects.for_organization(seller.organization).exclude(problem="").exists()
    assert not InvoiceRun.objects.for_organization(seller.organization).exclude(finished_at=None).exists()

    seller.run(AT)

    assert_one_each(seller, 9)
    assert InvoiceRun.objects.for_organization(seller.organization).get().finished_at == AT


def test_worker_killed_in_the_middle_leaves_nothing_half_done(live_seller: Seller, tmp_path: Path) -> None:
    now = live_seller.now
    sell(live_seller, 8, now - timedelta(days=100))
    run = join_run(organization=live_seller.organization, actor="test", now=now)
    due = BillingPeriod.objects.for_organization(live_seller.organization).filter(state=PeriodState.GRACE)
    due = due.filter(grace_ends_at__lte=now)
    period_count = due.count()
    assert period_count >= 24
    first = due.order_by("starts_at", "pk")[0]
    finalise_periods(organization=live_seller.organization, period_ids=[first.pk], now=now)

    # It has written invoices and lines, and waits for their numbers.
    with transaction.atomic():
        NumberSeries.objects.for_organization(live_seller.organization).select_for_update().get()
        log = tmp_path / "worker.log"
        worker = start_worker(run.pk, log)
        try:
            wait_until(lambda: count_waiting() == 1 or worker.poll() is not None, log.read_text)
            assert worker.poll() is None, log.read_text()
        finally:
            worker.kill()
            worker.wait()
    assert Invoice.objects.for_organization(live_seller.organization).exclude(number="").count() == 1

    # Its database session ends when the server notices, at once; whoever comes does the rest.
    def is_finished() -> bool:
        live_seller.run(now)
        return not due.exists()

    wait_until(is_finished)
    final = Invoice.objects.for_organization(live_seller.organization).exclude(number="")
    assert final.values("period").distinct().count() == final.count() == period_count
    audit(live_seller.organization)
    audit_charges(live_seller.organization)


def start_worker(run_id: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a real worker of the run, as `manage.py run_invoices` does."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.base",
        "DATABASE_URL": url_of_test_database(),
    }
    command = [sys.executable, "manage.py", "run_invoices", "--run", str(run_id)]
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=BASE_DIR, env=environment, stdout=output, stderr=output)
