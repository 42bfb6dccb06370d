"""The alerts pages: what was crossed and why, thresholds, quotas, webhooks, mail; over real usage and evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from alerts.contexts import log as log_context
from alerts.contexts import quotas as quota_context
from alerts.contexts import thresholds as threshold_context
from alerts.contexts import webhooks as webhook_context
from alerts.forms import filters_text, parse_duration, parse_filters
from alerts.models import Delivery, DeliveryAttempt, EmailSubscription, Quota, Threshold, WebhookEndpoint
from alerts.services.quotas import QuotaDefinition, create_quota
from alerts.services.silence import check_silence
from alerts.services.thresholds import archive_threshold
from config.celery import app as celery_app
from metering.models import Metric
from metering.services.metrics import archive_metric, update_metric
from tests import factories
from tests.alerts.watch import Watch
from tests.pages.conftest import text_of

pytestmark = pytest.mark.django_db(transaction=True)

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]
HOOK = "https://hooks.example.com/in/hush-hush"


@pytest.fixture
def watch(transactional_db: None, org: Organization) -> Watch:
    """Now is the real now: pages look at the current period."""
    return Watch(org, timezone.now())


@pytest.fixture
def crossed(watch: Watch) -> Watch:
    """A cap of 10 on a sum in GB: ann is at 12 by way of 4, bob at 3."""
    watch.define("m", "sum", unit="GB", dimensions=["region"], period_type="fixed", period_days=3660)
    watch.threshold("m", "cap", 10)
    watch.use("ann", 4)
    watch.use("bob", 3)
    watch.use("ann", 8)
    return watch


def page_of(response: Any) -> Any:
    assert response.status_code == 200, response.status_code
    return response.context["page"]


def form_errors(response: Any) -> dict[str, list[str]]:
    return {name: list(messages) for name, messages in page_of(response).form.errors.items()}


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


MINIMAL = {"metric": "m", "code": "cap", "kind": "value", "value": "10"}


class TestThresholdForm:
    @pytest.fixture(autouse=True)
    def metric(self, watch: Watch) -> Metric:
        return watch.define("m", "sum", dimensions=["region"])

    @pytest.mark.parametrize(
        ("form", "value", "filters"),
        [
            ({"kind": "value", "value": "1000.50"}, "1000.5", {}),
            ({"kind": "percent_of_included", "value": "80"}, "80", {}),
            ({"kind": "projected", "value": "0.25", "filters": "region = us | eu"}, "0.25", {"region": ["eu", "us"]}),
            ({"kind": "silence", "value": "1 d 6 h"}, "108000", {}),
        ],
    )
    def test_every_kind_is_kept_as_written(
        self,
        browser: Client,
        page_url: PageUrl,
        org: Organization,
        form: dict[str, str],
        value: str,
        filters: dict[str, list[str]],
    ) -> None:
        factories.make_customer(organization=org, external_id="ann")

        answer = browser.post(page_url("thresholds/new"), MINIMAL | form | {"customer": "ann"})

        threshold = Threshold.objects.for_organization(org).get()
        assert answer.headers["Location"] == page_url(f"thresholds/{threshold.pk}/")
        assert (threshold.kind, threshold.value, threshold.filters) == (form["kind"], Decimal(value), filters)
        assert threshold.customer is not None
        assert threshold.customer.external_id == "ann"
        assert browser.get(answer.headers["Location"]).status_code == 200
        # The form writes it as it was read.
        assert browser.get(page_url(f"thresholds/{threshold.pk}/edit")).status_code == 200

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"code": "Not A Code"}, {"code"}),
            ({"code": ""}, {"code"}),
            ({"code": "cap", "value": "many", "filters": "region"}, {"value", "filters"}),
            ({"value": "0"}, {"value"}),
            ({"value": "1e400"}, {"value"}),
            ({"value": "9" * 80}, {"value"}),
            ({"kind": "silence", "value": "soon"}, {"value"}),
            ({"kind": "silence", "value": "5 s"}, {"value"}),
            ({"kind": "silence", "value": "999999999 d"}, {"value"}),
            ({"kind": "silence", "value": "1 h", "is_recurring": "on"}, {"is_recurring"}),
            ({"kind": "whim"}, {"kind"}),
            ({"filters": "planet = mars"}, {"filters"}),
            ({"filters": "region = a\nregion = b"}, {"filters"}),
            ({"filters": "region ="}, {"filters"}),
            ({"filters": "region = a\x00"}, {"filters"}),
            ({"metric": "none"}, {"metric"}),
            ({"customer": "nobody"}, {"customer"}),
        ],
    )
    def test_refusals_stand_at_their_fields(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, str], fields: set[str]
    ) -> None:
        answer = browser.post(page_url("thresholds/new"), MINIMAL | changes)

        assert set(form_errors(answer)) == fields
        assert not Threshold.objects.for_organization(org).exists()

    def test_only_sums_and_counts_are_projected(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("peak", "max")

        answer = browser.post(page_url("thresholds/new"), MINIMAL | {"metric": "peak", "kind": "projected"})

        assert set(form_errors(answer)) == {"kind"}

    def test_code_that_is_taken_is_told_at_the_code(self, browser: Client, page_url: PageUrl) -> None:
        browser.post(page_url("thresholds/new"), MINIMAL)

        assert set(form_errors(browser.post(page_url("thresholds/new"), MINIMAL))) == {"code"}

    def test_links_from_a_metric_fill_in_what_they_are_about(self, browser: Client, page_url: PageUrl) -> None:
        link = page_of(browser.get(page_url("metrics/m/alerts"))).new_url

        assert '<option value="m" selected>' in text_of(browser.get(link))

    def test_customer_of_another_organization_is_unknown(
        self, browser: Client, page_url: PageUrl, org: Organization, other_org: Organization
    ) -> None:
        factories.make_customer(organization=other_org, external_id="theirs")

        answer = browser.post(page_url("thresholds/new"), MINIMAL | {"customer": "theirs"})

        assert set(form_errors(answer)) == {"customer"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90 s", 90), ("15 min", 900), ("15m", 900), ("6 H", 21_600), ("1d6h", 108_000), (" 2 d ", 172_800)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


def test_filters_survive_the_form() -> None:
    filters = {"region": ["eu", "us"], "a:b": ["x y"]}

    assert parse_filters(filters_text(filters)) == filters


class TestThresholdChanges:
    def test_changed_value_fires_anew(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        threshold = Threshold.objects.for_organization(crossed.organization).get()

        form = {"code": "cap", "kind": "value", "value": "11"}
        browser.post(page_url(f"thresholds/{threshold.pk}/edit"), form)
        crossed.evaluate()

        assert [(told.level, told.value) for told in crossed.told()] == [(10, 12), (11, 12)]

    def test_filters_that_the_form_cannot_write_are_left_alone(
        self, browser: Client, page_url: PageUrl, watch: Watch
    ) -> None:
        watch.define("m", "sum", dimensions=["region"])
        threshold = watch.threshold("m", "cap", 10, filters={"region": ["a | b"]})

        form = {"code": "new", "kind": "value", "value": "10", "filters": ""}
        browser.post(page_url(f"thresholds/{threshold.pk}/edit"), form)

        threshold.refresh_from_db()
        assert (threshold.code, threshold.filters) == ("new", {"region": ["a | b"]})

    def test_archived_is_listed_no_more_and_its_alerts_stay(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        threshold = Threshold.objects.for_organization(crossed.organization).get()

        answer = browser.post(page_url(f"thresholds/{threshold.pk}/archive"))

        assert answer.headers["Location"] == page_url("thresholds/")
        assert page_of(browser.get(page_url("thresholds/"))).rows == []
        assert browser.get(page_url(f"thresholds/{threshold.pk}/")).status_code == 404
        assert len(page_of(browser.get(page_url("alerts/"))).rows) == 1

    def test_declared_by_a_metric_it_is_changed_there_alone(
        self, browser: Client, page_url: PageUrl, org: Organization, watch: Watch
    ) -> None:
        metric = watch.define("m", "sum")
        update_metric(
            organization=org,
            metric=metric,
            changes={"thresholds": [{"code": "hard_cap", "value": "5", "recurring": False}]},
            actor="test",
        )

        [row] = page_of(browser.get(page_url("thresholds/"))).rows

        assert (row.code, row.declared_by, row.declared_url) == ("hard_cap", "metric", page_url("metrics/m/edit"))
        for action in ("edit", "archive"):
            assert browser.post(page_url(f"thresholds/{row.pk}/{action}")).status_code == 409
        assert page_url(f"thresholds/{row.pk}/edit") not in text_of(browser.get(page_url(f"thresholds/{row.pk}/")))


class TestStanding:
    def standing(self, browser: Client, url: str) -> Any:
        [row] = page_of(browser.get(url)).rows
        return row.standing

    def test_counts_the_customers_for_whom_it_fired(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        standing = self.standing(browser, page_url("metrics/m/alerts"))

        assert (standing.label, standing.note, standing.offset) == ("fired", "for 1 of 2 customers", 1)
        assert self.standing(browser, page_url("thresholds/")) == standing

    def test_on_a_customers_page_it_is_that_customers(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        ann, bob = (page_url(f"customers/{crossed.customer_id(name)}/alerts") for name in ("ann", "bob"))

        assert (self.standing(browser, ann).label, self.standing(browser, ann).offset) == ("fired", 1)
        assert (self.standing(browser, bob).label, self.standing(browser, bob).offset) == ("armed", 0)
        assert [row.customer for row in page_of(browser.get(ann)).recent] == ["ann"]
        assert page_of(browser.get(bob)).recent == []

    def test_a_void_arms_it_again_and_the_page_says_so(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum", period_type="fixed", period_days=3660)
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10, idempotency_key="slip")

        watch.void("slip")
        watch.evaluate()

        standing = self.standing(browser, page_url("thresholds/"))
        assert (standing.label, standing.note, standing.offset) == ("armed", "armed again by a void", 1)

    def test_last_periods_alert_is_not_this_periods(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum", period_type="day")
        watch.threshold("m", "cap", 10)
        yesterday = watch.now - timedelta(days=1)
        watch.use("ann", 10, timestamp=yesterday.isoformat())
        assert len(watch.told()) == 1

        assert self.standing(browser, page_url("thresholds/")).label == "armed"

    def test_new_one_is_about_to_be_looked_at(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        assert self.standing(browser, page_url("thresholds/")).label == "new"

    def test_silence_of_the_metric_is_no_customers(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        crossed.threshold("m", "quiet", 3600, kind="silence")

        page = page_of(browser.get(page_url(f"customers/{crossed.customer_id('ann')}/alerts")))

        assert [row.code for row in page.rows] == ["cap"]

    @pytest.mark.parametrize("path", ["thresholds/", "metrics/m/alerts", "customers/{ann}/alerts"])
    def test_cost_does_not_grow_with_thresholds_or_customers(
        self, browser: Client, page_url: PageUrl, crossed: Watch, count_queries: CountQueries, path: str
    ) -> None:
        url = page_url(path.format(ann=crossed.customer_id("ann")))
        before = count_queries(browser, url)

        for number in range(4):
            crossed.threshold("m", f"more_{number}", number + 1, customer="ann" if number % 2 else None)
        crossed.use("ann", 1)
        crossed.use("cyd", 20)

        assert count_queries(browser, url) == before

    def test_pages_hold_every_threshold_once(
        self, browser: Client, page_url: PageUrl, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threshold_context, "PAGE_SIZE", 2)
        watch.define("m", "sum")
        for number in range(5):
            watch.threshold("m", f"t{number}", 1)

        for path in ("thresholds/", "metrics/m/alerts"):
            seen, query = [], ""
            while True:
                page = page_of(browser.get(page_url(path + query)))
                seen += [row.code for row in page.rows]
                if not (query := page.next_url):
                    break
            assert seen == ["t4", "t3", "t2", "t1", "t0"], path


class TestWhy:
    def ask(self, browser: Client, page_url: PageUrl, watch: Watch, customer: str, code: str = "cap") -> Any:
        threshold = Threshold.objects.for_organization(watch.organization).get(code=code)
        return page_of(browser.get(page_url(f"thresholds/{threshold.pk}/"), {"customer": customer}))

    def test_it_fired(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        page = self.ask(browser, page_url, crossed, "ann")

        assert page.answer.badge == "fired"
        assert page.answer.trace.explanation.startswith("Fired: 12 reached 10, told at offset 1.")
        assert [crossing.offset for crossing in page.answer.trace.crossings] == [1]

    def test_it_did_not(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        page = self.ask(browser, page_url, crossed, "bob")

        assert page.answer.badge == "not reached"
        assert page.answer.trace.explanation == "Did not fire: 3 of 10, 7 to go."
        assert page.answer.share == "30.00%"

    def test_a_recurring_one_says_where_it_fires_next(self, browser: Client, page_url: PageUrl, watch: Watch) -> None:
        watch.define("m", "sum", period_type="fixed", period_days=3660)
        watch.threshold("m", "each", 10, is_recurring=True)
        watch.use("ann", 25)

        page = self.ask(browser, page_url, watch, "ann", "each")

        assert (page.answer.next_level, page.answer.share) == (Decimal(30), "83.33%")

    def test_nearest_customers_lead_to_their_answer(self, browser: Client, page_url: PageUrl, crossed: Watch) -> None:
        page = self.ask(browser, page_url, crossed, "")

        assert page.answer is None
        assert [(row.customer, row.value, row.fired) for row in page.nearest] == [("ann", 12, 1), ("bob", 3, 0)]
        assert page_of(browser.get(page.nearest[1].url.removesuffix("#why"))).answer.customer == "bob"

    def test_about_the_wrong_or_an_absent_customer_it_says_so(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        crossed.threshold("m", "anns", 5, customer="ann")

        assert self.ask(browser, page_url, crossed, "nobody").problem == "There is no customer “nobody”."
        assert "watches ann alone" in self.ask(browser, page_url, crossed, "bob", "anns").problem
        assert self.ask(browser, page_url, crossed, "", "anns").answer.customer == "ann"

    def test_without_a_plan_there_is_nothing_to_compare(
        self, browser: Client, page_url: PageUrl, crossed: Watch
    ) -> None:
        crossed.threshold("m", "ninety", 90, kind="percent_of_included")
        crossed.evaluate()

        page = self.ask(browser, page_url, crossed, "ann", "ninety")

        assert page.answer.badge == "nothing to compare"


class TestQuotas:
    @pytest.fixture
    def limited(self, watch: Watch) -> Watch:
        """A limit of 100 for everybody; ann has used 80, bob 120."""
        watch.define("m", "sum", unit="GB", period_type="fixed", period_days=3660)
        watch.define("n", "sum", period_type="fixed", period_days=3660)
        watch.use("ann", 80)
        watch.use("bob", 120)
        self.limit(watch, "100")
        return watch

    def limit(self, watch: Watch, limit: str, *, customer: str | None = None, metric: str = "m") -> Quota:
        found = watch.organization.customers.filter(external_id=customer).first()
        definition = QuotaDefinition(limit=Decimal(limit), customer=found)
        return create_quota(
            organization=watch.organization,
            metric=watch.metrics[metric],
            definition=definition,
            actor="test",
            now=watch.now,
        )

    def test_is_created_with_its_warnings(
        self, browser: Client, page_url: PageUrl, watch: Watch, org: Organization
    ) -> None:
        watch.define("m", "sum")
        factories.make_customer(organization=org, external_id="ann")
        form = {"metric": "m", "customer": "ann", "limit": "10.5", "mode": "soft", "grace": "2"}

        answer = browser.post(page_url("quotas/new"), form | {"warning_percents": "90 %, 50"})

        quota = Quota.objects.for_organization(org).get()
        assert answer.headers["Location"] == page_url(f"quotas/{quota.pk}/")
        assert (quota.limit, quota.mode, quota.grace) == (Decimal("10.5"), "soft", Decimal(2))
        assert quota.warning_percents == [50, 90]
        rows = page_of(browser.get(page_url("thresholds/"))).rows
        assert {(row.code, row.declared_by) for row in rows} == {("quota_50", "quota"), ("quota_90", "quota")}
        assert browser.get(rows[0].declared_url).status_code == 200

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"limit": "-1"}, {"limit"}),
            ({"limit": "lots"}, {"limit"}),
            ({"limit": "9" * 81}, {"limit"}),
            ({"limit": "NaN"}, {"limit"}),
            ({"grace": "1"}, {"grace"}),
            ({"mode": "strict"}, {"mode"}),
            ({"warning_percents": "0"}, {"warning_percents"}),
            ({"warning_percents": "80.5"}, {"warning_percents"}),
            ({"warning_percents": "1 2 3 4 5 6 7 8 9"}, {"warning_percents"}),
            ({"customer": "nobody"}, {"customer"}),
            ({"metric": "low"}, {"metric"}),
            ({"metric": "none"}, {"metric"}),
        ],
    )
    def test_refusals_stand_at_their_fields(
        self, browser: Client, page_url: PageUrl, watch: Watch, changes: dict[str, str], fields: set[str]
    ) -> None:
        watch.define("m", "sum")
        watch.define("low", "min")

        answer = browser.post(page_url("quotas/new"), {"metric": "m", "limit": "10", "mode": "hard"} | changes)

        assert set(form_errors(answer)) == fields
        assert not Quota.objects.for_organization(watch.organization).exists()

    def test_second_one_on_the_same_is_refused(self, browser: Client, page_url: PageUrl, limited: Watch) -> None:
        answer = browser.post(page_url("quotas/new"), {"metric": "m", "limit": "10", "mode": "hard"})

        assert "already" in form_errors(answer)["__all__"][0]

    def test_is_changed_and_deleted(self, browser: Client, page_url: PageUrl, limited: Watch) -> None:
        quota = Quota.objects.for_organization(limited.organization).get()
        url = page_url(f"quotas/{quota.pk}/")
        assert 'value="100"' in text_of(browser.get(f"{url}edit"))

        assert set(form_errors(browser.post(f"{url}edit", {"limit": "5", "mode": "hard", "grace": "1"}))) == {"grace"}
        browser.post(f"{url}edit", {"limit": "", "mode": "warn", "grace": "", "warning_percents": ""})

        quota.refresh_from_db()
        assert (quota.limit, quota.mode, quota.grace, quota.warning_percents) == (None, "warn", 0, [])
        assert page_of(browser.get(url)).row.limit == "unlimited"

        assert browser.post(f"{url}delete").headers["Location"] == page_url("quotas/")
        assert not Quota.objects.for_organization(limited.organization).exists()

    def test_shows_who_uses_most_of_it_but_not_who_has_their_own(
        self, browser: Client, page_url: PageUrl, limited: Watch
    ) -> None:
        quota = Quota.objects.for_organization(limited.organization).get()
        url = page_url(f"quotas/{quota.pk}/")

        uses = [
            (row.customer, row.use.used, row.use.level, row.use.share) for row in page_of(browser.get(url)).greatest
        ]
        assert uses == [("bob", 120, "exceeded", "100.00%"), ("ann", 80, "warning", "80.00%")]

        own = self.limit(limited, "1000", customer="bob")
        assert [row.customer for row in page_of(browser.get(url)).greatest] == ["ann"]
        use = page_of(browser.get(page_url(f"quotas/{own.pk}/"))).row.use
        assert (use.used, use.level, use.share) == (120, "ok", "12.00%")

    def test_on_a_customers_page_the_own_one_takes_the_place_of_the_metrics(
        self, browser: Client, page_url: PageUrl, limited: Watch
    ) -> None:
        self.limit(limited, "1000", customer="bob")
        ann, bob = (
            page_of(browser.get(page_url(f"customers/{limited.customer_id(name)}/alerts"))) for name in ("ann", "bob")
        )

        assert [(row.limit, row.use.used) for row in ann.quotas] == [("100 GB", 80)]
        assert [(row.limit, row.use.used) for row in bob.quotas] == [("1\u202f000 GB", 120)]
        # Nor do the warnings of the metric's speak of bob.
        assert {row.customer for row in ann.rows} == {""}
        assert {row.customer for row in bob.rows} == {"bob"}
        metric = page_of(browser.get(page_url("metrics/m/alerts")))
        assert [row.customer for row in metric.quotas] == ["", "bob"]

    def test_cost_of_a_page_has_an_upper_limit(
        self,
        browser: Client,
        page_url: PageUrl,
        limited: Watch,
        count_queries: CountQueries,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(quota_context, "PAGE_SIZE", 2)
        for name in ("cyd", "dan"):
            limited.use(name, 1)
            self.limit(limited, "10", customer=name)
        before = count_queries(browser, page_url("quotas/"))

        for name in ("eve", "fay"):
            limited.use(name, 1)
            self.limit(limited, "10", customer=name)

        assert count_queries(browser, page_url("quotas/")) == before
        seen, query = [], ""
        while True:
            page = page_of(browser.get(page_url(f"quotas/{query}")))
            seen += [row.customer for row in page.rows]
            if not (query := page.next_url):
                break
        assert seen == ["fay", "eve", "dan", "cyd", ""]


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
        viewers_browser.post(url, {"frequency": ""})
        assert not EmailSubscription.objects.for_organization(org).exists()

    def test_unknown_frequency_is_refused(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        answer = browser.post(page_url("alerts/email"), {"frequency": "hourly please"})

        assert set(form_errors(answer)) == {"frequency"}
        assert not EmailSubscription.objects.for_organization(org).exists()

    def test_test_goes_to_the_visitor(
        self, viewers_browser: Client, page_url: PageUrl, bob: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(celery_app.conf, "task_always_eager", True)

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
