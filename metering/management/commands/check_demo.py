"""`manage.py check_demo`: compare the demo's totals, asked of a running server, with the data they came from."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from meterbook import Client

from metering import demo


class Command(BaseCommand):
    help = "Print the demo's totals as a table; fail if any differs from the data frame."

    def add_arguments(self, parser: ArgumentParser) -> None:
        default = settings.DATA_DIR / "run" / "demo.json"
        parser.add_argument("--credentials", type=Path, default=default, help="the file that load_demo wrote")
        parser.add_argument("--url", help="where the server answers; by default where the demo was loaded")

    def handle(self, *, credentials: Path, url: str | None = None, **options: Any) -> None:
        if not credentials.exists():
            raise CommandError(f"There is no demo: {credentials} does not exist.")
        access = json.loads(credentials.read_text())
        expected = demo.totals_of_data_frame()
        with Client(url or access["url"], access["api_key"]) as client:
            found = demo.totals_of_server(client, at=timezone.now())
        self._print_table(found)
        carriers = expected.keys() | found.keys()
        wrong = sorted(carrier for carrier in carriers if expected.get(carrier) != found.get(carrier))
        if wrong:
            raise CommandError(f"These airlines differ from the data frame: {', '.join(wrong)}.")
        self.stdout.write(f"\nAll {len(fields(demo.CarrierTotals)) * len(found)} totals equal those of the data frame.")

    def _print_table(self, totals: dict[str, demo.CarrierTotals]) -> None:
        names = demo.read_airlines()
        headings = ["customer", "airline", *(field.name for field in fields(demo.CarrierTotals))]
        self.stdout.write(f"| {' | '.join(headings)} |")
        self.stdout.write(f"|---|---|{'---:|' * len(fields(demo.CarrierTotals))}")
        for carrier in sorted(totals):
            cells = [carrier, names[carrier], *(f"{value:,f}" for value in astuple(totals[carrier]))]
            self.stdout.write(f"| {' | '.join(cells)} |")
