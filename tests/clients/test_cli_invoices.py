"""`meterbook invoices` against the real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.utils import timezone
from meterbook.cli import run as run_here

from accounts.models import Organization
from accounts.services import IssuedKey
from tests.billing.invoices import END, FEE, START, USAGE, store_invoice
from tests.billing.pdf_text import text_of
from tests.billing.seller import Seller, written
from tests.clients.web_server import WebServer

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    server: WebServer, api_key: IssuedKey, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Return what runs the command line and answers with its status and all it printed."""
    monkeypatch.setenv("METERBOOK_URL", server.url)
    monkeypatch.setenv("METERBOOK_API_KEY", api_key.text)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        status = run_here(("invoices", *arguments))
        sys.stdout.flush()
        return status, "".join(capfd.readouterr())

    return run


def test_lists_shows_and_saves(run: Run, org: Organization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seller = Seller(org, timezone.now())
    seller.plan("pro", written("flat", 4900, name="Base fee"))
    acme = seller.subscribe("acme", "pro", start=START)
    store_invoice(acme, "2026/7", FEE, USAGE, tax_percent=20, starts_at=END)
    draft = store_invoice(acme, "", state="draft")
    monkeypatch.chdir(tmp_path)

    listed = json.loads(run("list", "--json")[1])
    assert [(row["number"], row["status"]) for row in listed] == [(None, "draft"), ("2026/7", "overdue")]
    assert (
        run("list", "--status", "overdue", "--csv")[1]
        .splitlines()[1]
        .endswith(",overdue,acme,2026-11-01T00:00:00Z,63.30,63.30,USD")
    )
    assert len(json.loads(run("list", "-n", "1", "--json")[1])) == 1
    assert run("show", "2026/7", "--csv")[1].splitlines()[1:] == [
        "1,Base fee,1,,49.00,USD",
        "2,API calls,130,call,3.75,USD",
        ",VAT,,,10.55,USD",
        ",Total,,,63.30,USD",
        ",Due,,,63.30,USD",
    ]
    assert json.loads(run("show", str(draft.pk), "--json")[1])["state"] == "draft"
    assert run("pdf", "2026/7") == (0, "2026_7.pdf\n")
    assert "2026/7" in text_of((tmp_path / "2026_7.pdf").read_bytes())
    assert run("show", "INV-9")[0] == 2
    assert run("pdf", "2026/7", "-o", str(tmp_path / "no" / "x.pdf"))[0] == 1
