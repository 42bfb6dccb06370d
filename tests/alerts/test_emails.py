"""Alert mail: what a digest says, what it does not repeat, and what becomes of it when the mail server is away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.utils import timezone

from accounts.models import Membership, Organization, Role, User
from alerts.domain import DigestFrequency
from alerts.models import EmailSubscription, WebhookEndpoint
from alerts.services.emails import (
    build_digest,
    mail_sample,
    send_digest,
    send_due_mails,
    subscribe,
    unsubscribe,
)
from alerts.services.webhooks import EndpointDefinition, create_endpoint
from common.mail import MailRun
from tests import factories
from tests.alerts.mail_server import MailServer, mail_server
from tests.alerts.watch import Watch
from tests.metering.meter import utc
from tests.scenarios.racing import race

Outbox = list[EmailMultiAlternatives]


def member(organization: Organization, user: User) -> Membership:
    return Membership.objects.for_organization(organization).select_related("user", "organization").get(user=user)


def listen(organization: Organization, user: User, frequency: str = "soon") -> EmailSubscription:
    """Subscribe a member, some time ago."""
    subscription = subscribe(membership=member(organization, user), frequency=DigestFrequency(frequency))
    EmailSubscription.objects.for_organization(organization).filter(pk=subscription.pk).update(
        created_at=utc(2026, 11, 1)
    )
    return subscription


def mark(organization: Organization, user: User) -> int:
    return EmailSubscription.objects.for_organization(organization).get(membership__user=user).sent_through_offset


@pytest.fixture
def crossings(watch: Watch) -> Watch:
    """A metric with a threshold at 10, which nobody has reached."""
    watch.define("m", "sum", unit="GB")
    watch.threshold("m", "cap", 10)
    return watch


class TestDigests:
    def test_one_alert_in_text_and_html(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.use("<ann>", "12.5")

        assert send_due_mails(now=now) == 1

        [mail] = mailoutbox
        assert mail.to == [bob.email]
        assert mail.subject == "<ann>: cap of m reached (Initech)"
        text, html = str(mail.body), str(mail.alternatives[0][0])
        assert "<ann> · m · cap" in text
        assert "12.5 GB, threshold 10" in text
        assert "at 2026-11-20 12:00 UTC, period 2026-11-01 00:00 UTC to 2026-12-01 00:00 UTC" in text
        assert f"/o/{org.pk}/alerts/" in text
        assert "&lt;ann&gt;" in html
        assert "<ann>" not in html
        assert "12.5 GB" in html

    def test_what_was_sent_is_not_sent_again(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.use("ann", 10)
        send_due_mails(now=now)

        assert send_due_mails(now=now + timedelta(days=2)) == 0
        crossings.use("ben", 10)
        assert send_due_mails(now=now + timedelta(days=2)) == 1

        assert [("ann" in str(mail.body), "ben" in str(mail.body)) for mail in mailoutbox] == [
            (True, False),
            (False, True),
        ]
        assert mark(org, bob) == 2

    def test_a_new_subscription_starts_at_the_end_of_the_log(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        crossings.use("before", 10)
        listen(org, bob)
        crossings.use("after", 10)

        send_due_mails(now=now)

        [mail] = mailoutbox
        assert "after" in str(mail.body)
        assert "before" not in str(mail.body)

    def test_fifty_are_listed_and_the_rest_is_a_number(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.send_all(*({"customer": f"c{n:02}", "type": "m", "value": 10} for n in range(53)))
        crossings.evaluate()

        send_due_mails(now=now)

        [mail] = mailoutbox
        assert mail.subject == "53 alerts of Initech"
        assert str(mail.body).count("· cap") == 50
        assert "… and 3 more." in str(mail.body)
        assert "… and 3 more." in str(mail.alternatives[0][0])
        assert mark(org, bob) == 53

    def test_times_are_in_the_organizations_zone(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.use("ann", 10)
        Organization.objects.filter(pk=org.pk).update(zone="Asia/Kolkata")

        send_due_mails(now=now)

        assert "at 2026-11-20 17:30 IST" in str(mailoutbox[0].body)

    def test_organizations_do_not_see_each_others(
        self,
        crossings: Watch,
        org: Organization,
        alice: User,
        other_org: Organization,
        charlie: User,
        mailoutbox: Outbox,
        now: datetime,
    ) -> None:
        listen(org, alice)
        listen(other_org, charlie)
        crossings.use("ann", 10)

        send_due_mails(now=now)

        assert [mail.to for mail in mailoutbox] == [[alice.email]]

    def test_hourly_waits_for_the_next_hour(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox
    ) -> None:
        listen(org, bob, "hourly")
        crossings.use("ann", 10)
        assert send_due_mails(now=utc(2026, 11, 20, 12, 20)) == 1
        crossings.use("ben", 10)

        assert send_due_mails(now=utc(2026, 11, 20, 12, 59, 59)) == 0
        assert send_due_mails(now=utc(2026, 11, 20, 13)) == 1

        assert len(mailoutbox) == 2

    def test_daily_waits_for_the_morning(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox
    ) -> None:
        listen(org, bob, "daily")
        crossings.use("ann", 10)
        assert send_due_mails(now=utc(2026, 11, 20, 12)) == 1
        crossings.use("ben", 10)

        assert send_due_mails(now=utc(2026, 11, 21, 6, 59, 59)) == 0
        assert send_due_mails(now=utc(2026, 11, 21, 7)) == 1

        assert len(mailoutbox) == 2

    def test_who_left_or_stopped_gets_nothing(
        self, crossings: Watch, org: Organization, alice: User, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        gone = factories.make_user(name="Dora")
        factories.make_membership(organization=org, user=gone)
        for user in (alice, bob, gone):
            listen(org, user)
        crossings.use("ann", 10)
        unsubscribe(membership=member(org, alice))
        User.objects.filter(pk=bob.pk).update(is_active=False)
        member(org, gone).delete()

        assert send_due_mails(now=now) == 0

        assert mailoutbox == []

    def test_a_sample_can_be_asked_for(self, org: Organization, bob: User, mailoutbox: Outbox) -> None:
        mail_sample(membership=member(org, bob))

        [mail] = mailoutbox
        assert (mail.to, mail.subject) == ([bob.email], "Test: alerts of Initech reach you")

    def test_names_with_line_ends_do_not_break_the_header(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        Organization.objects.filter(pk=org.pk).update(name="Ini\r\nBcc: all@example.test")
        listen(org, bob)
        crossings.use("ann", 10)

        assert send_due_mails(now=now) == 1

        assert mailoutbox[0].subject == "ann: cap of m reached (Ini Bcc: all@example.test)"


class TestTwoWorkers:
    def test_the_same_digest_is_sent_once(
        self, crossings: Watch, org: Organization, alice: User, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        for user in (alice, bob):
            listen(org, user)
        crossings.use("ann", 10)

        sent = race([lambda: send_due_mails(now=now)] * 4)

        assert sum(sent) == 2
        assert sorted(mail.to[0] for mail in mailoutbox) == sorted([alice.email, bob.email])

    def test_who_looked_before_another_sent_sends_nothing(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.use("ann", 10)
        subscriptions = EmailSubscription.objects.for_organization(org).select_related("organization")
        stale = subscriptions.select_related("membership__user", "organization").get()
        assert build_digest(stale) is not None
        send_due_mails(now=now)

        with MailRun() as run:
            assert not send_digest(stale, run, now=now)

        assert len(mailoutbox) == 1

    def test_a_worker_that_died_is_replaced_when_its_lease_ends(
        self, crossings: Watch, org: Organization, bob: User, mailoutbox: Outbox, now: datetime
    ) -> None:
        subscription = listen(org, bob)
        crossings.use("ann", 10)
        rows = EmailSubscription.objects.for_organization(org).filter(pk=subscription.pk)
        rows.update(leased_until=now + timedelta(minutes=1))

        assert send_due_mails(now=now) == 0
        assert send_due_mails(now=now + timedelta(minutes=1)) == 1


class TestMailServer:
    @pytest.fixture
    def server(self, settings: Any) -> Iterator[MailServer]:
        with mail_server() as server:
            settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
            settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
            yield server

    def test_mails_of_one_run_share_a_connection(
        self, crossings: Watch, org: Organization, alice: User, bob: User, server: MailServer, now: datetime
    ) -> None:
        for user in (alice, bob):
            listen(org, user)
        crossings.use("ann", 10)

        assert send_due_mails(now=now) == 2

        assert server.recipients() == [alice.email, bob.email]
        assert server.connection_count == 1
        kinds = [part.get_content_type() for part in server.taken[0].walk()]
        assert kinds == ["multipart/alternative", "text/plain", "text/html"]

    def test_a_refused_recipient_holds_up_nobody_and_is_tried_later(
        self, crossings: Watch, org: Organization, alice: User, bob: User, server: MailServer, now: datetime
    ) -> None:
        for user in (alice, bob):
            listen(org, user)
        server.refused.add(alice.email)
        crossings.use("ann", 10)

        assert send_due_mails(now=now) == 1
        assert server.recipients() == [bob.email]
        assert (mark(org, alice), mark(org, bob)) == (0, 1)
        server.refused.clear()
        assert send_due_mails(now=now + timedelta(minutes=9)) == 0
        assert send_due_mails(now=now + timedelta(minutes=10)) == 1

        assert server.recipients() == [bob.email, alice.email]
        assert mark(org, alice) == 1

    def test_a_server_that_is_away_leaves_everything_for_later(
        self, crossings: Watch, org: Organization, bob: User, server: MailServer, settings: Any, now: datetime
    ) -> None:
        listen(org, bob)
        crossings.use("ann", 10)
        settings.EMAIL_PORT = 1  # nobody listens there

        assert send_due_mails(now=now) == 0
        assert mark(org, bob) == 0
        settings.EMAIL_PORT = server.port
        crossings.use("ben", 10)
        assert send_due_mails(now=now + timedelta(minutes=10)) == 1

        [mail] = server.taken
        assert mail["Subject"] == "2 alerts of Initech"


@pytest.mark.django_db
class TestNotices:
    @pytest.fixture
    def endpoint(self, org: Organization, now: datetime) -> WebhookEndpoint:
        definition = EndpointDefinition(url="https://hooks.test/secret-path", description="billing")
        endpoint = create_endpoint(organization=org, definition=definition, actor="test").endpoint
        endpoint.disabled_at, endpoint.disabled_reason = now, "It answered 410 Gone."
        endpoint.is_notice_due = True
        endpoint.save()
        return endpoint

    def test_owners_and_admins_are_told_once(
        self, org: Organization, alice: User, bob: User, endpoint: WebhookEndpoint, mailoutbox: Outbox, now: datetime
    ) -> None:
        admin = factories.make_user(name="Dora")
        factories.make_membership(organization=org, user=admin, role=Role.ADMIN)

        assert send_due_mails(now=now) == 1
        assert send_due_mails(now=now) == 0

        [mail] = mailoutbox
        assert mail.to == [alice.email, admin.email]
        assert mail.subject == "A webhook endpoint of Initech is switched off"
        for text in (str(mail.body), str(mail.alternatives[0][0])):
            assert "billing" in text
            assert "It answered 410 Gone." in text
            assert f"/o/{org.pk}/webhooks/{endpoint.pk}/" in text
            assert "secret-path" not in text

    def test_a_notice_waits_for_the_mail_server_for_a_day(
        self, endpoint: WebhookEndpoint, settings: Any, mailoutbox: Outbox, now: datetime
    ) -> None:
        backend = settings.EMAIL_BACKEND
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
        assert send_due_mails(now=now) == 0
        settings.EMAIL_BACKEND = backend

        assert send_due_mails(now=now + timedelta(days=1, seconds=1)) == 0
        assert send_due_mails(now=now + timedelta(days=1)) == 1

    def test_one_that_was_enabled_meanwhile_is_not_told_of(
        self, org: Organization, endpoint: WebhookEndpoint, mailoutbox: Outbox, now: datetime
    ) -> None:
        from alerts.services.webhooks import update_endpoint

        update_endpoint(endpoint=endpoint, changes={"is_enabled": True}, actor="test", now=timezone.now())

        assert send_due_mails(now=now) == 0
