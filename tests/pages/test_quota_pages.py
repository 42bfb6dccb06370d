"""Quotas: defining them, and what is used of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import Organization
from alerts.contexts import quotas as quota_context
from alerts.models import Quota
from alerts.services.quotas import QuotaDefinition, create_quota
from tests import factories
from tests.alerts.watch import Watch
from tests.pages.conftest import form_errors, page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)

PageUrl = Callable[[str], str]
CountQueries = Callable[[Client, str], int]


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
