"""The courier: sends webhook messages that are due, each endpoint in its own pace, and writes down what came of it.

One asyncio process, or several beside each other: a delivery is taken with a lease, which ends by itself if its
courier is killed, so that a message is sent at least once and, while the lease lives, by one courier alone. Slow
endpoints cost a waiting task each and nothing else. Owns when and how many; does not own what a request may reach
(`alerts.clients.webhooks`), nor what follows from its outcome (`alerts.services.deliveries`).

The database is asked by short statements on one thread; NOTIFY wakes, and a slow poll finds what became due.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from random import randrange
from typing import Any, TypeVar

import msgspec
import psycopg
import structlog
from django.db import InterfaceError, OperationalError, close_old_connections, connections
from psycopg import AsyncConnection

from alerts.clients.webhooks import ATTEMPT_SECONDS, WebhookSender
from alerts.domain import Answer, Slots, allot_slots
from alerts.payloads import in_order
from alerts.services.deliveries import record_attempt, release_claims
from alerts.services.log import CHANNEL
from alerts.signatures import SecretUnreadable, open_secret, sign_message
from alerts.sql.due_deliveries import ClaimedDelivery, claim_deliveries, list_waiting
from common.telemetry import DELIVERIES

POLL_SECONDS = 1.5
# Long enough for an attempt and for writing down its outcome while the database is busy.
LEASE = timedelta(seconds=40)
# Endpoints looked at in one round, the longest waiting first.
MAX_WAITING = 1_000
RECONNECT_SECONDS = 2.0
# How long attempts under way may go on when the courier is told to stop; what is cut off is sent again.
GOODBYE_SECONDS = 5.0

Result = TypeVar("Result")
logger = structlog.get_logger("meterbook.courier")


class Courier:
    def __init__(
        self, *, database_url: str, sender: WebhookSender, slots: Slots | None = None, lease: timedelta = LEASE
    ) -> None:
        self._database_url = database_url
        self._sender = sender
        self._slots = slots or Slots()
        self._lease = lease
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._under_way: dict[asyncio.Task[None], ClaimedDelivery] = {}
        # Something may be due, or there is room for more.
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to return soon. Safe to call from a signal handler of the loop."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Send until `stop`; a database that is away is asked again."""
        listening = asyncio.create_task(self._listen())
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    await self._begin_due()
                except (OperationalError, InterfaceError) as error:
                    logger.warning("the courier lost the database and asks again", error=type(error).__name__)
                    await self._pause(RECONNECT_SECONDS)
                await self._pause(POLL_SECONDS, until=self._wake)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._finish()

    # --- sending ----------------------------------------------------------------------------------

    async def _begin_due(self) -> None:
        """Take as much of what is due as there is room for, and begin to send it."""
        now = datetime.now(UTC)
        waiting = await self._ask(partial(list_waiting, now=now, limit=MAX_WAITING))
        lanes = [claimed.lane for claimed in self._under_way.values()]
        room = allot_slots(waiting=waiting, under_way=lanes, slots=self._slots)
        if not room:
            return
        claims = await self._ask(partial(claim_deliveries, slots=room, now=now, until=now + self._lease))
        for claimed in claims:
            task = asyncio.create_task(self._deliver(claimed))
            self._under_way[task] = claimed
            task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._wake.set()
        if not task.cancelled() and (failure := task.exception()) is not None:
            # The lease ends by itself, and somebody tries again.
            logger.error("an attempt ended in an unforeseen way", exc_info=failure)

    async def _deliver(self, claimed: ClaimedDelivery) -> None:
        attempted_at = datetime.now(UTC)
        if attempted_at + timedelta(seconds=ATTEMPT_SECONDS) > claimed.leased_until:
            return  # this process stood still for long; somebody else may be about to send it
        answer = await self._send(claimed, attempted_at)
        DELIVERIES.labels("delivered" if answer.is_success else "failed").inc()
        record = partial(
            record_attempt,
            claimed=claimed,
            attempted_at=attempted_at,
            answer=answer,
            jitter=Fraction(randrange(1001), 1000),
        )
        # The outcome is known; a database that is away for a moment should not make us send it again.
        while datetime.now(UTC) < claimed.leased_until:
            with suppress(OperationalError, InterfaceError):
                await self._ask(lambda: record(now=datetime.now(UTC)))
                return
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _send(self, claimed: ClaimedDelivery, now: datetime) -> Answer:
        body = message_body(claimed.payload)
        sealed = [claimed.secret] if claimed.previous_secret is None else [claimed.secret, claimed.previous_secret]
        try:
            secrets = [open_secret(one) for one in sealed]
        except SecretUnreadable:
            return Answer(0, error="The secret cannot be read since SECRET_KEY changed; rotate it.")
        headers = sign_message(message_id=claimed.message_id, body=body, now=now, secrets=secrets)
        return await self._sender.post(claimed.url, headers=headers, body=body.encode())

    # --- waking -----------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Wake on every notification. Lost ones are found by the poll."""
        while True:
            with suppress(psycopg.Error):
                async with self._notifications() as connection:
                    self._wake.set()
                    async for _ in connection.notifies():
                        self._wake.set()
            await asyncio.sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _notifications(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with await AsyncConnection.connect(self._database_url, autocommit=True, connect_timeout=10) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            yield connection

    async def _pause(self, seconds: float, *, until: asyncio.Event | None = None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for((until or self._stopping).wait(), seconds)

    # --- the database -----------------------------------------------------------------------------

    async def _ask(self, question: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._database, _with_connection, question)

    async def _finish(self) -> None:
        """Let attempts under way end, for a moment; give back the rest."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=GOODBYE_SECONDS)
        cut_off = dict(self._under_way)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        with suppress(OperationalError, InterfaceError):  # then the leases end by themselves
            await self._ask(partial(release_claims, list(cut_off.values()), now=datetime.now(UTC)))
        await self._ask(connections.close_all)
        self._database.shutdown(wait=False)


def message_body(payload: dict[str, Any]) -> str:
    """Return the text that is signed and sent: the same for every attempt, the type first."""
    return msgspec.json.encode(in_order(payload)).decode()


def _with_connection(question: Callable[[], Result]) -> Result:
    close_old_connections()  # one that broke is opened anew
    return question()
