"""Alerts by e-mail: who gets them, digests of what crossed, notices of webhook endpoints that switched themselves off.

A digest tells what came after the subscription's watermark; the watermark moves after the mail server took the mail,
so that a crash in between repeats a digest and loses none. A lease keeps two workers from one subscription. A mail
server that is away puts subscriptions off one by one and holds up nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.urls import reverse
from kombu.exceptions import OperationalError as BrokerUnavailable

from accounts.models import Membership, Organization
from alerts.domain import DigestFrequency, ThresholdKind, latest_digest_time
from alerts.models import Crossing, EmailSubscription, WebhookEndpoint
from alerts.queries import emails as queries
from common.errors import Unavailable
from common.mail import MailRun, Texts, render_texts
from common.numbers import exact_text

MAX_LISTED = 50
# Longer than the mail server may take for one mail.
LEASE = timedelta(minutes=2)
PUT_OFF = timedelta(minutes=10)
# A run stops beginning mails after this; the next comes within the minute.
RUN_SECONDS = 40.0
MAX_MAILS_PER_RUN = 1_000
# A notice that no mail server takes for a day is not worth repeating; the endpoint's page says the same.
NOTICE_LIFETIME = timedelta(days=1)
# The first half of the advisory lock's key; the endpoint is the second.
NOTICE_LOCK = 730_005

logger = structlog.get_logger("meterbook.mail")


# --- who gets mail --------------------------------------------------------------------------------------------


@transaction.atomic
def subscribe(*, membership: Membership, frequency: DigestFrequency) -> EmailSubscription:
    """Send the member what crosses from now on, or change how often. Idempotent."""
    end = queries.last_offset(organization_id=membership.organization_id)
    subscription, is_new = EmailSubscription.objects.get_or_create(
        organization_id=membership.organization_id,
        membership=membership,
        defaults={"frequency": frequency, "sent_through_offset": end},
    )
    if not is_new and subscription.frequency != frequency:
        subscription.frequency = frequency
        subscription.save(update_fields=["frequency"])
    subscription.membership = membership
    return subscription


def unsubscribe(*, membership: Membership) -> None:
    """Send the member nothing more. Idempotent."""
    EmailSubscription.objects.for_organization(membership.organization_id).filter(membership=membership).delete()


def send_test_email(*, membership: Membership) -> None:
    """Mail the member a sample, in the background. Raises `Unavailable` while the broker is away."""
    from alerts.tasks import send_test_email_task

    try:
        send_test_email_task.delay(membership.pk)
    except BrokerUnavailable:
        raise Unavailable("Mail cannot be queued just now.", headers={"Retry-After": "5"}) from None


def mail_sample(*, membership: Membership) -> None:
    """Send the sample. Raises `OSError` when the mail server refuses or is away."""
    context = {"organization": membership.organization, "url": _alerts_url(membership.organization)}
    with MailRun() as run:
        run.send(
            to=[membership.user.email],
            subject=f"Test: alerts of {membership.organization.name} reach you",
            **_render("test", context),
        )


# --- digests --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DigestLine:
    """One crossing, in words and exact digits. Times are in the organization's zone."""

    who: str
    metric: str
    threshold: str
    level: str
    value: str
    unit: str
    period: str
    at: str


@dataclass(frozen=True, slots=True)
class Digest:
    organization: Organization
    lines: list[DigestLine]
    total: int
    through_offset: int

    @property
    def unlisted_count(self) -> int:
        return self.total - len(self.lines)

    @property
    def subject(self) -> str:
        if self.total > 1:
            return f"{self.total} alerts of {self.organization.name}"
        line = self.lines[0]
        return f"{line.who}: {line.threshold} of {line.metric} reached ({self.organization.name})"


def send_due_mails(*, now: datetime) -> int:
    """Send the notices and digests that are due, one after the other; return how many were sent."""
    deadline = time.monotonic() + RUN_SECONDS
    sent = 0
    with MailRun() as run:
        for endpoint in queries.list_endpoints_to_tell_of(since=now - NOTICE_LIFETIME, limit=MAX_MAILS_PER_RUN):
            if time.monotonic() < deadline:
                sent += send_notice(endpoint, run)
        for subscription in queries.list_subscriptions_behind(now=now, limit=MAX_MAILS_PER_RUN):
            if time.monotonic() < deadline:
                sent += send_digest(subscription, run, now=now)
    return sent


def send_digest(subscription: EmailSubscription, run: MailRun, *, now: datetime) -> bool:
    """Send one digest if it is due and nobody else is at it; tell whether one was sent."""
    if not _is_due(subscription, now) or not _take(subscription, now):
        return False
    digest = build_digest(subscription)
    if digest is None:
        _put_back(subscription, until=None)
        return False
    context = {"digest": digest, "subscription": subscription, "url": _alerts_url(subscription.organization)}
    try:
        run.send(to=[subscription.membership.user.email], subject=digest.subject, **_render("digest", context))
    except OSError as error:
        logger.warning("digest not sent", subscription=subscription.pk, reason=type(error).__name__)
        _put_back(subscription, until=now + PUT_OFF)
        return False
    _own(subscription).update(sent_through_offset=digest.through_offset, last_sent_at=now, leased_until=None)
    return True


