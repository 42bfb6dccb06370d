"""Scheduled reports on their way: made when due, mailed once, tried again, given up; whoever dies in between."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from signal import SIGKILL
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.db import connection
from psycopg.conninfo import make_conninfo

from accounts.models import AuditEntry, Membership, Organization, User
from common.errors import InvalidInput, TooManyRequests
from metering.models import Metric
from tests import factories
from tests.alerts.mail_server import MailServer, mail_server
from tests.metering.meter import Meter, utc
from tests.scenarios.racing import race
from usage_reports import tasks
from usage_reports.domain import RETRY_PAUSES, RunState
from usage_reports.models import Report, ReportDelivery, ReportRun
from usage_reports.queries import get_report, list_run_ids_to_send
from usage_reports.services import mails, runs
from usage_reports.services.opt_outs import find_mailing_place, opt_in, opt_out
from usage_reports.services.reports import ReportDefinition, create_report, update_report
from usage_reports.services.runs import make_due_runs, prune_runs, request_run, send_run

Outbox = list[EmailMultiAlternatives]
SAVED_AT = utc(2026, 11, 19, 12)
# A Friday; what the reports of these tests are due at.
DUE_AT = utc(2026, 11, 20, 7)


@pytest.fixture
def meter(org: Organization) -> Meter:
    """Fifteen GB used on the 19th, ten in eu and five in us; a hundred on the morning of the 20th."""
    meter = Meter(org, utc(2026, 11, 20, 6, 30))
    meter.define("storage", "sum", unit="GB", dimensions=["region"])
    meter.send_all(
        *(
            {"customer": customer, "type": "storage", "value": value, "timestamp": at, "properties": {"region": region}}
            for customer, value, at, region in (
                ("ann", 4, "2026-11-19T08:00:00Z", "eu"),
                ("bob", 6, "2026-11-19T23:59:59Z", "eu"),
                ("ann", 5, "2026-11-19T12:00:00Z", "us"),
                ("ann", 100, "2026-11-20T06:00:00Z", "eu"),
            )
        )
    )
    return meter


def save(meter: Meter, *recipients: str, now: datetime = SAVED_AT, **fields: Any) -> Report:
    """Save a daily report of yesterday at seven."""
    values = {"frequency": "daily", "range_name": "yesterday", "group_by": ["region"], **fields}
    return create_report(
        organization=meter.organization,
        metric=meter.metrics["storage"],
        definition=ReportDefinition(name="Storage", recipients=recipients or ("ann@out.test",), **values),
        actor="test",
        now=now,
    )


def send_due(now: datetime) -> list[RunState | None]:
    """Do what one sweep and its workers do."""
    make_due_runs(now=now)
    return [send_run(run_id=run_id, now=now) for run_id in list_run_ids_to_send(now=now, limit=100)]


def runs_of(report: Report) -> list[ReportRun]:
    return list(ReportRun.objects.for_organization(report.organization_id).filter(report=report).order_by("pk"))


def rows_of(mail: EmailMultiAlternatives) -> list[dict[str, str]]:
    [(_, content, _)] = mail.attachments
    text = content if isinstance(content, str) else content.decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.django_db
class TestMail:
    def test_tells_of_the_range_before_the_due_time(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)

        assert send_due(DUE_AT + timedelta(seconds=40)) == [RunState.SENT]

        [mail] = mailoutbox
        assert mail.to == ["ann@out.test"]
        assert mail.subject == "Storage: 2026-11-19 (Initech)"
        assert [(row["metric"], row["group.region"], row["value"], row["count"]) for row in rows_of(mail)] == [
            ("storage", "eu", "10", "2"),
            ("storage", "us", "5", "1"),
        ]
        assert mail.attachments[0][0] == "usage-storage-2026-11-19-2026-11-20.csv"
        for text in (str(mail.body), str(mail.alternatives[0][0])):
            assert "15 GB" in text
            assert "3 events" in text
            assert "2 rows" in text
            assert f"/o/{report.organization_id}/reports/{report.pk}/" in text
        [run] = runs_of(report)
        assert (run.due_at, run.state, run.row_count, run.is_attached, run.error) == (DUE_AT, "sent", 2, True, "")
        assert (run.range_start, run.range_end) == (utc(2026, 11, 19), utc(2026, 11, 20))
        assert run.sent_at is not None

    def test_a_series_has_a_row_per_bucket_in_the_reports_zone(self, meter: Meter, mailoutbox: Outbox) -> None:
        save(
            meter,
            group_by=[],
            granularity="day",
            mode="month_to_date",
            range_name="last_7_days",
            zone="Asia/Tokyo",
            hour=16,
        )

        send_due(DUE_AT)

        # 16:00 in Tokyo is 07:00 UTC. Its 19th of November ends at 15:00 UTC: bob's six are of the 20th.
        [mail] = mailoutbox
        assert mail.subject == "Storage: 2026-11-13 to 2026-11-19 (Initech)"
        assert [(row["bucket_start"], row["value"]) for row in rows_of(mail)][-2:] == [
            ("2026-11-17T15:00:00Z", "0"),
            ("2026-11-18T15:00:00Z", "9"),
        ]
        assert len(rows_of(mail)) == 7

    def test_filters_and_customer_narrow_it(self, meter: Meter, mailoutbox: Outbox) -> None:
        ann = meter.organization.customers.get(external_id="ann")
        save(meter, customer=ann, filters={"region": ["eu", None]}, range_name="month_to_date", group_by=[])

        send_due(DUE_AT)

        [row] = rows_of(mailoutbox[0])
        assert (row["customer"], row["value"]) == ("ann", "104")
        assert mailoutbox[0].subject == "Storage: 2026-11-01 to 2026-11-20 07:00 (Initech)"
        assert "storage of ann" in str(mailoutbox[0].body)

    def test_everybody_gets_a_mail_of_their_own_with_a_link_of_their_own(
        self, meter: Meter, alice: User, mailoutbox: Outbox
    ) -> None:
        save(meter, "Ann@Out.test", alice.email)

        send_due(DUE_AT)

        assert sorted(mail.to for mail in mailoutbox) == [[alice.email], ["ann@out.test"]]
        links = {str(mail.extra_headers["List-Unsubscribe"]) for mail in mailoutbox}
        assert len(links) == 2
        for mail in mailoutbox:
            assert mail.extra_headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
            assert mail.extra_headers["List-Unsubscribe"].strip("<>") in str(mail.body)

    def test_a_file_that_is_too_large_is_linked_to(
        self, meter: Meter, mailoutbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mails, "MAX_ATTACHMENT_BYTES", 200)
        report = save(meter)

        assert send_due(DUE_AT) == [RunState.SENT]

        [mail], [run] = mailoutbox, runs_of(report)
        assert mail.attachments == []
        assert (run.row_count, run.is_attached) == (None, False)
        for text in (str(mail.body), str(mail.alternatives[0][0])):
            assert "so it is not attached" in text
            assert f"/reports/{report.pk}/runs/{run.pk}/download" in text
            assert "15 GB" in text

    def test_a_file_at_exactly_the_limit_is_attached(
        self, meter: Meter, mailoutbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(meter)
        send_due(DUE_AT)
        size = len(mailoutbox[0].attachments[0][1])

        monkeypatch.setattr(mails, "MAX_ATTACHMENT_BYTES", size)
        assert mails.write_report_mail(runs_report(meter), due_at=DUE_AT).content is not None
        monkeypatch.setattr(mails, "MAX_ATTACHMENT_BYTES", size - 1)
        assert mails.write_report_mail(runs_report(meter), due_at=DUE_AT).content is None

    def test_names_with_line_ends_or_markup_do_no_harm(self, meter: Meter, mailoutbox: Outbox) -> None:
        Organization.objects.filter(pk=meter.organization.pk).update(name="<b>\r\nBcc: all@example.test")
        save(meter)

        send_due(DUE_AT)

        [mail] = mailoutbox
        assert mail.subject == "Storage: 2026-11-19 (<b> Bcc: all@example.test)"
        assert "&lt;b&gt;" in str(mail.alternatives[0][0])
        assert mail.recipients() == ["ann@out.test"]

    def test_what_cannot_be_read_any_more_fails_and_says_why(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)
        Metric.objects.for_organization(meter.organization).update(dimensions=[])

        assert send_due(DUE_AT) == [RunState.FAILED]

        [run] = runs_of(report)
        assert run.error == "group_by: The metric does not declare 'region'."
        assert (mailoutbox, send_due(DUE_AT + timedelta(hours=1))) == ([], [])


def runs_report(meter: Meter) -> Report:
    report = Report.objects.for_organization(meter.organization).get()
    return get_report(organization=meter.organization, report_id=report.pk)


@pytest.mark.django_db
class TestDueTimes:
    def test_not_a_moment_before_and_not_twice(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)

        assert make_due_runs(now=DUE_AT - timedelta(microseconds=1)) == 0
        assert make_due_runs(now=DUE_AT) == 1
        assert make_due_runs(now=DUE_AT) == 0

        assert [run.due_at for run in runs_of(report)] == [DUE_AT]
        assert runs_report(meter).next_due_at == utc(2026, 11, 21, 7)

    def test_after_days_without_workers_the_newest_comes_alone(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)

        assert send_due(utc(2026, 11, 23, 9)) == [RunState.SENT]

        assert [run.due_at for run in runs_of(report)] == [utc(2026, 11, 23, 7)]
        assert mailoutbox[0].subject == "Storage: 2026-11-22 (Initech)"
        assert runs_report(meter).next_due_at == utc(2026, 11, 24, 7)

    def test_a_run_that_exists_is_not_made_again(self, meter: Meter) -> None:
        report = save(meter)
        make_due_runs(now=DUE_AT)
        Report.objects.for_organization(meter.organization).update(next_due_at=DUE_AT)  # as before a crash

        make_due_runs(now=DUE_AT + timedelta(hours=1))

        assert [run.due_at for run in runs_of(report)] == [DUE_AT]

    def test_a_newer_one_takes_the_place_of_one_that_waits(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)
        make_due_runs(now=DUE_AT)

        assert send_due(DUE_AT + timedelta(days=1)) == [RunState.SENT]

        assert [(run.state, run.error) for run in runs_of(report)] == [
            ("skipped", "A newer one came due before this could be sent."),
            ("sent", ""),
        ]
        assert len(mailoutbox) == 1

    def test_it_follows_its_organization_into_another_zone(self, meter: Meter) -> None:
        follows, own = save(meter), save(meter, zone="Europe/Berlin")
        Organization.objects.filter(pk=meter.organization.pk).update(zone="Asia/Tokyo")

        make_due_runs(now=SAVED_AT)

        due = dict(Report.objects.for_organization(meter.organization).values_list("pk", "next_due_at"))
        assert due == {follows.pk: utc(2026, 11, 19, 22), own.pk: utc(2026, 11, 20, 6)}

    def test_paused_it_is_never_due_and_resumed_it_looks_ahead(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter)
        make_due_runs(now=DUE_AT)
        update_report(report=report, changes={"is_paused": True}, actor="test", now=DUE_AT)

        assert send_due(utc(2026, 11, 22, 8)) == []
        assert [(run.state, run.error) for run in runs_of(report)] == [
            ("skipped", "The report was paused before this could be sent.")
        ]
        update_report(report=report, changes={"is_paused": False}, actor="test", now=utc(2026, 11, 22, 8))
        assert send_due(utc(2026, 11, 23, 6, 59)) == []
        assert send_due(utc(2026, 11, 23, 7)) == [RunState.SENT]

    def test_a_changed_schedule_counts_from_now_on(self, meter: Meter) -> None:
        report = save(meter)

        changed = update_report(report=report, changes={"hour": 9}, actor="test", now=utc(2026, 11, 19, 8))
        assert changed.next_due_at == utc(2026, 11, 19, 9)
        renamed = update_report(report=report, changes={"name": "Other"}, actor="test", now=utc(2026, 11, 25))
        assert renamed.next_due_at == utc(2026, 11, 19, 9)


@pytest.mark.django_db
class TestByHand:
    def test_it_is_sent_whatever_the_schedule_says(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter, is_paused=True)

        run = request_run(report=report, actor="user:ann", now=DUE_AT + timedelta(hours=3))
        assert send_run(run_id=run.pk, now=DUE_AT + timedelta(hours=3)) == RunState.SENT

        assert len(mailoutbox) == 1
        assert runs_report(meter).is_paused
        assert AuditEntry.objects.for_organization(meter.organization).filter(action="report.sent").count() == 1

    def test_once_a_minute_at_most(self, meter: Meter) -> None:
        report = save(meter)
        request_run(report=report, actor="test", now=DUE_AT)

        with pytest.raises(TooManyRequests) as refused:
            request_run(report=report, actor="test", now=DUE_AT + timedelta(seconds=59, milliseconds=500))
        assert refused.value.headers == {"Retry-After": "1"}
        request_run(report=report, actor="test", now=DUE_AT + timedelta(minutes=1))

        assert len(runs_of(report)) == 2


@pytest.mark.django_db
class TestRecipients:
    def test_who_stopped_it_gets_nothing_until_they_take_it_back(self, meter: Meter, mailoutbox: Outbox) -> None:
        report = save(meter, "ann@out.test", "ben@out.test")
        send_due(DUE_AT)
        [link] = [mail.extra_headers["List-Unsubscribe"] for mail in mailoutbox if mail.to == ["ann@out.test"]]
        place = find_mailing_place(link.strip("<>").rsplit("/", 1)[1])
        opt_out(place)
        opt_out(place)
        # Leaving the list and coming back to it changes nothing.
        for recipients in (["ben@out.test"], ["ann@out.test", "ben@out.test"]):
            update_report(report=report, changes={"recipients": recipients}, actor="test", now=DUE_AT)
        mailoutbox.clear()

        send_due(DUE_AT + timedelta(days=1))
        assert [mail.to for mail in mailoutbox] == [["ben@out.test"]]
        opt_in(place)
        send_due(DUE_AT + timedelta(days=2))

        assert sorted(mail.to for mail in mailoutbox[1:]) == [["ann@out.test"], ["ben@out.test"]]

    def test_members_get_it_as_long_as_they_are_members(
        self, meter: Meter, alice: User, bob: User, mailoutbox: Outbox
    ) -> None:
        gone = factories.make_user(name="Dora")
        membership = factories.make_membership(organization=meter.organization, user=gone)
        save(meter, alice.email, bob.email, gone.email)
        User.objects.filter(pk=bob.pk).update(is_active=False)
        User.objects.filter(pk=alice.pk).update(email="alice@new.test")
        Membership.objects.for_organization(meter.organization).filter(pk=membership.pk).delete()

        send_due(DUE_AT)

        assert [mail.to for mail in mailoutbox] == [["alice@new.test"]]

    def test_a_report_to_nobody_is_left_out(self, meter: Meter, bob: User, mailoutbox: Outbox) -> None:
        report = save(meter, bob.email)
        User.objects.filter(pk=bob.pk).update(is_active=False)

        assert send_due(DUE_AT) == [RunState.SKIPPED]

        assert [run.error for run in runs_of(report)] == ["Nobody is left to send it to."]
        assert mailoutbox == []

    @pytest.mark.parametrize(
        "recipients", [(), ("nobody",), ("a@b.test\nBcc: c@d.test",), tuple(f"r{n}@out.test" for n in range(21))]
    )
    def test_other_than_one_to_twenty_addresses_are_refused(self, meter: Meter, recipients: tuple[str, ...]) -> None:
        report = save(meter)

        with pytest.raises(InvalidInput) as refused:
            update_report(report=report, changes={"recipients": recipients}, actor="test", now=SAVED_AT)

        assert [error.field for error in refused.value.errors] == ["recipients"]


class TestMailServer:
    @pytest.fixture
    def server(self, settings: Any, transactional_db: None) -> Iterator[MailServer]:
        with mail_server() as server:
            settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
            settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
            yield server

    def test_what_arrives_is_text_html_and_the_file(self, meter: Meter, server: MailServer) -> None:
        save(meter, "ann@out.test", "ben@out.test")

        send_due(DUE_AT)

        assert server.connection_count == 1
        assert len(server.taken) == 2
        first = server.taken[0]
        assert [part.get_content_type() for part in first.walk()] == [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "text/html",
            "text/csv",
        ]
        [attached] = first.iter_attachments()
        assert attached.get_content().startswith("metric,group.region,period_start")

    def test_a_refused_address_holds_up_nobody_and_is_tried_again(self, meter: Meter, server: MailServer) -> None:
        report = save(meter, "ann@out.test", "ben@out.test", "cyd@out.test")
        server.refused.add("ben@out.test")

        assert send_due(DUE_AT) == [RunState.PENDING]
        assert server.recipients() == ["ann@out.test", "cyd@out.test"]
        [run] = runs_of(report)
        assert run.error == "ben@out.test: 550 nobody of that name."
        assert run.next_attempt_at == DUE_AT + timedelta(minutes=1)
        server.refused.clear()
        assert send_due(DUE_AT + timedelta(seconds=59)) == []
        assert send_due(DUE_AT + timedelta(minutes=1)) == [RunState.SENT]

        assert server.recipients() == ["ann@out.test", "cyd@out.test", "ben@out.test"]
        assert [(run.error, run.attempt_count) for run in runs_of(report)] == [("", 2)]

    def test_a_server_that_is_away_is_waited_for_and_the_range_stays(
        self, meter: Meter, server: MailServer, settings: Any
    ) -> None:
        report = save(meter)
        settings.EMAIL_PORT = 1  # nobody listens there

        assert send_due(DUE_AT) == [RunState.PENDING]
        assert runs_of(report)[0].error == "The mail server did not take it (ConnectionRefusedError)."
        settings.EMAIL_PORT = server.port
        assert send_due(DUE_AT + timedelta(hours=20)) == [RunState.SENT]

        assert [mail["Subject"] for mail in server.taken] == ["Storage: 2026-11-19 (Initech)"]

    def test_it_is_given_up_within_a_day(self, meter: Meter, server: MailServer, settings: Any) -> None:
        report = save(meter, frequency="weekly", weekday=4)
        settings.EMAIL_PORT = 1
        now, states = DUE_AT, []
        for pause in (*RETRY_PAUSES, timedelta()):
            states += send_due(now)
            now += pause

        assert states == [RunState.PENDING] * len(RETRY_PAUSES) + [RunState.FAILED]
        assert now < DUE_AT + timedelta(days=1)
        [run] = runs_of(report)
        assert (run.state, run.sent_at) == ("failed", None)
        assert send_due(now + timedelta(days=1)) == []

    def test_racing_workers_make_one_run_and_mail_everybody_once(self, meter: Meter, server: MailServer) -> None:
        report = save(meter, *(f"r{n}@out.test" for n in range(5)))

        made = race([lambda: make_due_runs(now=DUE_AT)] * 4)
        [run] = runs_of(report)
        states = race([lambda: send_run(run_id=run.pk, now=DUE_AT)] * 4)

        assert sum(made) == 1
        assert sorted(map(str, states)) == ["None", "None", "None", "sent"]
        assert sorted(server.recipients()) == [f"r{n}@out.test" for n in range(5)]

    def test_what_is_taken_back_meanwhile_is_not_sent_on(
        self, meter: Meter, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = save(meter, "ann@out.test", "ben@out.test")
        note = runs._note_delivery

        def pause_then_note(*arguments: Any) -> None:
            note(*arguments)
            update_report(report=report, changes={"is_paused": True}, actor="test", now=DUE_AT)

        monkeypatch.setattr(runs, "_note_delivery", pause_then_note)

        assert send_due(DUE_AT) == [None]

        assert server.recipients() == ["ann@out.test"]
        assert [run.state for run in runs_of(report)] == ["skipped"]

    def test_a_report_deleted_meanwhile_ends_quietly(
        self, meter: Meter, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = save(meter, "ann@out.test", "ben@out.test")
        note = runs._note_delivery

        def delete_then_note(*arguments: Any) -> None:
            Report.objects.for_organization(meter.organization).filter(pk=report.pk).delete()
            note(*arguments)

        monkeypatch.setattr(runs, "_note_delivery", delete_then_note)

        assert send_due(DUE_AT) == [None]
        assert server.recipients() == ["ann@out.test"]

    def test_a_worker_that_died_is_replaced_when_its_lease_ends(self, meter: Meter, server: MailServer) -> None:
        report = save(meter)
        make_due_runs(now=DUE_AT)
        mine = ReportRun.objects.for_organization(meter.organization)
        mine.update(leased_until=datetime.now(DUE_AT.tzinfo) + timedelta(minutes=1))
        [run] = runs_of(report)

        assert send_run(run_id=run.pk, now=DUE_AT) is None
        mine.update(leased_until=datetime.now(DUE_AT.tzinfo))
        assert send_run(run_id=run.pk, now=DUE_AT) == RunState.SENT

    def test_a_run_that_never_ends_is_given_up(self, meter: Meter, server: MailServer) -> None:
        report = save(meter)
        make_due_runs(now=DUE_AT)
        ReportRun.objects.for_organization(meter.organization).update(attempt_count=len(RETRY_PAUSES) + 1)

        assert send_due(DUE_AT) == [RunState.FAILED]

        assert runs_of(report)[0].error == "It was begun again and again, and never ended."


# What the doomed process does, with `report_id`, `now` in its hands; `die` is kill -9 of itself.
PREAMBLE = """
import os, sys
from datetime import datetime
from signal import SIGKILL
import django
from django.conf import settings
django.setup()
settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", int(sys.argv[2])
now = datetime.fromisoformat(sys.argv[1])
from usage_reports.services import runs
from usage_reports.queries import list_run_ids_to_send

