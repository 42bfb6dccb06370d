"""`manage.py load_demo`: create the demo's organization and send it a year of flights through the public API."""

from __future__ import annotations

import json
import os
import secrets
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from meterbook import Client, MeterbookError

from metering import demo

BATCH_EVENTS = 5_000
# Without a terminal, progress is a line at every tenth of the way.
REPORT_STEPS = 10


class Command(BaseCommand):
    help = "Load the demo through a running server. Safe to interrupt and repeat: every flight counts once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", required=True, help="where the server answers")
        parser.add_argument("--output", type=Path, help="write the sign-in and the API key here, once all is loaded")

    def handle(self, *, url: str, output: Path | None = None, **options: Any) -> None:
        flights = demo.read_flights()
        prepared = demo.prepare_demo(now=timezone.now(), flights=flights, password=secrets.token_urlsafe(12))
        if not prepared.is_loaded:
            started = time.monotonic()
            with Client(url, prepared.api_key) as client:
                self._load(client, demo.list_events(flights, prepared.shift), flights.num_rows)
            demo.record_loaded(organization=prepared.organization, event_count=flights.num_rows)
            self.stdout.write(f"{flights.num_rows:,} flights sent in {time.monotonic() - started:.1f} s")
        credentials = {
            "organization": prepared.organization.name,
            "url": url,
            "email": prepared.email,
            "password": prepared.password,
            "api_key": prepared.api_key,
        }
        if output is None:
            self.stdout.write(json.dumps(credentials, indent=2))
        else:
            write_privately(output, json.dumps(credentials))

    def _load(self, client: Client, events: Iterator[dict[str, Any]], total: int) -> None:
        """Send all events, in order: of two readings at one time, the later sent is the latest."""
        try:
            client.catalogs.install(demo.CATALOG)
            with self._progress(total) as advance:
                while batch := list(islice(events, BATCH_EVENTS)):
                    client.ingest(batch).raise_for_rejected()
                    advance(len(batch))
        except MeterbookError as error:
            raise CommandError(f"The demo is not complete ({error}). Run the command again to go on.") from error

    @contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Yield what is to be told how many more were sent: a bar on a terminal, lines in a log."""
        if self.stdout.isatty():
            with click.progressbar(length=total, label="Flights") as bar:
                yield bar.update
            return
        sent = 0

        def advance(count: int) -> None:
            nonlocal sent
            before, sent = sent * REPORT_STEPS // total, sent + count
            if sent * REPORT_STEPS // total > before:
                self.stdout.write(f"{sent:>7,} of {total:,} flights sent")
                self.stdout.flush()

        yield advance


def write_privately(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
