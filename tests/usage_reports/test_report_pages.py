"""Pages of scheduled reports: the list, the form, one with what was sent, its files, and the link that stops it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import signing
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from metering.models import Metric
from tests.pages.conftest import (  # noqa: F401  (fixtures)
    browser,
    count_queries,
    form_errors,
    make_metric,
    noon,
    outsiders_browser,
    page_of,
    page_url,
    send,
    storage,
    text_of,
    viewers_browser,
)
from usage_reports.models import Report, ReportOptOut, ReportRun
from usage_reports.queries import list_recipients
from usage_reports.services.opt_outs import SALT, unsubscribe_url
from usage_reports.services.reports import ReportDefinition, create_report
from usage_reports.services.runs import request_run, send_run

pytestmark = pytest.mark.django_db

Pages = Callable[[str], str]


@pytest.fixture
def report(org: Organization, storage: Metric) -> Report:  # noqa: F811
    """Yesterday's storage by region, on Mondays: 15 GB in eu, 21 in us."""
    return save(org, storage)


def save(org: Organization, metric: Metric, **fields: Any) -> Report:
    values = {"name": "Storage by region", "group_by": ["region"], "range_name": "yesterday", **fields}
    return create_report(
        organization=org,
        metric=metric,
        definition=ReportDefinition(recipients=["ann@out.test"], **values),
        actor="test",
        now=timezone.now(),
    )


def form_of(**fields: Any) -> dict[str, Any]:
    return {
        "name": "Weekly storage",
        "group_by": ["region", "customer"],
        "filters": "region = eu | us",
        "range_name": "last_week",
        "granularity": "breakdown",
        "mode": "incremental",
        "frequency": "weekly",
        "weekday": "friday",
        "day_of_month": "1",
        "hour": "18",
        "zone": "Europe/Berlin",
        "recipients": "ann@out.test\nBen@Out.test, cyd@out.test",
        "customer": "",
        **fields,
    }


def sent(report: Report) -> ReportRun:
    run = request_run(report=report, actor="test", now=timezone.now())
    send_run(run_id=run.pk, now=run.due_at)
    run.refresh_from_db()
    return run


class TestList:
    def test_empty_it_says_what_comes_first(self, browser: Client, page_url: Pages, make_metric: Any) -> None:  # noqa: F811
        assert "Nothing is metered yet" in text_of(browser.get(page_url("reports/")))
        make_metric("storage")
        text = text_of(browser.get(page_url("reports/")))

        assert "Nothing is sent yet" in text
        assert page_url("reports/new") in text

    def test_a_row_says_what_when_and_how_it_went(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        report: Report,
    ) -> None:
        sent(report)

        [row] = page_of(browser.get(page_url("reports/"))).rows

        assert (row.name, row.metric, row.shape) == ("Storage by region", "Storage", "by region")
        assert (row.range_label, row.schedule) == ("yesterday", "every Monday at 07:00")
        assert (row.recipient_count, row.last_run.state) == (1, "sent")

    def test_viewers_look_and_change_nothing(
        self,
        viewers_browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        report: Report,
    ) -> None:
        assert "New report" not in text_of(viewers_browser.get(page_url("reports/")))
        text = text_of(viewers_browser.get(page_url(f"reports/{report.pk}/")))
        assert "Send now" not in text
        assert "Delete" not in text
        assert viewers_browser.get(page_url("reports/new")).status_code == 403
        assert viewers_browser.get(page_url(f"reports/{report.pk}/edit")).status_code == 403
        for action in ("send", "switch", "delete", "edit"):
            assert viewers_browser.post(page_url(f"reports/{report.pk}/{action}")).status_code == 403

        assert not ReportRun.objects.for_organization(report.organization_id).exists()

    def test_outsiders_find_nothing(
        self,
        outsiders_browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        other_org: Organization,
        report: Report,
    ) -> None:
        run = sent(report)
        for path in ("reports/", f"reports/{report.pk}/", f"reports/{report.pk}/runs/{run.pk}/download"):
            assert outsiders_browser.get(page_url(path)).status_code == 404
            assert outsiders_browser.get(f"/o/{other_org.pk}/{path}").status_code == (
                200 if path == "reports/" else 404
            )

    def test_queries_do_not_grow_with_the_reports(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
        count_queries: Callable[[Client, str], int],  # noqa: F811
    ) -> None:
        sent(save(org, storage))
        with_one = count_queries(browser, page_url("reports/"))
        for number in range(5):
            sent(save(org, storage, name=f"Report {number}"))

        assert count_queries(browser, page_url("reports/")) == with_one

    def test_further_reports_are_on_further_pages(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
    ) -> None:
        for number in range(31):
            save(org, storage, name=f"Report {number}")

        first = page_of(browser.get(page_url("reports/")))
        second = page_of(browser.get(page_url("reports/") + first.next_url))

        assert (len(first.rows), first.rows[0].name, first.first_url) == (30, "Report 30", "")
        assert ([row.name for row in second.rows], second.next_url, second.first_url) == (["Report 0"], "", "?")


