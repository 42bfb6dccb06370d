"""`manage.py sync_stripe_meters`: make the meters that metrics are reported to and that Stripe lacks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from billing.queries.reporting import list_organizations_with_meters
from billing.services.stripe_account import open_sink
from billing.services.stripe_meters import MeterOutcome, sync_meters
from common.errors import ApplicationError


class Command(BaseCommand):
    help = "Make at Stripe the meters that are named here and lacking there; deletes and changes none."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Say what would be made, and make nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        is_dry_run, has_problems = options["dry_run"], False
        organizations = list_organizations_with_meters()
        for organization in organizations:
            self.stdout.write(f"{organization} ({organization.pk})")
            try:
                synced = sync_meters(
                    organization=organization,
                    account=open_sink(organization=organization),
                    actor="manage.py",
                    now=datetime.now(UTC),
                    is_dry_run=is_dry_run,
                )
            except ApplicationError as error:
                has_problems = True
                self.stdout.write(self.style.ERROR(f"  {error}"))
                continue
            for meter in synced:
                word = "would be created" if is_dry_run and meter.outcome == MeterOutcome.CREATED else meter.outcome
                self.stdout.write(f"  {meter.metric} → {meter.event_name}: {word}")
                for problem in meter.problems:
                    has_problems = True
                    self.stdout.write(self.style.ERROR(f"    {problem}"))
        if not organizations:
            self.stdout.write("No organization has named a meter.")
        if has_problems:
            raise SystemExit(1)