def die(*_, **names):
    os.kill(os.getpid(), SIGKILL)

def send():
    runs.make_due_runs(now=now)
    for run_id in list_run_ids_to_send(now=now, limit=10):
        runs.send_run(run_id=run_id, now=now)
"""
AFTER_MAKING_THE_RUN = "runs.make_due_runs(now=now); die()"
BEFORE_THE_FIRST_MAIL = "runs._mail_everybody = die; send()"
BETWEEN_TWO_MAILS = """
note = runs._note_delivery
def note_then_die(run, address):
    note(run, address)
    die()
runs._note_delivery = note_then_die
send()
"""
BETWEEN_A_MAIL_AND_ITS_NOTE = "runs._note_delivery = die; send()"
AFTER_THE_LAST_NOTE = "runs._settle = die; send()"


@pytest.mark.parametrize(
    ("script", "sent_before", "repeated"),
    [
        (AFTER_MAKING_THE_RUN, 0, 0),
        (BEFORE_THE_FIRST_MAIL, 0, 0),
        (BETWEEN_TWO_MAILS, 1, 0),
        (BETWEEN_A_MAIL_AND_ITS_NOTE, 1, 1),
        (AFTER_THE_LAST_NOTE, 3, 0),
    ],
    ids=["after the run is made", "before any mail", "between mails", "between mail and note", "before settling"],
)
def test_a_killed_worker_loses_nothing_and_repeats_one_mail_at_most(
    meter: Meter, transactional_db: None, settings: Any, script: str, sent_before: int, repeated: int
) -> None:
    report = save(meter, "ann@out.test", "ben@out.test", "cyd@out.test")
    with mail_server() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        run_until_killed(script, server.port)
        assert len(server.taken) == sent_before
        # The lease of the dead ends; another sweep comes.
        ReportRun.objects.for_organization(meter.organization).update(leased_until=None)

        assert send_due(DUE_AT + timedelta(minutes=5)) == [RunState.SENT]

    names = ["ann@out.test", "ben@out.test", "cyd@out.test"]
    assert sorted(set(server.recipients())) == names
    assert len(server.taken) == 3 + repeated
    # What comes twice can be told by its id.
    assert len({mail["Message-ID"] for mail in server.taken}) == 3
    assert [run.due_at for run in runs_of(report)] == [DUE_AT]
    assert ReportDelivery.objects.for_organization(meter.organization).count() == 3


def run_until_killed(script: str, port: int) -> None:
    """Run the script in a process of its own on the test's database; it must end by its own kill -9."""
    url = make_conninfo(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"])
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, DUE_AT.isoformat(), str(port)],
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings.base"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -SIGKILL, done.stderr.decode()


@pytest.mark.django_db
def test_the_tasks_send_what_is_due(meter: Meter, mailoutbox: Outbox) -> None:
    report = save(meter, now=SAVED_AT)

    tasks.send_due_reports_task.apply()
    [run] = runs_of(report)  # by the real clock: the newest that has come due
    tasks.send_run_task.apply(args=(run.pk,))
    tasks.send_run_task.apply(args=(run.pk,))

    assert [run.state for run in runs_of(report)] == ["sent"]
    assert len(mailoutbox) == 1


@pytest.mark.django_db
def test_runs_are_forgotten_after_a_year_and_a_month(meter: Meter, mailoutbox: Outbox) -> None:
    report = save(meter)
    send_due(DUE_AT)

    assert prune_runs(organization=meter.organization, now=DUE_AT + timedelta(days=400)) == 0
    assert prune_runs(organization=meter.organization, now=DUE_AT + timedelta(days=400, seconds=1)) == 2  # and its mail

    assert runs_of(report) == []
