"""Whom alerts are told: webhook endpoints with their deliveries, and mail."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from alerts.contexts import webhooks as webhook_context
from alerts.courier import message_body
from alerts.models import Delivery, DeliveryAttempt, EmailSubscription, WebhookEndpoint
from metering.services.metrics import archive_metric
from tests import factories
from tests.alerts.watch import Watch
from tests.pages.conftest import form_errors, page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]
HOOK = "https://hooks.example.com/in/hush-hush"


class TestWebhooks:
    @pytest.fixture
    def endpoint(self, browser: Client, page_url: PageUrl, org: Organization) -> WebhookEndpoint:
        browser.post(page_url("webhooks/new"), {"url": HOOK, "description": "ours"})
        found: WebhookEndpoint = WebhookEndpoint.objects.for_organization(org).get()
        return found

    @pytest.fixture
    def url(self, page_url: PageUrl, endpoint: WebhookEndpoint) -> str:
        return page_url(f"webhooks/{endpoint.pk}/")

    def test_secret_is_shown_once(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum")

        form = {"url": HOOK, "message_types": ["alert.crossed"], "metrics": ["m"]}
        answer = browser.post(page_url("webhooks/new"), form)

        page = page_of(answer)
        assert page.issued.text.startswith("whsec_")
        assert page.issued.text in text_of(answer)
        assert "no-store" in answer.headers["Cache-Control"]
        assert "whsec_" not in text_of(browser.get(page.row.page_url))
        assert (page.row.message_types, page.row.metric_codes) == (["alert.crossed"], ["m"])

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"url": ""}, {"url"}),
            ({"url": "ftp://example.com/"}, {"url"}),
            ({"url": "https://127.0.0.1/"}, {"url"}),
            ({"url": "https://example.com/\x00"}, {"url"}),
            ({"message_types": ["alert.imagined"]}, {"message_types"}),
            ({"metrics": ["none"]}, {"metrics"}),
            ({"description": "d" * 201}, {"description"}),
        ],
    )
    def test_refusals_stand_at_their_fields(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, Any], fields: set[str]
    ) -> None:
        answer = browser.post(page_url("webhooks/new"), {"url": HOOK} | changes)

        assert set(form_errors(answer)) == fields
        assert not WebhookEndpoint.objects.for_organization(org).exists()

    def test_edit_keeps_metrics_that_are_archived(
        self, browser: Client, url: str, endpoint: WebhookEndpoint, watch: Watch
    ) -> None:
        metric = watch.define("m", "sum")
        browser.post(f"{url}edit", {"url": HOOK, "metrics": ["m"]})
        archive_metric(organization=watch.organization, metric=metric, actor="test", now=watch.now)

        assert '<option value="m" selected>' in text_of(browser.get(f"{url}edit"))
        answer = browser.post(f"{url}edit", {"url": f"{HOOK}2", "metrics": ["m"]})

        assert answer.headers["Location"] == url
        endpoint.refresh_from_db()
        assert (endpoint.url, endpoint.metric_codes, endpoint.description) == (f"{HOOK}2", ["m"], "")

    def test_is_disabled_and_enabled(self, browser: Client, url: str) -> None:
        browser.post(f"{url}test")

        assert browser.post(f"{url}switch", {"enabled": "no"}).headers["Location"] == url
        page = page_of(browser.get(url))
        assert (page.row.state, page.deliveries[0].state) == ("disabled", "failed")
        # Nothing can be sent to it meanwhile.
        assert browser.post(f"{url}test").status_code == 409
        assert browser.post(f"{page.deliveries[0].url}replay").status_code == 409
        assert "Send again" not in text_of(browser.get(page.deliveries[0].url))

        browser.post(f"{url}switch", {"enabled": "yes"})
        assert page_of(browser.get(url)).row.state == "enabled"
        assert browser.post(f"{url}switch", {"enabled": "perhaps"}).status_code == 422

    def test_rotated_secret_is_shown_once_and_both_sign_for_a_while(self, browser: Client, url: str) -> None:
        answer = browser.post(f"{url}rotate")

        page = page_of(answer)
        assert page.issued.text.startswith("whsec_")
        assert page.row.previous_secret_until == page.issued.previous_until > datetime.now(UTC)
        assert "no-store" in answer.headers["Cache-Control"]
        assert "whsec_" not in text_of(browser.get(url))

    def test_delivery_shows_its_attempts_newest_first_and_is_sent_again(
        self, browser: Client, url: str, endpoint: WebhookEndpoint
    ) -> None:
        answer = browser.post(f"{url}test")
        delivery_url = answer.headers["Location"]
        delivery = Delivery.objects.for_organization(endpoint.organization_id).get()
        for minute, status in enumerate((None, 500)):
            DeliveryAttempt.objects.create(
                organization_id=endpoint.organization_id,
                delivery=delivery,
                attempted_at=delivery.created_at + timedelta(minutes=minute),
                duration_ms=12,
                status_code=status,
                error="" if status else "No answer in 10 s.",
                answer="<b>oops</b>" if status else "",
            )
        Delivery.objects.for_organization(endpoint.organization_id).update(state="failed", settled_at=timezone.now())

        shown = browser.get(delivery_url)
        assert [attempt.status_code for attempt in page_of(shown).attempts] == [500, None]
        assert "&lt;b&gt;oops&lt;/b&gt;" in text_of(shown)
        assert browser.post(f"{delivery_url}replay").headers["Location"] == delivery_url

        delivery.refresh_from_db()
        assert delivery.state == "pending"

    def test_deliveries_are_filtered_by_state_and_paged(
        self,
        browser: Client,
        url: str,
        endpoint: WebhookEndpoint,
        monkeypatch: pytest.MonkeyPatch,
        count_queries: CountQueries,
    ) -> None:
        monkeypatch.setattr(webhook_context, "PAGE_SIZE", 2)
        for _ in range(2):
            browser.post(f"{url}test")
        before = count_queries(browser, url)
        for _ in range(3):
            browser.post(f"{url}test")
        assert count_queries(browser, url) == before
        ids = list(
            Delivery.objects.for_organization(endpoint.organization_id).order_by("-pk").values_list("pk", flat=True)
        )
        Delivery.objects.for_organization(endpoint.organization_id).filter(pk=ids[1]).update(state="delivered")

        def walk(query: str) -> list[int]:
            seen: list[int] = []
            while True:
                page = page_of(browser.get(url + query))
                seen += [row.pk for row in page.deliveries]
                if not (query := page.next_url):
                    return seen

        assert walk("") == ids
        assert walk("?state=delivered") == [ids[1]]
        assert walk("?state=pending") == [ids[0], *ids[2:]]
        assert walk("?state=imagined") == ids

    def test_delivery_of_another_endpoint_is_404(
        self, browser: Client, page_url: PageUrl, url: str, org: Organization
    ) -> None:
        browser.post(f"{url}test")
        delivery = Delivery.objects.for_organization(org).get()
        browser.post(page_url("webhooks/new"), {"url": f"{HOOK}2"})
        other = WebhookEndpoint.objects.for_organization(org).exclude(url=HOOK).get()

        assert browser.get(page_url(f"webhooks/{other.pk}/deliveries/{delivery.pk}/")).status_code == 404

    def test_message_is_shown_as_it_is_sent(
        self, browser: Client, page_url: PageUrl, url: str, org: Organization
    ) -> None:
        shown = page_of(browser.get(browser.post(f"{url}test").headers["Location"])).payload_text

        sent = message_body(Delivery.objects.for_organization(org).get().payload)
        assert json.dumps(json.loads(sent), indent=2) == shown

    def test_deleted_goes_with_its_deliveries(
        self, browser: Client, page_url: PageUrl, url: str, org: Organization
    ) -> None:
        browser.post(f"{url}test")

        assert browser.post(f"{url}delete").headers["Location"] == page_url("webhooks/")

        assert not Delivery.objects.for_organization(org).exists()
        assert "Nobody is told yet" in text_of(browser.get(page_url("webhooks/")))

    def test_viewer_sees_where_it_leads_but_no_secret_of_it(
        self, browser: Client, viewers_browser: Client, page_url: PageUrl, url: str, endpoint: WebhookEndpoint
    ) -> None:
        """Its path is often a secret, and what the receiver answers is the receiver's; the API keeps both too."""
        delivery_url = browser.post(f"{url}test").headers["Location"]
        DeliveryAttempt.objects.create(
            organization_id=endpoint.organization_id,
            delivery=Delivery.objects.for_organization(endpoint.organization_id).get(),
            attempted_at=timezone.now(),
            duration_ms=1,
            status_code=500,
            answer="hush-hush too",
        )

        for address in (page_url("webhooks/"), url, delivery_url):
            text = text_of(viewers_browser.get(address))
            assert "https://hooks.example.com/…" in text
            assert "hush-hush" not in text
            assert "hush-hush" in text_of(browser.get(address)), "the owner sees all of it"

    def test_cost_does_not_grow_with_endpoints(
        self, browser: Client, page_url: PageUrl, url: str, count_queries: CountQueries
    ) -> None:
        before = count_queries(browser, page_url("webhooks/"))
        for number in range(3):
            browser.post(page_url("webhooks/new"), {"url": f"{HOOK}{number}"})

        assert count_queries(browser, page_url("webhooks/")) == before


