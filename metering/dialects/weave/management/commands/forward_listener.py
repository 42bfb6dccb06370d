"""`manage.py forward_listener`: takes in billing-clients' records, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from metering.dialects.weave.listener import Address, ForwardListener, Limits, PortTaken

# Shorter than Python's: the loop waits so long when a writer computes.
SWITCH_SECONDS = 0.001
# Beside the connections: the database's, logs, code.
OTHER_DESCRIPTORS = 100

logger = structlog.get_logger("meterbook.forward")


class Command(BaseCommand):
    help = "Take in records over fluentd's forward protocol, until SIGTERM or SIGINT."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.FORWARD_HOST)
        parser.add_argument("--port", type=int, default=settings.FORWARD_PORT, help="0: no open port")
        parser.add_argument("--secure-host", default=settings.FORWARD_SECURE_HOST)
        parser.add_argument("--secure-port", type=int, default=settings.FORWARD_SECURE_PORT)

    def handle(self, *args: Any, **options: Any) -> None:
        port, secure_port, key = options["port"], options["secure_port"], settings.FORWARD_SHARED_KEY
        if bool(secure_port) != bool(key):
            raise CommandError("METERBOOK_FORWARD_SECURE_PORT and METERBOOK_FORWARD_SHARED_KEY go together.")
        if not port and not secure_port:
            raise CommandError("There is nothing to listen on: both ports are 0.")
        sys.setswitchinterval(SWITCH_SECONDS)
        allow_descriptors(2 * Limits().connections + OTHER_DESCRIPTORS)
        open_address = Address(options["host"], port) if port else None
        secure_address = Address(options["secure_host"], secure_port) if secure_port else None
        try:
            is_well = asyncio.run(_run(open_address, secure_address, key))
        except PortTaken as error:
            raise CommandError(str(error)) from None
        if not is_well:
            raise CommandError("A writer failed; the reason is above. What it held was not acknowledged.")


def allow_descriptors(count: int) -> None:
    """Raise the process's limit of open files to what all connections of both ports need, as far as it may."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if most == resource.RLIM_INFINITY else min(count, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


async def _run(open_address: Address | None, secure_address: Address | None, key: str) -> bool:
    """Listen until a signal; return whether that was the reason to end."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    listener = ForwardListener(shared_key=key)
    await listener.start(open_address=open_address, secure_address=secure_address)
    gc.collect()
    gc.freeze()
    logger.info("the forward listener is ready", open=_told(open_address), with_shared_key=_told(secure_address))
    ends = [asyncio.ensure_future(event.wait()) for event in (stopping, listener.failed)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    is_stored = await listener.drain()
    for end in ends:
        end.cancel()
    if not is_stored:
        logger.error("records were read that could not be stored in time; nobody was told that they are")
    return not listener.failed.is_set()


def _told(address: Address | None) -> str:
    return f"{address.host}:{address.port}" if address else "off"
