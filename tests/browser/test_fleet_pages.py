"""What only a browser can show of servers: that one can be registered, and that its pages fit every screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
from playwright.sync_api import Page, expect

from accounts.models import ApiKey, Organization
from accounts.services import IssuedKey
from tests.browser.conftest import NARROW, WIDE
from tests.clients.web_server import WebServer

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"


class Product(ThreadingHTTPServer):
    """The product's own address: answers the visit that brings the token, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ProductPage)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.visits: list[tuple[str, dict[str, str]]] = []


class ProductPage(BaseHTTPRequestHandler):
    server: Product

    def do_GET(self) -> None:
        self.server.visits.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Product</title><link rel=icon href=data:,><p>Thank you")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def product() -> Iterator[Product]:
    with Product() as product:
        thread = Thread(target=product.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield product
        product.shutdown()
        thread.join()


def test_a_person_lets_a_product_report(page: Page, org: Organization, server: WebServer, product: Product) -> None:
    """The browser follows the redirect, which the policy of its page must allow, and tells the product nothing else."""
    query = {"cluster_id": "clus1", "product": "chronograf", "redirect_url": f"{product.url}/done?x=1#/end"}
    page.goto(f"/start?{httpx.QueryParams(query)}")
    expect(page.get_by_text(product.url.removeprefix("http://"))).to_be_visible()

    page.get_by_role("button", name="Allow").click()

    expect(page.get_by_text("Thank you")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/done\?x=1&token=mb_[0-9a-f_]+#/end$"))
    [(path, headers)] = product.visits
    key = ApiKey.objects.for_organization(org).get()
    assert path.startswith(f"/done?x=1&token=mb_{key.prefix}_")
    assert "referer" not in headers


def test_servers_are_found_and_read_on_every_screen(
    page: Page, org: Organization, server: WebServer, api_key: IssuedKey
) -> None:
    page.goto(f"/o/{org.pk}/fleet/")
    expect(page.get_by_text("No server has reported yet")).to_be_visible()
    report(server, api_key)

    for size in (NARROW, WIDE):
        page.set_viewport_size({"width": size["width"], "height": size["height"]})
        page.goto(f"/o/{org.pk}/fleet/")
        assert page.evaluate(SIDEWAYS) <= 0
        page.get_by_role("link", name="serv1").click()
        expect(page.get_by_role("heading", name="alloc")).to_be_visible()
        assert page.evaluate(SIDEWAYS) <= 0
        page.get_by_role("link", name="num_series", exact=True).click()
        expect(page.get_by_role("heading", name="num_series")).to_be_visible()
        expect(page.locator(".chart-line")).to_have_count(1)


def report(server: WebServer, api_key: IssuedKey) -> None:
    """Send usage with long names, and a statistic whose series is long."""
    usage = {"cluster_id": "c" * 60, "server_id": "serv1" + "x" * 60, "num_series": 87232, "os": "linux"}
    engine = {"path": "/var/lib/influxdb/data/_internal/monitor/1", "version": "bz1"}
    stats = [{"name": "engine", "tags": engine, "values": {"alloc": 9007199254740993, "note": "x" * 150}}]
    names = {"cluster_id": usage["cluster_id"], "server_id": usage["server_id"]}
    for path, body in (("usage", [{"values": usage}]), ("stats", names | {"stats": stats})):
        answer = post(f"{server.url}/api/v1/{path}/influxdb", body, api_key)
        assert answer.status_code == 201, answer.text


def post(url: str, body: object, api_key: IssuedKey) -> httpx.Response:
    return httpx.post(url, json=body, headers={"X-Authorization": api_key.text}, trust_env=False)