class TestEmail:
    def test_a_member_chooses_for_themselves(
        self, viewers_browser: Client, page_url: PageUrl, org: Organization, bob: User
    ) -> None:
        url = page_url("alerts/email")
        assert viewers_browser.post(url, {"frequency": "daily"}).headers["Location"] == url

        subscription = EmailSubscription.objects.for_organization(org).get()
        assert (subscription.membership.user, subscription.frequency) == (bob, "daily")
        page = page_of(viewers_browser.get(url))
        assert page.form.initial == {"frequency": "daily"}
        assert [(row.email, row.is_self) for row in page.subscribers] == [(bob.email, True)]

        viewers_browser.post(url, {"frequency": "hourly"})
        assert EmailSubscription.objects.for_organization(org).get().frequency == "hourly"
        viewers_browser.post(url, {"frequency": "never"})
        assert not EmailSubscription.objects.for_organization(org).exists()

    def test_unknown_frequency_is_refused(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        answer = browser.post(page_url("alerts/email"), {"frequency": "hourly please"})

        assert set(form_errors(answer)) == {"frequency"}
        assert not EmailSubscription.objects.for_organization(org).exists()

    @pytest.mark.usefixtures("eager_tasks")
    def test_test_goes_to_the_visitor(self, viewers_browser: Client, page_url: PageUrl, bob: User) -> None:
        answer = viewers_browser.post(page_url("alerts/email/test"))

        assert answer.headers["Location"] == page_url("alerts/email")
        assert [message.to for message in mail.outbox] == [[bob.email]]

    def test_cost_does_not_grow_with_subscribers(
        self,
        browser: Client,
        page_url: PageUrl,
        org: Organization,
        client_for: Callable[[User], Client],
        count_queries: CountQueries,
    ) -> None:
        def subscribe(name: str) -> None:
            user = factories.make_user(name=name)
            factories.make_membership(organization=org, user=user)
            client_for(user).post(page_url("alerts/email"), {"frequency": "soon"})

        subscribe("first")
        before = count_queries(browser, page_url("alerts/email"))
        for name in ("second", "third"):
            subscribe(name)

        assert count_queries(browser, page_url("alerts/email")) == before
