"""The history of alerts, one alert, and who may see and change what of all alerts pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, User
from alerts.contexts import log as log_context
from alerts.models import Delivery, Quota, Threshold, WebhookEndpoint
from alerts.services.silence import check_silence
from alerts.services.thresholds import archive_threshold
from metering.services.metrics import archive_metric
from tests.alerts.watch import Watch
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]
HOOK = "https://hooks.example.com/in/hush-hush"


class TestHistory:
    def test_crossing_stands_there_with_customer_metric_and_value(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        answer = browser.get(page_url("alerts/"))

        [row] = page_of(answer).rows
        assert (row.offset, row.customer, row.code, row.value) == (1, "ann", "cap", Decimal(12))
        assert "10 GB" in text_of(answer)
        assert 'value="12"' in text_of(answer)
        assert page_url("alerts/1/") in text_of(answer)

    def test_filters_narrow_it_and_unknown_names_are_told(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        crossed.define("other", "count", period_type="fixed", period_days=3660)
        low = crossed.threshold("other", "low", 1)
        crossed.use("bob", 1, metric="other")

        def codes(query: str) -> list[str]:
            return [row.code for row in page_of(browser.get(page_url(f"alerts/?{query}"))).rows]

        assert codes("") == ["low", "cap"]
        assert codes("customer=ann") == ["cap"]
        assert codes("metric=other") == ["low"]
        assert codes("customer=ann&metric=other") == []
        assert codes(f"threshold={low.pk}") == ["low"]
        page = page_of(browser.get(page_url("alerts/?customer=nobody&metric=none&threshold=x")))
        assert len(page.problems) == 3
        assert len(page.rows) == 2

    @pytest.mark.parametrize("path", ["alerts/", "thresholds/", "quotas/", "events/"])
    def test_the_form_says_what_the_list_is_filtered_by(
        self, browser: Client, page_url: PageUrl, crossed: Watch, path: str
    ) -> None:
        threshold = Threshold.objects.for_organization(crossed.organization).get()

        text = text_of(browser.get(page_url(f"{path}?customer=ann&metric=m&threshold={threshold.pk}")))

        form = text[text.index('<form class="toolbar"') : text.index("</form>", text.index('<form class="toolbar"'))]
        assert 'name="customer" value="ann"' in form
        assert re.findall(r'<option value="(\w*)" selected>', form) == ["m"]
        assert f'href="{page_url(path)}">Clear' in form
        assert (f'name="threshold" value="{threshold.pk}"' in form) == (path == "alerts/")
        assert ('list="customer-ids"' in form) == ('<datalist id="customer-ids">' in form) == (path != "events/")

    def test_pages_hold_every_alert_once_newest_first(
        self, browser: Client, page_url: PageUrl, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_context, "PAGE_SIZE", 2)
        watch.define("m", "sum", period_type="fixed", period_days=3660)
        watch.threshold("m", "each", 1, is_recurring=True)
        watch.use("ann", 5)

        seen: list[int] = []
        url = "alerts/"
        while True:
            page = page_of(browser.get(page_url(url)))
            seen += [row.offset for row in page.rows]
            if not page.next_url:
                break
            url = f"alerts/{page.next_url}"
            assert not page_of(browser.get(page_url(url))).is_newest

        assert seen == [5, 4, 3, 2, 1]

    def test_live_rows_are_those_after_an_offset_that_fit_the_filters(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        page = page_of(browser.get(page_url("alerts/?customer=bob")))
        assert page.rows == []
        assert page.last_offset == 1, "of all alerts: the stream begins after what anybody has seen"

        crossed.use("bob", 20)
        crossed.use("cyd", 20)

        assert re.findall(r'data-offset="(\d+)"', text_of(browser.get(page_url("alerts/rows?since=1")))) == ["3", "2"]
        assert re.findall(r'data-offset="(\d+)"', text_of(browser.get(f"{page.rows_url}&since=1"))) == ["2"]

    @pytest.mark.parametrize("query", ["before=x", "before=-1", f"before={10**30}", "since=%00", "threshold=%00"])
    def test_nonsense_in_the_address_is_no_error(
        self, browser: Client, page_url: PageUrl, crossed: Watch, query: str
    ) -> None:
        assert browser.get(page_url(f"alerts/?{query}")).status_code == 200
        assert browser.get(page_url(f"alerts/rows?{query}")).status_code == 200
        assert browser.get(page_url(f"thresholds/?{query}")).status_code == 200
        assert browser.get(page_url(f"quotas/?{query}")).status_code == 200

    def test_empty_history_says_what_to_do_next(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        assert "Nothing is watched yet" in text_of(browser.get(page_url("alerts/")))

        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        assert "Nothing was crossed yet" in text_of(browser.get(page_url("alerts/")))

    def test_silence_reads_as_one(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum", unit="GB")
        threshold = watch.threshold("m", "quiet", 7200, kind="silence")
        Threshold.objects.for_organization(watch.organization).filter(pk=threshold.pk).update(
            created_at=watch.now - timedelta(hours=3)
        )
        check_silence(organization=watch.organization, now=watch.now)

        text = text_of(browser.get(page_url("alerts/")))
        assert "no event for 2\u202fh" in text
        assert "all together" in text
        assert "GB" not in re.sub(r"(?s).*<tbody", "", text)
        assert browser.get(page_url("alerts/1/")).status_code == 200
        why = page_of(browser.get(page_url(f"thresholds/{threshold.pk}/")))
        assert why.answer.trace.outcome == "silent"

    def test_cost_does_not_grow_with_alerts(
        self, browser: Client, page_url: PageUrl, watch: Watch, count_queries: CountQueries
    ) -> None:
        watch.define("m", "sum", period_type="fixed", period_days=3660)
        watch.threshold("m", "each", 1, is_recurring=True)
        watch.use("ann", 3)
        before = count_queries(browser, page_url("alerts/"))

        for name in ("bob", "cyd", "dan"):
            watch.use(name, 3)

        assert count_queries(browser, page_url("alerts/")) == before


class TestAlert:
    def test_shows_value_before_and_at_the_crossing_and_what_holds_now(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        answer = browser.get(page_url("alerts/1/"))

        page = page_of(answer)
        assert (page.previous_value, page.row.value) == (Decimal(4), Decimal(12))
        assert page.sentence_now.startswith("Fired: 12 reached 10")
        assert "&quot;value_at_cross&quot;: &quot;12&quot;" in text_of(answer)

    def test_shows_which_endpoints_were_told(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        browser.post(page_url("webhooks/new"), {"url": HOOK})
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10)

        [told] = page_of(browser.get(page_url("alerts/1/"))).told

        assert (told.endpoint, told.state, told.attempt_count) == (HOOK, "pending", 0)
        assert page_of(browser.get(told.url)).row.subject_url == page_url("alerts/1/")

    def test_stays_readable_after_threshold_and_metric_are_gone(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        threshold = Threshold.objects.for_organization(crossed.organization).get()
        archive_threshold(threshold=threshold, actor="test", now=crossed.now)
        archive_metric(organization=crossed.organization, metric=crossed.metrics["m"], actor="test", now=crossed.now)

        page = page_of(browser.get(page_url("alerts/1/")))

        assert (page.threshold_url, page.why_url, page.sentence_now) == ("", "", "")
        assert page_of(browser.get(page_url(f"alerts/?threshold={threshold.pk}"))).rows[0].offset == 1
        assert browser.get(page_url("metrics/m/alerts")).status_code == 200

    def test_absent_offset_is_404(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        assert browser.get(page_url("alerts/2/")).status_code == 404
        assert browser.get(page_url(f"alerts/{10**25}/")).status_code == 404


class TestRoles:
    PAGES = (
        "alerts/",
        "alerts/1/",
        "alerts/email",
        "thresholds/",
        "thresholds/{threshold}/",
        "quotas/",
        "quotas/{quota}/",
        "webhooks/",
        "webhooks/{endpoint}/",
        "metrics/m/alerts",
        "customers/{ann}/alerts",
    )
    FORMS = (
        "thresholds/new",
        "thresholds/{threshold}/edit",
        "quotas/new",
        "quotas/{quota}/edit",
        "webhooks/new",
        "webhooks/{endpoint}/edit",
    )
    ACTIONS = (
        "thresholds/{threshold}/archive",
        "quotas/{quota}/delete",
        "webhooks/{endpoint}/switch",
        "webhooks/{endpoint}/rotate",
        "webhooks/{endpoint}/test",
        "webhooks/{endpoint}/delete",
        "webhooks/{endpoint}/deliveries/{delivery}/replay",
    )

    @pytest.fixture
    def ids(self, browser: Client, page_url: PageUrl, crossed: Watch) -> dict[str, int]:
        org = crossed.organization
        browser.post(page_url("quotas/new"), {"metric": "m", "limit": "1", "mode": "hard", "warning_percents": ""})
        browser.post(page_url("webhooks/new"), {"url": HOOK})
        endpoint = WebhookEndpoint.objects.for_organization(org).get()
        browser.post(page_url(f"webhooks/{endpoint.pk}/test"))
        return {
            "threshold": Threshold.objects.for_organization(org).get().pk,
            "quota": Quota.objects.for_organization(org).get().pk,
            "endpoint": endpoint.pk,
            "delivery": Delivery.objects.for_organization(org).get().pk,
            "ann": crossed.customer_id("ann"),
        }

    def test_viewer_sees_all_and_changes_nothing(
        self, viewers_browser: Client, page_url: PageUrl, ids: dict[str, int]
    ) -> None:
        for path in self.PAGES:
            text = text_of(viewers_browser.get(page_url(path.format(**ids))))
            for refused in (*self.FORMS, *self.ACTIONS):
                assert page_url(refused.format(**ids)) not in text, path
        for path in self.FORMS:
            assert viewers_browser.get(page_url(path.format(**ids))).status_code == 403, path
        for path in (*self.FORMS, *self.ACTIONS):
            assert viewers_browser.post(page_url(path.format(**ids))).status_code == 403, path

    def test_actions_take_posts_with_a_token_alone(
        self, browser: Client, page_url: PageUrl, ids: dict[str, int], alice: User
    ) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(alice)
        for path in (*self.FORMS, *self.ACTIONS, "alerts/email", "alerts/email/test"):
            assert strict.post(page_url(path.format(**ids))).status_code == 403, path
        for path in (*self.ACTIONS, "alerts/email/test"):
            assert browser.get(page_url(path.format(**ids))).status_code == 405, path

    def test_every_form_carries_its_token(self, browser: Client, page_url: PageUrl, ids: dict[str, int]) -> None:
        for path in (*self.PAGES, *self.FORMS):
            page = text_of(browser.get(page_url(path.format(**ids))))
            forms = re.findall(r'<form[^>]*method="post".*?</form>', page, re.DOTALL)
            assert forms
            assert all("csrfmiddlewaretoken" in form for form in forms), path

    def test_ids_of_another_organization_are_404(
        self, outsiders_browser: Client, other_org: Organization, ids: dict[str, int], api_key: Any
    ) -> None:
        """In the outsider's own organization: the ids are somebody else's."""
        for path in (*self.PAGES[1:2], *self.PAGES[4:5], *self.PAGES[6:7], *self.PAGES[8:], *self.FORMS, *self.ACTIONS):
            if path.endswith("new"):
                continue
            url = f"/o/{other_org.pk}/{path.format(**ids)}"
            answer = outsiders_browser.post(url) if path in self.ACTIONS else outsiders_browser.get(url)
            assert answer.status_code == 404, path


def test_metric_and_customer_lead_to_their_alerts(browser: Client, page_url: PageUrl, crossed: Watch) -> None:
    customer = f"customers/{crossed.customer_id('ann')}"

    assert f'href="{page_url("metrics/m/alerts")}"' in text_of(browser.get(page_url("metrics/m/")))
    assert f'href="{page_url(f"{customer}/alerts")}"' in text_of(browser.get(page_url(f"{customer}/")))
