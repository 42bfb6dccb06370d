"""`manage.py deliver_webhooks`: the courier, until it is told to stop. Several may run beside each other."""

import asyncio
import gc
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connection
from psycopg.conninfo import make_conninfo

from alerts.clients.webhooks import SystemResolver, WebhookSender
from alerts.courier import Courier


class Command(BaseCommand):
    help = "Send webhook messages that are due, until SIGTERM or SIGINT."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(_run())


async def _run() -> None:
    resolver = SystemResolver()
    courier = Courier(
        database_url=_database_url(),
        sender=WebhookSender(may_be_private=settings.WEBHOOKS_MAY_BE_PRIVATE, resolve=resolver),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, courier.stop)
    gc.collect()
    gc.freeze()
    try:
        await courier.run()
    finally:
        resolver.close()


def _database_url() -> str:
    """Return the address that Django uses, in libpq's words, for the connection that listens."""
    database = connection.settings_dict
    parameters = {
        "host": database["HOST"],
        "port": database["PORT"],
        "user": database["USER"],
        "password": database["PASSWORD"],
        "dbname": database["NAME"],
        **database["OPTIONS"],
    }
    return make_conninfo(**{name: value for name, value in parameters.items() if value})