def build_digest(subscription: EmailSubscription) -> Digest | None:
    """Return what the member was not told yet, read anew; None: nothing.

    Offsets have no gaps, so the end of the log tells how many there are without counting them.
    """
    organization, after = subscription.organization, subscription.sent_through_offset
    end = queries.last_offset(organization_id=organization.pk)
    crossings = queries.list_crossings_between(organization_id=organization.pk, after=after, limit=MAX_LISTED)
    if not crossings:
        return None
    zone = ZoneInfo(organization.zone)
    lines = [_line(crossing, zone) for crossing in crossings]
    return Digest(
        organization, lines, total=max(end - after, len(lines)), through_offset=max(end, crossings[-1].offset)
    )


def _line(crossing: Crossing, zone: ZoneInfo) -> DigestLine:
    is_silence = crossing.threshold.kind == ThresholdKind.SILENCE
    return DigestLine(
        who=crossing.customer.external_id if crossing.customer else "All customers",
        metric=crossing.metric.code,
        threshold=crossing.threshold_code,
        level=exact_text(crossing.threshold_value),
        value=exact_text(crossing.value_at_cross),
        unit="seconds of silence" if is_silence else crossing.metric.unit,
        period=f"{_moment(crossing.period_start, zone)} to {_moment(crossing.period_end, zone)}",
        at=_moment(crossing.triggered_at, zone),
    )


def _moment(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M %Z}"


def _is_due(subscription: EmailSubscription, now: datetime) -> bool:
    due_at = latest_digest_time(
        DigestFrequency(subscription.frequency), now=now, zone=ZoneInfo(subscription.organization.zone)
    )
    return (subscription.last_sent_at or subscription.created_at) < due_at


def _take(subscription: EmailSubscription, now: datetime) -> bool:
    """Claim the subscription for as long as one mail may take; False: somebody else has it, or it is gone."""
    subscriptions = EmailSubscription.objects.for_organization(subscription.organization_id)
    free = subscriptions.filter(
        Q(leased_until__isnull=True) | Q(leased_until__lte=now),
        pk=subscription.pk,
        sent_through_offset=subscription.sent_through_offset,
    )
    # By the clock and not by `now`, which a long run has left behind.
    subscription.leased_until = datetime.now(UTC) + LEASE
    return bool(free.update(leased_until=subscription.leased_until))


def _put_back(subscription: EmailSubscription, *, until: datetime | None) -> None:
    _own(subscription).update(leased_until=until)


def _own(subscription: EmailSubscription) -> Any:
    """Return the subscription's row as long as the lease is ours."""
    subscriptions = EmailSubscription.objects.for_organization(subscription.organization_id)
    return subscriptions.filter(pk=subscription.pk, leased_until=subscription.leased_until)


# --- notices --------------------------------------------------------------------------------------------------


def send_notice(endpoint: WebhookEndpoint, run: MailRun) -> bool:
    """Tell owners and admins that an endpoint switched itself off; tell whether it was said to anybody.

    It stays due until the mail server took it. The lock is on a number, not on the row, which the courier needs.
    """
    recipients = queries.list_managers(organization_id=endpoint.organization_id)
    context = {"endpoint": endpoint, "organization": endpoint.organization, "url": _webhook_url(endpoint)}
    with transaction.atomic():
        endpoints = WebhookEndpoint.objects.for_organization(endpoint.organization_id)
        due = endpoints.filter(pk=endpoint.pk, is_notice_due=True)
        if not _lock_notice(endpoint) or not due.exists():
            return False
        try:
            if recipients:
                run.send(
                    to=recipients,
                    subject=f"A webhook endpoint of {endpoint.organization.name} is switched off",
                    **_render("endpoint_disabled", context),
                )
        except OSError as error:
            logger.warning("notice not sent", endpoint=endpoint.pk, reason=type(error).__name__)
            return False
        due.update(is_notice_due=False)
    return bool(recipients)


def _lock_notice(endpoint: WebhookEndpoint) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [NOTICE_LOCK, endpoint.pk % 2**31])
        [is_ours] = cursor.fetchone()
    return bool(is_ours)


def _alerts_url(organization: Organization) -> str:
    return settings.PUBLIC_URL + reverse("alerts:alert_list", args=[organization.pk])


def _webhook_url(endpoint: WebhookEndpoint) -> str:
    return settings.PUBLIC_URL + reverse("alerts:webhook", args=[endpoint.organization_id, endpoint.pk])


def _render(name: str, context: dict[str, Any]) -> Texts:
    return render_texts(f"alerts/email/{name}", context)
