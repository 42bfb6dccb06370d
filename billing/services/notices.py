"""The outbox of billing: what happened and is to be told, written along with it, and taken over by whoever tells it.

A notice is written in the transaction of its cause and deleted in the transaction that takes it, so that none is lost
and none is told twice, whoever is killed in between. Does not own the telling (`settings.NOTICE_FOLLOWER`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import Organization
from billing.domain.notices import NoticeType
from billing.models import Notice
from metering.services.wake import wake_task


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNotice:
    """What happened, when. The payload is plain JSON: ids and amounts as text, times as RFC 3339."""

    organization_id: int
    type: NoticeType
    payload: Mapping[str, Any]
    at: datetime


def write_notice(
    *, organization: Organization | int, type: NoticeType, payload: Mapping[str, Any], now: datetime
) -> None:
    """Write one notice. Runs in the transaction of what it tells."""
    organization_id = organization if isinstance(organization, int) else organization.pk
    write_notices([NewNotice(organization_id=organization_id, type=type, payload=payload, at=now)])


def write_notices(rows: Sequence[NewNotice]) -> None:
    """Write several notices, in order, of any organizations. Runs in the transaction of what they tell.

    Whoever tells them is woken after the commit; a wake-up that is lost costs seconds, since it looks by itself too.
    """
    Notice.objects.bulk_create(
        Notice(
            organization_id=row.organization_id, type=NoticeType(row.type), payload=dict(row.payload), created_at=row.at
        )
        for row in rows
    )
    for organization_id in sorted({row.organization_id for row in rows}):
        wake = partial(wake_task, task=settings.NOTICE_FOLLOWER, organization_id=organization_id)
        transaction.on_commit(wake, robust=True)


def take_notices(*, limit: int) -> list[Notice]:
    """Take the oldest notices of all organizations away, in order, for the caller's transaction to tell.

    They come back if it does not commit. Two callers at once get different ones.
    """
    assert transaction.get_connection().in_atomic_block  # else they were gone before anybody is told
    notices = Notice.objects.all_tenants()
    taken = list(notices.select_for_update(skip_locked=True).order_by("pk")[:limit])
    notices.filter(pk__in=[notice.pk for notice in taken]).delete()
    return taken
