"""The API of invoices: lists, one with all it says, files of it, and who may see which."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.test import Client

from billing.models import Invoice, InvoiceKind, Subscription
from billing.queries.invoices import EXPORTED_AT_ONCE
from billing.services.corrections import issue_credit_note
from billing.services.credits import apply_grants_to
from billing.services.subscriptions import KeyReused
from tests.api.conftest import Api
from tests.billing.invoices import END, FEE, ISSUED_AT, START, USAGE, Line, store_invoice
from tests.billing.seller import Seller, written
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db

OCTOBER = {"start": "2026-10-01T00:00:00Z", "end": "2026-11-01T00:00:00Z", "is_trial": False}
SPAN = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}


@pytest.fixture
def acme(live_seller: Seller) -> Subscription:
    live_seller.define("calls", "sum", unit="call")
    live_seller.plan("pro", written("flat", 4900, name="Base fee"), written("per_unit", 2, metric="calls"))
    return live_seller.subscribe("acme", "pro", start=START)


def rows_of(response: Any) -> list[dict[str, str]]:
    content = b"".join(response.streaming_content) if response.streaming else response.content
    return list(csv.DictReader(io.StringIO(content.decode())))


def ids(answer: dict[str, Any]) -> list[str]:
    return [row["id"] for row in answer["data"]]


class TestList:
    def test_newest_first_in_pages_and_by_every_filter(self, api: Api, live_seller: Seller, acme: Subscription) -> None:
        zen = live_seller.subscribe("zen", "pro", start=START)
        overdue = store_invoice(acme, "INV-1", FEE, USAGE)
        note = store_invoice(
            acme, "CN-1", Line("Base fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=overdue
        )
        void = store_invoice(zen, "INV-2", FEE, state="void")
        far = ISSUED_AT + timedelta(days=36500)
        is_open = store_invoice(zen, "INV-3", FEE, due_at=far)
        draft = store_invoice(acme, "", state="draft", starts_at=END)
        paid = store_invoice(acme, "INV-4", FEE, kind=InvoiceKind.ADJUSTMENT, paid_at=ISSUED_AT)
        nothing_due = store_invoice(acme, "INV-5", kind=InvoiceKind.ADJUSTMENT, sequence=1)

        def listed(**query: Any) -> list[Invoice]:
            by_id = {str(each.pk): each for each in Invoice.objects.for_organization(acme.organization)}
            return [by_id[pk] for pk in ids(api.get("/v1/invoices", **query))]

        assert listed() == [nothing_due, paid, draft, is_open, void, note, overdue]
        assert listed(customer="zen") == [is_open, void]
        assert listed(subscription=zen.pk) == [is_open, void]
        assert listed(state="draft") == [draft]
        assert listed(kind="credit_note") == [note]
        assert listed(number="INV-3") == [is_open]
        standings = {
            "overdue": [overdue],
            "open": [is_open],
            "paid": [nothing_due, paid],
            "void": [void],
            "credit_note": [note],
            "draft": [draft],
        }
        assert {name: listed(status=name) for name in standings} == standings
        whole = api.get("/v1/invoices")["data"]
        assert {row["status"] for row in whole} == set(standings)
        for name in standings:  # the database and the row agree
            assert [row["id"] for row in whole if row["status"] == name] == ids(api.get("/v1/invoices", status=name))

        first = api.get("/v1/invoices", limit=4)
        second = api.get("/v1/invoices", limit=4, cursor=first["next_cursor"])
        assert ids(first) + ids(second) == [row["id"] for row in whole]
        assert second["next_cursor"] is None

    def test_what_no_list_takes_is_refused_by_name(self, api: Api, acme: Subscription) -> None:
        for query, field in (
            ({"state": "open"}, "state"),
            ({"status": "sent"}, "status"),
            ({"kind": "x"}, "kind"),
            ({"subscription": "x"}, "subscription"),
            ({"cursor": "x"}, "cursor"),
            ({"plan": "x"}, "plan"),
        ):
            refused = api.call("GET", "/v1/invoices", query=query)
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
        assert api.call("GET", "/v1/invoices", query={"customer": "nobody"}).status_code == 404


class TestOne:
    def test_says_everything_that_is_printed(self, api: Api, acme: Subscription) -> None:
        """4900 and 375 are 5275; 20 % of it 1055; 1000 of the 6330 was paid with credits."""
        invoice = store_invoice(acme, "INV-1", FEE, USAGE, tax_percent=20, credits_minor=1000)
        note = store_invoice(
            acme, "CN-1", Line("Base fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=invoice
        )

        answer = api.get(f"/v1/invoices/{invoice.pk}")

        told = {name: answer[name] for name in ("number", "kind", "state", "customer", "currency", "period", "stripe")}
        assert told == {
            "number": "INV-1",
            "kind": "period",
            "state": "finalised",
            "customer": "acme",
            "currency": "USD",
            "period": OCTOBER,
            "stripe": None,
        }
        amounts = {name: value for name, value in answer.items() if name.endswith("_minor")}
        assert amounts == {
            "subtotal_minor": "5275",
            "tax_minor": "1055",
            "total_minor": "6330",
            "credits_minor": "1000",
            "due_minor": "5330",
        }
        assert answer["taxes"] == [
            {"code": "vat", "name": "VAT", "percent": "20", "base_minor": "5275", "amount_minor": "1055"}
        ]
        fee, usage = answer["lines"]
        assert (fee["position"], fee["kind"], fee["metric"], fee["amount_minor"]) == (1, "fee", None, "4900")
        assert (usage["position"], usage["metric"], usage["quantity"]) == (2, "calls", "130")
        assert (usage["start"], usage["end"], usage["period"]) == (OCTOBER["start"], OCTOBER["end"], OCTOBER)
        assert usage["steps"][1] == {
            "kind": "units",
            "name": None,
            "line": None,
            "amount_minor": "375",
            "from_quantity": "0",
            "to_quantity": "30",
            "quantity": "30",
            "unit_amount": "12.5",
            "flat_amount": None,
        }
        assert answer["snapshot"]["customer"]["address"] == "Ring 2\n1010 Wien"
        assert (answer["issued_at"], answer["due_at"]) == ("2026-11-02T00:00:00Z", "2026-11-16T00:00:00Z")
        assert (answer["paid_at"], answer["grace_ends_at"], answer["credited_invoice"]) == (None, None, None)
        assert [(row["number"], row["total_minor"]) for row in answer["credit_notes"]] == [("CN-1", "-900")]
        assert api.get(f"/v1/invoices/{note.pk}")["credited_invoice"] == str(invoice.pk)

    def test_a_draft_is_what_it_comes_to_now(self, api: Api, live_seller: Seller, acme: Subscription) -> None:
        draft = store_invoice(acme, "", state="draft")
        live_seller.use("acme", "calls", 7, START + timedelta(days=3))

        answer = api.get(f"/v1/invoices/{draft.pk}")

        assert (answer["number"], answer["status"], answer["grace_ends_at"]) == (None, "draft", "2026-11-02T00:00:00Z")
        assert [line["amount_minor"] for line in answer["lines"]] == ["4900", "14"]
        assert (answer["total_minor"], answer["due_minor"]) == ("4914", "4914")
        pdf = api.client.get(f"/v1/invoices/{draft.pk}.pdf")
        assert pdf["Content-Disposition"] == f'attachment; filename="draft-{draft.pk}.pdf"'

    def test_files(self, api: Api, acme: Subscription) -> None:
        invoice = store_invoice(
            acme, "IN/V 1", FEE, Line('=1+1, "calls"', 375, quantity="130.5", metric="calls", unit="call")
        )

        pdf = api.client.get(f"/v1/invoices/{invoice.pk}.pdf")
        assert (pdf.status_code, pdf["Content-Type"]) == (200, "application/pdf")
        assert pdf["Content-Disposition"] == 'attachment; filename="IN_V_1.pdf"'
        assert pdf.content.startswith(b"%PDF-")

        table = api.client.get(f"/v1/invoices/{invoice.pk}.csv")
        assert table["Content-Type"] == "text/csv; charset=utf-8"
        fee, usage = rows_of(table)
        assert (fee["name"], fee["amount_minor"], fee["amount"], fee["currency"]) == (
            "Base fee",
            "4900",
            "49.00",
            "USD",
        )
        # The apostrophe keeps a spreadsheet from calculating it.
        assert usage["name"] == '\'=1+1, "calls"'
        assert (usage["quantity"], usage["metric"], usage["unit"], usage["position"]) == ("130.5", "calls", "call", "2")


class TestExport:
    def test_has_the_lines_that_were_issued_in_the_range(
        self, api: Api, live_seller: Seller, acme: Subscription
    ) -> None:
        yen = live_seller.subscribe("=yen", "pro", start=START)
        store_invoice(acme, "INV-1", FEE, USAGE)
        store_invoice(yen, "INV-2", Line("Fee", 1500), currency="JPY", issued_at=ISSUED_AT + timedelta(hours=23))
        store_invoice(acme, "INV-3", FEE, kind=InvoiceKind.ADJUSTMENT, issued_at=ISSUED_AT - timedelta(microseconds=1))
        store_invoice(acme, "INV-4", FEE, starts_at=END, issued_at=ISSUED_AT + timedelta(days=1))
        store_invoice(acme, "INV-5", FEE, kind=InvoiceKind.ADJUSTMENT, state="void", sequence=1)
        store_invoice(acme, "", state="draft", starts_at=END + timedelta(days=40))
        path = "/v1/invoices/export.csv"
        query = {"from": "2026-11-02T00:00:00Z", "to": "2026-11-03T00:00:00Z"}

        rows = rows_of(api.client.get(path, query))

        assert [(row["invoice"], row["customer"], row["amount_minor"], row["amount"]) for row in rows] == [
            ("INV-1", "acme", "4900", "49.00"),
            ("INV-1", "acme", "375", "3.75"),
            ("INV-2", "'=yen", "1500", "1500"),
        ]
        assert len(rows_of(api.client.get(path, query | {"customer": "acme"}))) == 2
        for wrong in ({}, query | {"to": query["from"]}, query | {"from": "x"}):
            assert api.call("GET", path, query=wrong).status_code == 422

    def test_goes_on_past_what_is_read_at_once(self, api: Api, acme: Subscription) -> None:
        for serial in range(EXPORTED_AT_ONCE + 1):
            store_invoice(acme, f"INV-{serial}", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=serial)

        rows = rows_of(api.client.get("/v1/invoices/export.csv", SPAN))

        assert [row["invoice"] for row in rows] == [f"INV-{serial}" for serial in range(EXPORTED_AT_ONCE + 1)]


class TestCreditNote:
    """Under an idempotency key: what is asked for twice is given back once."""

    @pytest.fixture
    def path(self, acme: Subscription) -> str:
        return f"/v1/invoices/{store_invoice(acme, 'INV-1', FEE).pk}/credit"

    def test_repeated_request_answers_with_the_same_note(self, api: Api, acme: Subscription, path: str) -> None:
        part = {"reason": "late", "lines": [{"position": 1, "amount_minor": 1000}]}

        made = api.post(path, part | {"idempotency_key": "ticket 7"}, status=201)
        again = api.post(path, part, **{"Idempotency-Key": "ticket 7"})

        assert again == made
        assert [row["total_minor"] for row in api.get("/v1/invoices", kind="credit_note")["data"]] == ["-1000"]
        other = store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT)
        more = part | {"lines": [{"position": 1, "amount_minor": 1001}]}
        for url, body in (
            (path, more),
            (path, part | {"reason": "later"}),
            (path, {"reason": "late"}),
            (f"/v1/invoices/{other.pk}/credit", part),
        ):
            refused = api.refuse("POST", url, body | {"idempotency_key": "ticket 7"})
            assert refused[:2] == (409, "idempotency_key_reused")
        assert api.refuse("POST", path, part | {"idempotency_key": "x" * 256})[2] == ["idempotency_key"]
        # Whatever became of it, and of the invoice.
        api.post(f"/v1/invoices/{made['id']}/void", {"reason": "no", "reissue": False})
        api.post(path.replace("credit", "void"), {"reason": "no", "reissue": False})
        late = api.post(path, part | {"idempotency_key": "ticket 7"})
        assert (late["id"], late["state"]) == (made["id"], "void")
        # Without a key every request is one of its own, as it was.
        path = f"/v1/invoices/{other.pk}/credit"
        assert api.post(path, part, status=201)["id"] != api.post(path, part, status=201)["id"]

    def test_whose_credit_is_spent_is_not_voided_though_what_was_left_of_it_is(
        self, api: Api, acme: Subscription
    ) -> None:
        invoice = store_invoice(acme, "INV-1", FEE, paid_at=ISSUED_AT)
        note = api.post(f"/v1/invoices/{invoice.pk}/credit", {"reason": "late"}, status=201)
        [grant] = api.get("/v1/credits", customer="acme")["data"]
        following = store_invoice(acme, "INV-2", USAGE, starts_at=END)
        assert apply_grants_to([following], now=ISSUED_AT) == {following.pk: 375}

        assert api.post(f"/v1/credits/{grant['id']}/void")["remaining_minor"] == "0"

        void = {"reason": "no", "reissue": False}
        assert api.refuse("POST", f"/v1/invoices/{note['id']}/void", void)[:2] == (409, "credit_spent")
        api.post(f"/v1/invoices/{following.pk}/void", void)
        assert api.post(f"/v1/invoices/{note['id']}/void", void)["state"] == "void"

    @pytest.mark.django_db(transaction=True)
    def test_requests_under_one_key_at_once_make_one_note(
        self, live_seller: Seller, acme: Subscription, path: str
    ) -> None:
        others = [store_invoice(live_seller.subscribe(name, "pro", start=START), name, FEE) for name in ("bo", "cy")]
        invoice = Invoice.objects.for_organization(acme.organization).get(number="INV-1")

        def credit(invoice: Invoice, key: str) -> int | None:
            try:
                return issue_credit_note(
                    invoice=invoice,
                    amounts={1: 1000},
                    reason="late",
                    actor="test",
                    now=ISSUED_AT,
                    idempotency_key=key,
                ).note.pk
            except KeyReused:
                return None

        made = race([partial(credit, invoice, "ticket 7") for _ in range(4)])
        apart = race([partial(credit, each, "ticket 8") for each in others])

        assert None not in made
        assert len(set(made)) == 1
        # Of two customers' invoices one has it, and the other's is refused.
        assert sorted(each is None for each in apart) == [False, True]
        notes = Invoice.objects.for_organization(acme.organization).filter(kind=InvoiceKind.CREDIT_NOTE)
        assert sorted(notes.values_list("number", "total_minor")) == [("CN-000001", -1000), ("CN-000002", -1000)]


def test_others_see_nothing_of_it(
    api_with: Callable[..., Api], outsider_client: Client, live_seller: Seller, acme: Subscription
) -> None:
    zen = live_seller.subscribe("zen", "pro", start=START)
    own, foreign = store_invoice(acme, "INV-1", FEE), store_invoice(zen, "INV-2", FEE)
    bound = api_with("billing:read", "billing:write", customer=acme.customer)

    assert ids(bound.get("/v1/invoices")) == [str(own.pk)]
    assert bound.call("GET", "/v1/invoices", query={"customer": "zen"}).status_code == 404
    assert [row["invoice"] for row in rows_of(bound.client.get("/v1/invoices/export.csv", SPAN))] == ["INV-1"]
    for suffix in ("", ".pdf", ".csv"):
        assert bound.client.get(f"/v1/invoices/{own.pk}{suffix}").status_code == 200
        assert bound.client.get(f"/v1/invoices/{foreign.pk}{suffix}").status_code == 404
        assert outsider_client.get(f"/v1/invoices/{own.pk}{suffix}").status_code == 404
        assert bound.client.get(f"/v1/invoices/{2**70}{suffix}").status_code == 404
    of_metrics = api_with("billing:read", metric_codes=["calls"])
    assert of_metrics.call("GET", f"/v1/invoices/{own.pk}").status_code == 403
    assert api_with("usage:read").call("GET", "/v1/invoices").status_code == 403
