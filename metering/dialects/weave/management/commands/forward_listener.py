"""`manage.py forward_listener`: takes in billing-clients' records, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from metering.dialects.weave.listener import ForwardListener, PortTaken

# Shorter than Python's: the loop waits so long when a writer computes.
SWITCH_SECONDS = 0.001

logger = structlog.get_logger("meterbook.forward")


class Command(BaseCommand):
    help = "Take in records over fluentd's forward protocol, until SIGTERM or SIGINT."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.FORWARD_HOST)
        parser.add_argument("--port", type=int, default=settings.FORWARD_PORT)
        parser.add_argument("--secure-port", type=int, default=settings.FORWARD_SECURE_PORT)

    def handle(self, *args: Any, **options: Any) -> None:
        secure_port, key = options["secure_port"], settings.FORWARD_SHARED_KEY
        if bool(secure_port) != bool(key):
            raise CommandError("METERBOOK_FORWARD_SECURE_PORT and METERBOOK_FORWARD_SHARED_KEY go together.")
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            asyncio.run(_run(options["host"], options["port"], secure_port or None, key))
        except PortTaken as error:
            raise CommandError(str(error)) from None


async def _run(host: str, port: int, secure_port: int | None, key: str) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    listener = ForwardListener(shared_key=key)
    await listener.start(host, port, secure_port=secure_port)
    gc.collect()
    gc.freeze()
    logger.info("the forward listener is ready", host=host, ports=listener.ports)
    await stopping.wait()
    if not await listener.drain():
        logger.error("records were read that could not be stored in time; nobody was told that they are")
