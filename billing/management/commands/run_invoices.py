"""`manage.py run_invoices`: invoice everything that is due, now, by several processes, with progress."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from accounts.models import Organization
from billing.models import BillingPeriod, InvoiceRun
from billing.services.invoice_runs import join_run, work_run

ACTOR = "manage.py run_invoices"
MAX_WORKERS = 16
LOOK_SECONDS = 1.0


class Command(BaseCommand):
    help = "Make drafts of billing periods that have ended, and final invoices of those whose grace is over."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", type=int, help="Only this organization's, by its id; else all of them.")
        parser.add_argument("--workers", type=int, default=2, help=f"So many processes, 1 to {MAX_WORKERS}.")
        # Given by this command to the processes that it starts.
        parser.add_argument("--run", type=int, help="Work at this run, and begin none.")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["workers"] <= MAX_WORKERS:
            raise CommandError(f"--workers takes 1 to {MAX_WORKERS}.")
        if options["run"] is not None:
            work_run(run=InvoiceRun.objects.all_tenants().select_related("organization").get(pk=options["run"]))
            return
        organizations = Organization.objects.order_by("pk")
        if options["organization"] is not None:
            organizations = organizations.filter(pk=options["organization"])
            if not organizations.exists():
                raise CommandError("There is no such organization.")
        for organization in organizations:
            self._run(organization, options["workers"])

    def _run(self, organization: Organization, worker_count: int) -> None:
        run = join_run(organization=organization, actor=ACTOR, now=datetime.now(UTC))
        self.stdout.write(f"{organization}: {run.total} periods are due")
        command = [sys.executable, sys.argv[0], "run_invoices", "--run", str(run.pk)]
        started = time.monotonic()
        workers = [subprocess.Popen(command) for _ in range(worker_count)]
        try:
            while any(worker.poll() is None for worker in workers):
                time.sleep(LOOK_SECONDS)
                self._tell(run, started)
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.terminate()
                worker.wait()
        self._tell(run, started)
        connection.close()
        if any(worker.returncode for worker in workers):
            raise CommandError("A worker failed; what it had finished is done. Run the command again.")
        problems = BillingPeriod.objects.for_organization(organization).exclude(problem="")
        for period in problems.select_related("subscription__customer").order_by("pk")[:20]:
            self.stderr.write(f"  {period.subscription.customer}, {period}: {period.problem}")

    def _tell(self, run: InvoiceRun, started: float) -> None:
        run.refresh_from_db()
        done = run.finalised + run.drafted
        self.stdout.write(
            f"  {done} of {run.total} periods, {run.finalised} final, {run.failed} failed, "
            f"{time.monotonic() - started:.0f} s"
        )