class TestForm:
    def test_it_begins_with_the_metric(self, browser: Client, page_url: Pages, storage: Metric) -> None:  # noqa: F811
        first = browser.get(page_url("reports/new"))
        assert [value for value, _ in page_of(first).form.fields["metric"].choices] == ["storage"]
        second = page_of(browser.get(page_url("reports/new?metric=storage")))

        assert [value for value, _ in second.form.fields["group_by"].choices] == ["customer", "region", "tier"]
        assert browser.get(page_url("reports/new?metric=nothing")).status_code == 404

    def test_an_address_can_fill_it_in(self, browser: Client, page_url: Pages, storage: Metric) -> None:  # noqa: F811
        asked = "customer=acme&group_by=region&group_by=tier&granularity=day&mode=rolling_30d"
        form = page_of(
            browser.get(page_url(f"reports/new?metric=storage&{asked}&filter[region]=eu&filter[region]=us&filter[x]=y"))
        ).form

        assert {name: form[name].value() for name in ("customer", "group_by", "granularity", "mode", "filters")} == {
            "customer": "acme",
            "group_by": ["region", "tier"],
            "granularity": "day",
            "mode": "rolling_30d",
            "filters": "region = eu | us",
        }

    def test_saved_it_is_what_was_typed(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
    ) -> None:
        answer = browser.post(page_url("reports/new?metric=storage"), form_of(customer="acme"))

        report = Report.objects.for_organization(org).get()
        assert (answer.status_code, answer["Location"]) == (302, page_url(f"reports/{report.pk}/"))
        assert (report.name, report.group_by, report.filters) == (
            "Weekly storage",
            ["region", "customer"],
            {"region": ["eu", "us"]},
        )
        assert (report.range_name, report.granularity, report.mode) == ("last_week", "", "incremental")
        assert (report.frequency, report.weekday, report.hour, report.zone) == ("weekly", 4, 18, "Europe/Berlin")
        assert report.customer is not None
        assert report.customer.external_id == "acme"
        addresses = [recipient.email for recipient in list_recipients(report=report)]
        assert addresses == ["ann@out.test", "ben@out.test", "cyd@out.test"]
        assert "every Friday at 18:00" in text_of(browser.get(answer["Location"]))

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"name": ""}, "name"),
            ({"group_by": ["customer", "region", "tier", "planet"]}, "group_by"),
            ({"filters": "planet = mars"}, "filters"),
            ({"filters": "region"}, "filters"),
            ({"recipients": "nobody"}, "recipients"),
            ({"recipients": " , "}, "recipients"),
            ({"mode": "rolling_30d"}, "mode"),
            ({"mode": "rolling_30d", "granularity": "hour"}, "mode"),
            ({"frequency": "monthly", "day_of_month": "32"}, "day_of_month"),
            ({"customer": "nobody"}, "customer"),
            ({"hour": "24"}, "hour"),
            ({"zone": "Mars/Olympus"}, "zone"),
        ],
        ids=str,
    )
    def test_a_refusal_stands_at_its_field(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
        change: dict[str, Any],
        field: str,
    ) -> None:
        answer = browser.post(page_url("reports/new?metric=storage"), form_of(**change))

        assert list(form_errors(answer)) == [field]
        assert not Report.objects.for_organization(org).exists()

    def test_edited_it_shows_what_is_saved_and_saves_what_changes(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        report: Report,
    ) -> None:
        url = page_url(f"reports/{report.pk}/edit")
        form = page_of(browser.get(url)).form
        initial = {name: form[name].value() for name in form.fields if name not in {"filters"}}
        assert (initial["group_by"], initial["weekday"], initial["recipients"]) == (
            ["region"],
            "monday",
            "ann@out.test",
        )

        assert browser.post(url, {**initial, "filters": "", "hour": "9"}).status_code == 302

        report.refresh_from_db()
        assert (report.hour, report.name, report.group_by) == (9, "Storage by region", ["region"])

    def test_filters_that_the_form_cannot_write_stay(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
    ) -> None:
        report = save(org, storage, filters={"region": ["eu", None]})
        url = page_url(f"reports/{report.pk}/edit")
        assert page_of(browser.get(url)).form.fields["filters"].disabled

        browser.post(url, form_of(filters="region = us"))

        report.refresh_from_db()
        assert (report.filters, report.name) == ({"region": ["eu", None]}, "Weekly storage")


