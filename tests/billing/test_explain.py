"""Explaining invoice lines: from the raw events known at the cut-off to the amount, for every kind of line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts.models import User
from billing.models import Invoice, LineKind
from billing.queries import explain
from billing.queries.explain import LineExplanation, explain_line
from billing.queries.rederivation import rederive_invoice
from billing.services.corrections import issue_credit_note
from billing.services.invoice_runs import join_run, work_run
from metering.services.retention import prune_organization
from tests.api.conftest import Api
from tests.billing.billed_history import RUNS, BilledHistory, Sent
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

# METERBOOK_EXPLAINED_INVOICES=1000 explains so many, in some minutes; the suite has time for a few dozen.
WANTED = int(os.environ.get("METERBOOK_EXPLAINED_INVOICES", "0"))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def event(key: str, value: Any, at: datetime, **properties: str) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        "customer": "acme",
        "type": "calls",
        "value": value,
        "timestamp": at.isoformat(),
        "properties": properties,
    }


def run_invoices(seller: Seller, at: datetime) -> None:
    work_run(run=join_run(organization=seller.organization, actor="test", now=at), clock=lambda: at)


class TestRandomInvoices:
    @pytest.mark.timeout(3600 if WANTED else 300)
    def test_every_line_is_explained_to_the_event_and_derived_again_to_the_cent(self, seller: Seller) -> None:
        if WANTED:
            history = BilledHistory(seller, customer_count=WANTED // 8 + 1, seed=7, runs=RUNS)
        else:
            history = BilledHistory(seller, customer_count=5, seed=7, runs=RUNS[:3])
        invoices = history.play()[-WANTED:]
        assert len(invoices) >= max(WANTED, 20)

        seen: Counter[str] = Counter()
        for invoice in invoices:
            run = next(number for number, at in enumerate(RUNS) if at == invoice.issued_at)
            known = [
                sent
                for sent in history.sent
                if sent.customer == invoice.customer.external_id and sent.known_from <= run < sent.void_from
            ]
            for position in invoice.lines.order_by("position").values_list("position", flat=True):
                found = explain_line(invoice=invoice, position=position, limit=10_000)
                assert found.agrees.is_whole, (invoice.number, found.line.position, found.agrees)
                check_line(found, known)
                seen[found.line.kind] += 1
            derived = rederive_invoice(invoice=invoice)
            assert derived.agrees, (invoice.number, derived)
        assert {LineKind.FEE, LineKind.USAGE, LineKind.ADJUSTMENT, LineKind.TRUE_UP} <= seen.keys()
        print(f"{len(invoices)} invoices explained and derived again: {dict(seen)}")


def check_line(found: LineExplanation, known: list[Sent]) -> None:
    """Check with what was sent, not with what explains it."""
    line, usage = found.line, found.usage
    assert sum((Decimal(step["amount"]) for step in line.steps), Decimal(0)) == line.amount_minor
    if usage is None:
        return
    assert usage.quantity == line.quantity
    mine = [sent for sent in known if sent.metric == line.metric_code and line.starts_at <= sent.at < line.ends_at]
    filters = {"peak": ["eu"]}.get(line.metric_code)
    if line.metric_code == "calls":
        is_us_and_ap, is_eu = line.price.filters == {"region": ["us", "ap"]}, bool(line.price.filters)
        filters = ["us", "ap"] if is_us_and_ap else ["eu"]
        assert is_us_and_ap or is_eu or line.price.model == "volume"
    if filters is not None:
        mine = [sent for sent in mine if sent.region in filters]
    assert {each.event.idempotency_key for each in usage.events} == {sent.key for sent in mine}
    if usage.does_add_up:
        added = sum((each.adds or Decimal(0) for each in usage.events), Decimal(0))
        values = [Decimal(1) if line.metric_code == "hits" else Decimal(str(sent.value)) for sent in mine]
        assert added == sum(values, Decimal(0)) == line.quantity
        assert sum((each.quantity for each in usage.days), Decimal(0)) == line.quantity
        assert not usage.groups or sum((each.quantity for each in usage.groups), Decimal(0)) == line.quantity
    elif line.metric_code == "seats":
        assert line.quantity == len({sent.value for sent in mine}) == usage.deciding_count
    elif mine:
        choose = {"peak": max, "least": min}.get(line.metric_code)
        latest = max(mine, key=lambda sent: sent.at)
        expected = choose(sent.value for sent in mine) if choose else latest.value
        assert line.quantity == Decimal(str(expected))
        assert {each.quantity for each in usage.deciding} == {line.quantity}
    else:
        assert line.quantity == 0


class TestOneLine:
    @pytest.fixture
    def history(self, seller: Seller) -> list[Invoice]:
        """August with 90 calls and 30 more that came late; a credit note of September."""
        seller.define("calls", "sum", dimensions=["region"], name="Calls")
        us = written("graduated", metric="calls", tiers=[(50, "1.5"), (None, 1)], filters={"region": ["us"]}, name="US")
        seller.plan("pro", written("flat", 4900), us, written("per_unit", 2, metric="calls", name="Elsewhere"))
        seller.subscribe("acme", "pro", start=utc(2026, 8, 1), zone="Europe/Vienna")
        seller.use("acme", "calls", 60, utc(2026, 8, 9, 22, 30), region="us")
        seller.use("acme", "calls", "10.5", utc(2026, 8, 10, 1), region="us")
        seller.use("acme", "calls", 20, utc(2026, 8, 20), region="eu")
        seller.send_all(event("mistake", 7, utc(2026, 8, 21)))
        run_invoices(seller, utc(2026, 9, 3))
        seller.use("acme", "calls", 30, utc(2026, 8, 22), region="eu")
        seller.void("mistake")
        run_invoices(seller, utc(2026, 10, 3))
        return list(Invoice.objects.for_organization(seller.organization).filter(state="finalised").order_by("number"))

    def test_shows_days_groups_events_steps_and_what_came_since(self, history: list[Invoice], api: Api) -> None:
        august, _ = history
        url = f"/v1/invoices/{august.pk}/lines"

        fee, us, elsewhere = (api.get(f"{url}/{position}/explain") for position in (1, 2, 3))

        assert fee["agrees"] == {"events": None, "rollups": None, "steps": True}
        assert us["agrees"] == elsewhere["agrees"] == {"events": True, "rollups": True, "steps": True}
        # The second half hour of 9 August in UTC is 10 August in Vienna.
        assert us["usage"]["days"] == [{"day": "2026-08-10", "quantity": "70.5"}]
        assert us["usage"]["groups"] == [{"dimensions": {"region": "us"}, "quantity": "70.5"}]
        assert [each["adds"] for each in us["events"]] == ["60", "10.5"]
        assert [step["amount_minor"] for step in us["line"]["steps"]] == ["75", "20.5", "0.5"]
        assert (us["amount_minor"], us["plan"], us["version"]) == ("96", "pro", 1)
        assert [each["idempotency_key"] for each in elsewhere["events"]][-1] == "mistake"
        assert (elsewhere["usage"]["quantity"], elsewhere["amount_minor"]) == ("27", "54")
        # 30 came late and 7 were taken back, which the invoice does not know.
        assert elsewhere["usage"]["now"] == {"rollups": "50", "events": "50"}
        assert elsewhere["usage"]["changed_since_cutoff"] == "23"

    def test_pages_its_events(self, history: list[Invoice], api: Api) -> None:
        url = f"/v1/invoices/{history[0].pk}/lines/3/explain?limit=1"
        first = api.get(url)
        second = api.get(f"{url}&cursor={first['next_cursor']}")

        assert [len(page["events"]) for page in (first, second)] == [1, 1]
        assert (first["events"][0]["adds"], second["events"][0]["adds"]) == ("20", "7")
        assert (first["usage"], second["next_cursor"]) == (second["usage"], None)
        assert api.refuse("GET", f"{url}&cursor=x")[:2] == (422, "invalid_cursor")

    def test_of_too_many_events_to_fold_the_database_adds_them_up(
        self, history: list[Invoice], api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(explain, "MAX_COUNTED_EVENTS", 1)
        monkeypatch.setattr(explain, "MAX_FOLDED_EVENTS", 2)
        url = f"/v1/invoices/{history[0].pk}/lines/3/explain?limit=5"

        pages = [api.get(url)]
        while cursor := pages[-1]["next_cursor"]:
            pages.append(api.get(f"{url}&cursor={cursor}"))

        usage = pages[0]["usage"]
        assert (usage["quantity"], usage["is_folded"], usage["event_count"], usage["days"]) == ("27", False, None, [])
        assert pages[0]["agrees"] == {"events": True, "rollups": True, "steps": True}
        assert [each["adds"] for page in pages for each in page["events"]] == ["20", "7"]
        adjusted = api.get(f"/v1/invoices/{history[1].pk}/lines/4/explain")
        assert adjusted["agrees"] == {"events": True, "rollups": True, "steps": True}
        assert adjusted["adjustment"]["changes"] is None

    def test_shows_what_an_adjustment_adjusts(self, history: list[Invoice], api: Api) -> None:
        august, september = history
        found = api.get(f"/v1/invoices/{september.pk}/lines/4/explain")

        assert found["line"]["kind"] == "adjustment"
        assert found["agrees"] == {"events": True, "rollups": True, "steps": True}
        assert found["amount_minor"] == "46"
        adjustment = found["adjustment"]
        assert adjustment["billed"] == [{"number": august.number, "amount_minor": "5050"}]
        assert adjustment["credited"] == []
        changed = adjustment["prices"][2]
        assert (changed["name"], changed["before_minor"], changed["now_minor"]) == ("Elsewhere", "54", "100")
        assert (changed["before_quantity"], changed["now_quantity"]) == ("27", "50")
        [calls] = adjustment["changes"]
        assert [each["quantity"] for each in calls["arrived"]] == ["30"]
        assert [each["idempotency_key"] for each in calls["taken_back"]] == ["mistake"]

    def test_credit_note_says_of_what_it_is(self, history: list[Invoice], api: Api) -> None:
        august, _ = history
        note = issue_credit_note(
            invoice=august, amounts={2: 40}, reason="A gift.", actor="test", now=utc(2026, 10, 5)
        ).note
        found = api.get(f"/v1/invoices/{note.pk}/lines/1/explain")

        assert (found["amount_minor"], found["agrees"]["steps"]) == ("-40", True)
        assert (found["credit"]["number"], found["credit"]["line"]["position"]) == (august.number, 2)
        assert api.post(f"/v1/invoices/{note.pk}/verify")["agrees"] is True

    def test_credit_note_of_an_adjustment_below_nothing_agrees_line_by_line(
        self, seller: Seller, history: list[Invoice], api: Api
    ) -> None:
        seller.send_all(event("back", -30, utc(2026, 8, 23)))
        run_invoices(seller, utc(2026, 11, 3))
        october = Invoice.objects.for_organization(seller.organization).get(number="INV-000003")
        note = issue_credit_note(invoice=october, amounts=None, reason="All.", actor="test", now=utc(2026, 11, 5)).note

        answers = [api.get(f"/v1/invoices/{note.pk}/lines/{position}/explain") for position in (1, 2)]

        assert [(each["amount_minor"], each["agrees"]["steps"]) for each in answers] == [("-4900", True), ("60", True)]
        assert api.post(f"/v1/invoices/{note.pk}/verify")["agrees"] is True
        # What is beyond the line that it names is told.
        line = note.lines.get(position=2)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_invoiceline DISABLE TRIGGER USER")
            steps = '[{"kind": "credit", "line": 4, "amount": "61"}]'
            cursor.execute(
                "UPDATE billing_invoiceline SET amount_minor = 61, steps = %s WHERE id = %s", [steps, line.pk]
            )
            cursor.execute("ALTER TABLE billing_invoiceline ENABLE TRIGGER USER")
        assert api.get(f"/v1/invoices/{note.pk}/lines/2/explain")["agrees"]["steps"] is False
        assert api.post(f"/v1/invoices/{note.pk}/verify")["agrees"] is False

    def test_says_so_where_the_events_are_gone(self, seller: Seller, history: list[Invoice], api: Api) -> None:
        seller.roll_up()
        seller.organization.raw_retention_days = 30
        seller.organization.save()
        for _ in range(2):
            prune_organization(organization=seller.organization, now=utc(2027, 6, 1))
        found = api.get(f"/v1/invoices/{history[0].pk}/lines/2/explain")

        assert found["agrees"] == {"events": None, "rollups": True, "steps": True}
        assert (found["usage"], found["events"], found["amount_minor"]) == (None, [], "96")
        assert "no longer kept" in found["problem"]
        verified = api.post(f"/v1/invoices/{history[0].pk}/verify")
        assert (verified["agrees"], verified["stored_total_minor"]) == (None, str(history[0].total_minor))

    def test_refuses_drafts_and_lines_that_are_not_there(
        self, seller: Seller, history: list[Invoice], api: Api
    ) -> None:
        run_invoices(seller, utc(2026, 11, 1, 1))
        draft = Invoice.objects.for_organization(seller.organization).get(state="draft")

        assert api.refuse("GET", f"/v1/invoices/{draft.pk}/lines/1/explain")[:2] == (409, "not_finalised")
        assert api.refuse("POST", f"/v1/invoices/{draft.pk}/verify")[:2] == (409, "not_finalised")
        assert api.refuse("GET", f"/v1/invoices/{history[0].pk}/lines/9/explain")[:2] == (404, "not_found")

    def test_page_goes_from_the_amount_down_to_the_events(
        self, seller: Seller, history: list[Invoice], client_for: Callable[[User], Client], alice: User
    ) -> None:
        browser, here = client_for(alice), f"/o/{seller.organization.pk}/invoices"
        august, september = history

        usage = browser.get(f"{here}/{august.pk}/lines/3")
        assert [(stage.label, stage.answer) for stage in page_of(usage).stages] == [
            ("Events", "agree"),
            ("Rollups", "agree"),
            ("Steps", "agree"),
        ]
        assert (page_of(usage).amount, page_of(usage).usage.changed_since) == ("0.54\xa0USD", 23)
        assert [row.key for row in page_of(usage).usage.events][-1] == "mistake"
        assert "Calls by day" in text_of(usage)
        changed = text_of(browser.get(f"{here}/{september.pk}/lines/4"))
        assert "Came after it was billed" in changed
        assert "Taken back after it was billed" in changed
        assert "comes to the same" in text_of(browser.post(f"{here}/{august.pk}/verify"))
