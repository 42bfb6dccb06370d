"""Lists that are read newest first, a page at a time: whatever stands in an address, there is a page."""

from collections.abc import Callable

import pytest
from django.test import Client

from accounts.models import Organization
from accounts.pages import read_id
from metering.models import Metric
from tests import factories
from tests.pages.conftest import JSON, page_of

PAGES = (
    "audit/",
    "alerts/",
    "thresholds/",
    "metrics/storage/alerts",
    "customers/{customer}/alerts",
    "quotas/",
    "webhooks/{endpoint}/",
    "reports/",
    "reports/{report}/",
    "inbox/",
    "forwarding/quarantine/",
    "events/",
)
# Python reads no number of more than 4,300 digits.
LONG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("007", 7),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),  # no column holds it
        ("9" * 20, None),
        (LONG, None),
        ("0", None),
        ("-1", None),
        ("\u00b2", None),  # a superscript is a digit to Python, but no number
        ("\u0663", None),  # and this is three, in other letters
        ("1e3", None),
        (" 1", None),
        ("", None),
    ],
)
def test_an_id_is_what_a_row_can_have(text: str, expected: int | None) -> None:
    assert read_id(text) == expected


@pytest.fixture
def list_urls(org: Organization, api_client: Client, storage: Metric, page_url: Callable[[str], str]) -> list[str]:
    """Return the addresses of every page that takes `before`."""
    answers = {
        "endpoint": api_client.post("/v1/webhook-endpoints", {"url": "https://hooks.test/"}, content_type=JSON),
        "report": api_client.post(
            "/v1/reports", {"name": "r", "metric": "storage", "recipients": ["a@example.test"]}, content_type=JSON
        ),
    }
    ids = {name: answer.json()["id"] for name, answer in answers.items()}
    ids["customer"] = factories.make_customer(organization=org).pk
    return [page_url(path.format_map(ids)) for path in PAGES]


def test_a_position_that_no_row_can_have_is_the_newest_page(browser: Client, list_urls: list[str]) -> None:
    for url in list_urls:
        page = page_of(browser.get(f"{url}?before={'1.' if url.endswith('/events/') else ''}{LONG}"))
        assert (page.first_url, page.next_url) == ("", ""), url


def test_a_later_page_leads_back_to_the_first(browser: Client, list_urls: list[str]) -> None:
    for url in list_urls:
        page = page_of(browser.get(f"{url}?before={'1.' if url.endswith('/events/') else ''}1"))
        assert (page.first_url, page.next_url) == ("?", ""), url
