"""The live stream of alerts: every crossing of an organization handed to whoever listens, in order, each once.

Owns who has got what, and when to look again; does not own the wire (`config.streams`) nor the log
(`alerts.services.log`), which alone is the truth. Notifications of PostgreSQL only say that a look is worth it; a slow
poll finds what they did not tell, so losing them, or a pooler that does not pass them on, costs time and nothing else.

A listener is live, and then gets what each look finds, read and encoded once for all; or it reads the log by itself,
page by page, until it is where the looks are. Both happen in one event loop, so there is no moment in between.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection, sql

from accounts.models import Customer
from alerts.models import Crossing
from alerts.payloads import crossing_json
from alerts.services.log import CHANNEL
from alerts.sql.crossing_log import CrossingFilter, LoggedCrossing, find_ends, list_logged_crossings
from metering.models import Metric

# Without notifications an alert is this late at most.
POLL_SECONDS = 3.0
# A connection may be dead without telling: what takes longer than this is given up and begun anew.
QUERY_SECONDS = 20.0
# Between attempts to reach a database that is away: at first, and at most.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
# A listener waits at most this long for the first look, which says where the log ends.
FIRST_LOOK_SECONDS = 5.0
# What is read of the log at once, and through how many offsets a narrow filter is looked for at once.
PAGE_SIZE = 256
MAX_OFFSETS_PER_PAGE = 50_000
# What a reader gets at once: so much may be on its way to one that takes nothing.
MAX_ALERTS_PER_PIECE = 64
# A reader that takes nothing while more than this wait for it has fallen behind.
MAX_BEHIND = 64
# What may wait for one live listener: references, not copies. Beyond it the listener reads the log instead.
MAX_WAITING = 4_096

# As which an operator finds the connections in PostgreSQL.
APPLICATION_NAME = "meterbook alert stream"

logger = structlog.get_logger("meterbook.alert_stream")
Found = TypeVar("Found")


class LogUnavailable(Exception):
    """The database does not answer now."""


class Alert(NamedTuple):
    """A crossing, and what clients get of it as JSON."""

    crossing: LoggedCrossing
    body: bytes

    @property
    def offset(self) -> int:
        return self.crossing.offset


@dataclass(eq=False, slots=True)
class Feed:
    """One organization with listeners. `end`: up to where the looks have handed on the log; None before the first."""

    organization_id: int
    end: int | None = None
    listeners: "set[Listener]" = field(default_factory=set)
    has_end: asyncio.Event = field(default_factory=asyncio.Event)

    def begin_at(self, end: int) -> None:
        self.end = end
        self.has_end.set()

    def publish(self, alerts: Sequence[Alert], end: int) -> None:
        """Hand on what lies between the look before and this end."""
        self.end = end
        for listener in self.listeners:
            listener.offer(alerts, end)


@dataclass(eq=False, slots=True)
class Listener:
    """One reader. Everything up to `position` was handed out to it, or is none of its business."""

    feed: Feed
    filter: CrossingFilter
    position: int = 0
    # Is offered what is new. Otherwise it reads the log by itself, up to where the looks are.
    is_live: bool = False
    _waiting: deque[Alert] = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_behind(self) -> bool:
        """Tell whether more waits than may wait for a reader that takes nothing."""
        return self.is_live and len(self._waiting) > MAX_BEHIND

    def offer(self, alerts: Sequence[Alert], end: int) -> None:
        if not self.is_live:
            return
        self._waiting.extend(
            alert for alert in alerts if alert.offset > self.position and self.filter.matches(alert.crossing)
        )
        if not self._waiting:
            self.position = max(self.position, end)
            return
        if len(self._waiting) > MAX_WAITING:
            self.forget_waiting()
        self._news.set()

    def take(self) -> list[Alert]:
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_ALERTS_PER_PIECE))]
        if taken:
            self.position = taken[-1].offset
        return taken

    def take_page(self, alerts: Sequence[Alert], *, until: int, is_last: bool) -> None:
        """Note what was read of the log up to an offset; with the last page, be live from there on."""
        self._waiting.extend(alerts)
        self.is_live = is_last
        if not alerts:
            self.position = max(self.position, until)

    def forget_waiting(self) -> None:
        """Keep nothing for a reader that does not take it; what it missed is in the log."""
        self._waiting.clear()
        self.is_live = False

    async def await_news(self) -> None:
        self._news.clear()
        await self._news.wait()


class AlertStream:
    """All listeners of this process, on three connections. To be used inside one event loop."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._feeds: dict[int, Feed] = {}
        self._woken: set[int] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._news = _Line(database_url)
        self._backlogs = _Line(database_url)

    @property
    def listener_count(self) -> int:
        return sum(len(feed.listeners) for feed in self._feeds.values())

    @asynccontextmanager
    async def listen(self, organization_id: int, wanted: CrossingFilter, since: int | None) -> AsyncIterator[Listener]:
        """Yield a listener of every matching alert after the offset; without one, of what comes from now on.

        Raises `LogUnavailable` where the end of the log cannot be found out.
        """
        self._start()
        feed = self._feeds.setdefault(organization_id, Feed(organization_id))
        listener = Listener(feed, wanted)
        feed.listeners.add(listener)
        try:
            end = await self._find_end(feed)
            listener.position = end if since is None else since
            listener.is_live = listener.position >= end
            yield listener
        finally:
            feed.listeners.discard(listener)
            if not feed.listeners:
                del self._feeds[organization_id]

    async def next_alerts(self, listener: Listener) -> list[Alert]:
        """Return the next alerts, at least one, in order; wait for them. After `LogUnavailable` ask again."""
        while not (alerts := listener.take()):
            if listener.is_live:
                await listener.await_news()
            else:
                await self._read_backlog(listener)
        return alerts

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._news.close()
        await self._backlogs.close()

    async def _find_end(self, feed: Feed) -> int:
        if feed.end is None:
            self._wake_for({feed.organization_id})
            with suppress(TimeoutError):
                await asyncio.wait_for(feed.has_end.wait(), FIRST_LOOK_SECONDS)
        if feed.end is None:
            raise LogUnavailable
        return feed.end

    async def _read_backlog(self, listener: Listener) -> None:
        feed = listener.feed
        assert feed.end is not None  # nobody listens before it is known
        until = min(feed.end, listener.position + MAX_OFFSETS_PER_PAGE)
        found = await self._backlogs.ask(
            lambda connection: list_logged_crossings(
                connection,
                organization_id=feed.organization_id,
                after=listener.position,
                until=until,
                limit=PAGE_SIZE,
                wanted=listener.filter,
            )
        )
        # A look may have come meanwhile: its end counts, not the one from before.
        is_last = len(found) < PAGE_SIZE and until >= feed.end
        listener.take_page([_encode(crossing) for crossing in found], until=until, is_last=is_last)

    # --- looking ----------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._hear_for_ever()), asyncio.create_task(self._look_for_ever())]

    def _wake_for(self, organization_ids: Collection[int]) -> None:
        self._woken.update(organization_ids)
        self._wake.set()

    async def _hear_for_ever(self) -> None:
        """Pass notifications on until cancelled; each new connection begins with a look at what the last one missed."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with await _connect(self._database_url) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self._wake_for(self._feeds)
                    pause = FIRST_PAUSE_SECONDS
                    while True:
                        await self._hear(connection)
            except (psycopg.Error, TimeoutError, OSError) as error:
                logger.warning("the stream hears no notifications and polls", error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _hear(self, connection: AsyncConnection[Any]) -> None:
        """Pass notifications on for a while, then make sure that the other side is still there."""
        async for notification in connection.notifies(timeout=QUERY_SECONDS):
            if notification.payload.isdigit():
                self._wake_for({int(notification.payload)} & self._feeds.keys())
        async with asyncio.timeout(QUERY_SECONDS):
            await connection.execute("SELECT 1")

    async def _look_for_ever(self) -> None:
        """Look at those that a notification names, and now and then at all, until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        next_poll = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_poll):
                    await self._wake.wait()
            self._wake.clear()
            woken, self._woken = self._woken, set()
            now = asyncio.get_running_loop().time()
            if now >= next_poll:
                woken, next_poll = set(self._feeds), now + POLL_SECONDS
            try:
                await self._look(woken)
                pause = FIRST_PAUSE_SECONDS
            except LogUnavailable as error:
                logger.warning("the stream lost the database and asks again", error=type(error.__cause__).__name__)
                self._wake_for(woken)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _look(self, organization_ids: Collection[int]) -> None:
        """Hand on what is new: of each organization one page, so that a flood in one does not keep the others waiting.

        One query, and one for each organization with news.
        """
        feeds = [self._feeds[number] for number in organization_ids if number in self._feeds]
        if not feeds:
            return
        numbers = [feed.organization_id for feed in feeds]
        ends = await self._news.ask(lambda connection: find_ends(connection, organization_ids=numbers))
        for feed in feeds:
            end = ends[feed.organization_id]
            if feed.end is None:
                feed.begin_at(end)
            elif feed.end < end:
                await self._hand_on(feed, feed.end, end)
                if feed.end < end:
                    self._wake_for({feed.organization_id})

    async def _hand_on(self, feed: Feed, after: int, end: int) -> None:
        found = await self._news.ask(
            lambda connection: list_logged_crossings(
                connection, organization_id=feed.organization_id, after=after, until=end, limit=PAGE_SIZE
            )
        )
        is_last = len(found) < PAGE_SIZE
        feed.publish([_encode(crossing) for crossing in found], end if is_last else found[-1].offset)