class TestReport:
    def test_the_history_tells_what_was_sent_and_what_was_not(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        report: Report,
    ) -> None:
        assert "Nothing yet." in text_of(browser.get(page_url(f"reports/{report.pk}/")))
        run = sent(report)
        ReportRun.objects.create(
            organization_id=report.organization_id,
            report=report,
            due_at=run.due_at - timedelta(days=7),
            next_attempt_at=run.due_at,
            state="failed",
            error="550 <nobody>",
        )

        answer = browser.get(page_url(f"reports/{report.pk}/"))

        yesterday = timezone.now() - timedelta(days=1)
        failed, first = page_of(answer).runs
        assert (first.state, first.is_manual, first.row_count, first.days) == (
            "sent",
            True,
            2,
            [f"{yesterday:%Y-%m-%d}"],
        )
        assert (failed.state, failed.error) == ("failed", "550 <nobody>")
        assert "550 &lt;nobody&gt;" in text_of(answer)

    def test_recipients_are_told_apart(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
        alice: User,
        bob: User,
    ) -> None:
        definition = ReportDefinition(name="All", recipients=[alice.email, bob.email, "ann@out.test", "ben@out.test"])
        report = create_report(
            organization=org, metric=storage, definition=definition, actor="test", now=timezone.now()
        )
        User.objects.filter(pk=bob.pk).update(is_active=False)
        ReportOptOut.objects.create(organization=org, report=report, email="ben@out.test")

        rows = page_of(browser.get(page_url(f"reports/{report.pk}/"))).recipients

        assert {row.email: (row.note, row.is_told) for row in rows} == {
            alice.email: ("member", True),
            bob.email: ("cannot sign in any more", False),
            "ann@out.test": ("outside", True),
            "ben@out.test": ("has stopped it", False),
        }

    def test_buttons_send_pause_resume_and_delete(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        report: Report,
    ) -> None:
        here = page_url(f"reports/{report.pk}/")
        assert browser.post(here + "send").status_code == 302
        assert browser.post(here + "send").status_code == 429
        assert browser.post(here + "switch", {"paused": "yes"})["Location"] == here
        assert "Resume" in text_of(browser.get(here))
        browser.post(here + "switch", {"paused": "no"})
        report.refresh_from_db()
        assert not report.is_paused
        assert browser.post(here + "delete")["Location"] == page_url("reports/")

        assert browser.get(here).status_code == 404

    def test_files_of_a_run_and_of_now(self, browser: Client, page_url: Pages, report: Report) -> None:  # noqa: F811
        run = sent(report)

        for path in ("download", f"runs/{run.pk}/download", f"runs/{run.pk}/download?format=csv"):
            answer = browser.get(page_url(f"reports/{report.pk}/{path}"))
            rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode(), newline="")))
            assert {row["group.region"]: row["value"] for row in rows} == {"eu": "15", "us": "21"}
        ndjson = browser.get(page_url(f"reports/{report.pk}/download?format=ndjson"))
        assert ndjson["Content-Type"] == "application/x-ndjson"
        assert b"".join(ndjson.streaming_content).count(b"\n") == 2
        assert browser.get(page_url(f"reports/{report.pk}/download?format=xlsx")).status_code == 422
        assert browser.get(page_url(f"reports/{report.pk}/runs/{run.pk + 1}/download")).status_code == 404

    def test_a_run_of_another_report_is_not_found_under_this_one(
        self,
        browser: Client,  # noqa: F811
        page_url: Pages,  # noqa: F811
        org: Organization,
        storage: Metric,  # noqa: F811
        report: Report,
    ) -> None:
        run = sent(save(org, storage, name="Other"))

        assert browser.get(page_url(f"reports/{report.pk}/runs/{run.pk}/download")).status_code == 404


class TestUnsubscribing:
    @pytest.fixture
    def link(self, report: Report) -> str:
        [recipient] = list_recipients(report=report)
        return "/" + unsubscribe_url(recipient).split("/", 3)[3]

    def test_looking_changes_nothing_and_a_post_stops_it(self, client: Client, link: str, report: Report) -> None:
        text = text_of(client.get(link))
        assert "ann@out.test" in text
        assert not ReportOptOut.objects.for_organization(report.organization_id).exists()
        assert client.post(link).status_code == 302

        assert "No more mails" in text_of(client.get(link))
        assert ReportOptOut.objects.for_organization(report.organization_id).get().email == "ann@out.test"
        client.post(link, {"again": "yes"})
        assert not ReportOptOut.objects.for_organization(report.organization_id).exists()

    def test_a_mail_program_needs_no_cookie(self, link: str, report: Report) -> None:
        program = Client(enforce_csrf_checks=True)

        assert program.post(link, {"List-Unsubscribe": "One-Click"}).status_code == 302

        assert ReportOptOut.objects.for_organization(report.organization_id).count() == 1

    def test_only_our_own_links_do_anything(self, client: Client, link: str, report: Report) -> None:
        forged = [
            link[:-1] + ("A" if link[-1] != "A" else "B"),
            f"/reports/unsubscribe/{signing.dumps([report.pk, 'ben@out.test'], salt='other')}",
            f"/reports/unsubscribe/{signing.dumps([report.pk + 1000, 'ann@out.test'], salt=SALT)}",
            "/reports/unsubscribe/x",
        ]
        for path in forged:
            assert client.get(path).status_code == 404
            assert client.post(path).status_code == 404

        assert not ReportOptOut.objects.for_organization(report.organization_id).exists()
