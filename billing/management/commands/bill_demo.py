"""`manage.py bill_demo`: give the demo's airlines plans, and invoice the last months."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from billing.demo import bill_demo


class Command(BaseCommand):
    help = "Price the demo's usage and invoice it, unless it has plans already."

    def handle(self, *args: Any, **options: Any) -> None:
        count = bill_demo(now=datetime.now(UTC))
        self.stdout.write("nothing to do" if count is None else f"{count} airlines subscribed and invoiced")