class _Line:
    """One connection for one question at a time; made when it is needed, and again after it broke."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None

    async def ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[Found]]) -> Found:
        """Return the answer. Raises `LogUnavailable`."""
        async with self._lock:
            if self._connection is not None:
                # It may have ended long ago without our noticing; then a new one answers.
                with suppress(LogUnavailable):
                    return await self._ask(question)
            return await self._ask(question)

    async def _ask(self, question: Callable[[AsyncConnection[Any]], Awaitable[Found]]) -> Found:
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                if self._connection is None:
                    self._connection = await _connect(self._database_url)
                return await question(self._connection)
        except (psycopg.Error, TimeoutError, OSError) as error:
            await self.close()
            raise LogUnavailable from error
        except asyncio.CancelledError:
            await self.close()  # in the middle of an answer
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _connect(database_url: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(
        database_url,
        autocommit=True,
        connect_timeout=10,
        application_name=APPLICATION_NAME,
        # Nothing is prepared on the connection: behind a pooler it may be another one with each question.
        prepare_threshold=None,
    )


def _encode(crossing: LoggedCrossing) -> Alert:
    """Return the crossing with the one JSON shape of alerts, which takes rows of the model."""
    row = Crossing(
        offset=crossing.offset,
        customer=None if crossing.customer is None else Customer(external_id=crossing.customer),
        metric=Metric(code=crossing.metric),
        threshold_code=crossing.threshold_code,
        threshold_value=crossing.threshold_value,
        value_at_cross=crossing.value_at_cross,
        period_start=crossing.period_start,
        period_end=crossing.period_end,
        triggered_at=crossing.triggered_at,
    )
    return Alert(crossing, msgspec.json.encode(crossing_json(row)))
