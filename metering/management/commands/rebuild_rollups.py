"""`manage.py rebuild_rollups [--verify]`: compare rollups and member sets with raw events, and repair them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, date, datetime
from typing import Any

import click
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.models import Organization
from common.times import parse_time
from metering.services.rebuild import Difference, list_slices, repair_slice, verify_slice

# A lost table is millions of differences; the first show what kind they are, and the count is always given.
MOST_LINES = 1000


class Command(BaseCommand):
    help = (
        "Recount rollups and member sets from raw events and repair what differs, one organization after another. "
        "Safe while the server runs, and safe to interrupt and repeat."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--verify", action="store_true", help="only print differences; status 1 if there are any")
        parser.add_argument("--organization", type=int, metavar="ID", help="one organization; without it, all of them")
        parser.add_argument("--from", dest="start", type=parse_moment, help="a UTC date or a time with an offset")
        parser.add_argument(
            "--to", dest="end", type=parse_moment, help="likewise, exclusive; both widen to whole UTC days"
        )
        parser.add_argument(
            "--limit", type=int, default=MOST_LINES, help=f"differences to print (default {MOST_LINES})"
        )

    def handle(
        self,
        *args: Any,
        verify: bool,
        organization: int | None,
        start: datetime | None,
        end: datetime | None,
        limit: int,
        **options: Any,
    ) -> None:
        if start and end and start >= end:
            raise CommandError("--from lies before --to.")
        self._lines_left = limit
        differing = sum(self._examine(each, verify, start, end) for each in _list_organizations(organization))
        if differing > limit:
            self.stdout.write(f"… and {differing - limit} more")
        if verify and differing:
            raise CommandError(f"{differing} stored buckets differ from the raw events.")
        self.stdout.write("Rollups and raw events agree." if not differing else f"{differing} buckets were repaired.")

    def _examine(self, organization: Organization, verify: bool, start: datetime | None, end: datetime | None) -> int:
        def report(difference: Difference) -> None:
            if self._lines_left > 0:
                self._lines_left -= 1
                self.stdout.write(f"{organization.pk}  {describe(difference)}")

        differing = 0
        slices = list_slices(organization=organization, start=start, end=end)
        total = sum(max(1, each.event_count) for each in slices)
        with click.progressbar(length=total, label=organization.name, file=sys.stderr) as progress:
            for each in slices:
                if verify:
                    differing += verify_slice(organization=organization, span=each.span, report=report)
                else:
                    differing += repair_slice(
                        organization=organization, span=each.span, now=timezone.now(), report=report
                    )
                progress.update(max(1, each.event_count))
        return differing


def parse_moment(text: str) -> datetime:
    try:
        if len(text) == len("2026-11-20"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        return parse_time(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def describe(difference: Difference) -> str:
    """Return one line: which bucket, what is stored, what raw events say."""
    dimensions = ",".join(f"{key}={value}" for key, value in difference.dimensions.items()) or "total"
    return (
        f"{difference.table}  {difference.bucket_start.isoformat()}  {difference.metric or '-'}  "
        f"{difference.customer or '-'}  {dimensions}  stored: {difference.stored}  raw: {difference.counted}"
    )


def _list_organizations(organization_id: int | None) -> list[Organization]:
    if organization_id is None:
        return list(Organization.objects.order_by("pk"))
    organizations = list(Organization.objects.filter(pk=organization_id))
    if not organizations:
        raise CommandError(f"There is no organization {organization_id}.")
    return organizations
