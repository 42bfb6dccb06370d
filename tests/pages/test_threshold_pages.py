"""Thresholds: defining them, where they stand, and why one fired or did not; over real evaluation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from alerts.contexts import thresholds as threshold_context
from alerts.forms import parse_duration
from alerts.models import Threshold
from metering.forms import filters_text, parse_filters
from metering.models import Metric
from metering.services.metrics import update_metric
from tests import factories
from tests.alerts.watch import Watch
from tests.pages.conftest import form_errors, page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]


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

        standing = self.standing(browser, page_url("thresholds/"))
        assert (standing.label, standing.offset) == ("armed", 0)

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

        rows = {row.code: row for row in page_of(browser.get(page_url("thresholds/"))).rows}
        standing = rows["ninety"].standing
        assert (standing.label, standing.note) == ("nothing to compare", "no plan includes the metric")
        page = self.ask(browser, page_url, crossed, "ann", "ninety")

        assert page.answer.badge == "nothing to compare"
