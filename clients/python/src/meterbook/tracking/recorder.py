"""The recorder: takes what the middleware saw and sends it in batches, from a background thread.

Owns the bound on memory, the thread and the counts; does not own what is waiting to be sent (`meterbook.outbox`), nor
what a request counts for, which is the server's business.
"""

from __future__ import annotations

import atexit
import encodings.idna  # noqa: F401  # here, for the thread would import it, and a fork meanwhile leaves half of it
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, Unpack

from meterbook.errors import AuthenticationError, MeterbookError, NotFoundError, PermissionRefusedError
from meterbook.outbox import BufferCounters
from meterbook.tracking.options import Sources, TrackingOptions
from meterbook.tracking.queue import RequestQueue, attempt
from meterbook.tracking.routes import UNKNOWN, BodyNeeds
from meterbook.tracking.watch import Watch, encode_request
from meterbook.transport import SyncTransport
from meterbook.verbs import requests, settings
from meterbook.wire import NO_RETRY, Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_CLOSE_SECONDS = 30.0
JOIN_SECONDS = 2.0
STUMBLE_SECONDS = 1.0
# How soon a request is on disk, where there is a spool.
SPOOL_SECONDS = 0.1
# How often the server's settings and routes are looked up: usually, after a failure, and where the key may not.
LOOKUP_SECONDS, LOOKUP_AGAIN_SECONDS, REFUSED_SECONDS = 60.0, 5.0, 600.0
# More than can ever wait: nobody is to wake the thread.
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class TrackingCounters:
    """What became of the requests. `recorded` is the sum of pending, stored, duplicates and rejected.

    `dropped` found no room in memory or on disk. `failed` counts what went wrong while a request was observed, in a
    function that names its user for example: it was served all the same.
    """

    recorded: int = 0
    pending: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    dropped: int = 0
    failed: int = 0


class RequestRecorder:
    """A bounded buffer between the requests of an application and the server.

    Guarantees: `add` waits for neither network nor disk and never raises; memory is bounded, what does not fit is
    dropped and counted; a recorded request is sent, always with the same id, until the server has given a verdict.
    At the interpreter's exit it is flushed for up to `exit_seconds`; a killed process loses what it had not sent,
    or with a spool (`database_path`) about the last tenth of a second. After a fork the child begins empty, with
    threads of its own; the parent sends what it had. Safe to share among threads.
    """

    def __init__(self, transport: SyncTransport, **options: Unpack[TrackingOptions]) -> None:
        self._transport = transport
        self._sources = Sources.read(options)
        self.tracking = self._sources.without_server()
        # What bodies the routes' expressions read.
        self.bodies: BodyNeeds = UNKNOWN
        self._start_afresh()
        atexit.register(self._close_at_exit)
        _live_recorders.add(self)
        if self.tracking.database_path is not None and self.tracking.is_enabled:
            with self._changed:
                self._ensure_thread()  # an earlier process may have left something

    def _start_afresh(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._queue: RequestQueue | None = None  # the thread's
        # What was not looked at yet, and everything without a verdict, those included.
        self._arrived: deque[Watch] = deque()
        # Requests with bodies, as long as nobody knows whether these are to be sent; for whoever takes what arrived.
        self._held: deque[Watch] = deque()
        self._waiting_count = self._waiting_bytes = 0
        # All that was ever taken in; what of it was given up, and what was never taken in.
        self._taken_count = self._discarded_count = 0
        self._dropped_count = self._failed_count = 0
        self._verdicts = BufferCounters()
        # The thread sleeps until so many have arrived.
        self._wake_at = 1
        # How often what had arrived was written to disk.
        self._written_count = 0
        # Everything up to this many must go now, whether or not a batch is full.
        self._flush_target = 0
        self._is_asked = self._is_closed = self._is_stopped = self._is_overflowing = False
        # Whether the recorder was closed and the routes could not be looked up once more.
        self._is_look_up_over = False
        self._look_up_at = self._not_before = 0.0
        self.last_failure: Exception | None = None

    # --- the side of the requests ---

    @property
    def is_enabled(self) -> bool:
        """Whether requests are to be recorded: not where the program, the environment or the server says no."""
        return self.tracking.is_enabled

    def add(self, watch: Watch) -> bool:
        """Take a request that is over; return False when there was no room. Waits for nobody and raises nothing."""
        weight = watch.weight
        with self._changed:
            has_room = self._has_room(weight)
            if has_room:
                self._arrived.append(watch)
                self._taken_count += 1
                self._waiting_count += 1
                self._waiting_bytes += weight
                if len(self._arrived) >= self._wake_at:
                    self._wake_at = NEVER
                    self._wake()
            else:
                self._dropped_count += 1
                is_news, self._is_overflowing = not self._is_overflowing, True
        if not has_room and is_news:
            logger.warning("There is no room for more requests; those that come now are not recorded.")
        return has_room

    def note_failure(self, failure: Exception) -> None:
        """Count that a request could not be observed as it should; log the first of them."""
        with self._changed:
            self._failed_count += 1
            is_news = self._failed_count == 1
        if is_news:
            logger.warning("A request could not be recorded as it should; its answer is not touched.", exc_info=failure)

    def _has_room(self, weight: int) -> bool:
        tracking = self.tracking
        return (
            not self._is_closed
            and self._waiting_count < tracking.max_requests
            and self._waiting_bytes + weight <= tracking.max_bytes
        )

    def _wake(self) -> None:
        self._ensure_thread()
        self._changed.notify_all()

    # --- the side of the program ---

    @property
    def counters(self) -> TrackingCounters:
        with self._changed:
            verdicts = self._verdicts
            return TrackingCounters(
                recorded=self._taken_count - self._discarded_count,
                pending=self._waiting_count,
                stored=verdicts.stored,
                duplicates=verdicts.duplicates,
                rejected=verdicts.rejected,
                dropped=self._dropped_count,
                failed=self._failed_count,
            )

    def render_metrics(self) -> str:
        """Return the counters as text for a page that Prometheus reads."""
        counters = self.counters
        outcomes = ("stored", "duplicates", "rejected", "dropped", "failed")
        return "\n".join(
            [
                "# HELP meterbook_tracking_requests_total Requests by what became of their records.",
                "# TYPE meterbook_tracking_requests_total counter",
                *(
                    f'meterbook_tracking_requests_total{{outcome="{name}"}} {getattr(counters, name)}'
                    for name in outcomes
                ),
                "# HELP meterbook_tracking_requests_pending Records without a verdict.",
                "# TYPE meterbook_tracking_requests_pending gauge",
                f"meterbook_tracking_requests_pending {counters.pending}",
                "",
            ]
        )

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was recorded so far without waiting for more; return whether all of it has a verdict."""
        with self._changed:
            target = self._flush_target = self._taken_count
            self._is_asked, self._not_before = True, 0.0
            if not self.bodies.is_known:
                self._look_up_at = 0.0
            if self._waiting_count:
                self._wake()
            self._changed.wait_for(lambda: self._is_stopped or self._departed_count >= target, timeout)
            return self._departed_count >= target

    def close(self, timeout: float | None = DEFAULT_CLOSE_SECONDS) -> bool:
        """Take no more requests, flush, and end the thread; return whether every request has a verdict.

        What is left after the timeout stays in the spool, if there is one.
        """
        with self._changed:
            self._is_closed = True
        is_all_settled = self.flush(timeout)
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        atexit.unregister(self._close_at_exit)
        if not is_all_settled:
            logger.warning("The recorder was closed with %d requests unsent.", self.counters.pending)
        return is_all_settled

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _departed_count(self) -> int:
        return self._taken_count - self._waiting_count

    # --- the thread ---

    def _ensure_thread(self) -> None:
        """Start the thread unless it runs; with the lock held."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._send_until_stopped, name="meterbook-tracking", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending: the next request tries again
            self._wake_at = 1
            return
        self._thread = thread
        # The processes of `multiprocessing`, such as granian's workers, end without running what `atexit` knows.
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:
            processes.Finalize(None, self._close_at_exit, exitpriority=100)

    def _send_until_stopped(self) -> None:
        queue = self._queue = RequestQueue(self.tracking, now=time.monotonic())
        self._take_over(queue.recovered_sizes)
        writer: threading.Thread | None = None
        if queue.is_on_disk:
            writer = threading.Thread(
                target=self._write_until_stopped, args=(queue,), name="meterbook-tracking-disk", daemon=True
            )
            writer.start()
        while not self._is_stopped:
            try:
                self._look_up()
                written_count = self._written_count
                if not queue.is_on_disk:
                    self._take_arrived(queue)
                self._wait(queue, self._send_if_due(queue), written_count)
            except Exception:  # without this thread nothing would be recorded any more
                logger.exception("The recorder stumbled and goes on.")
                time.sleep(STUMBLE_SECONDS)
        if writer is not None:
            writer.join()
        queue.close()

    def _write_until_stopped(self, queue: RequestQueue) -> None:
        """Write what arrives to disk soon, also while the other thread waits for a server that does not answer."""
        while True:
            try:
                self._take_arrived(queue)
            except Exception:  # as above
                logger.exception("The recorder stumbled and goes on.")
            with self._changed:
                self._written_count += 1
                self._changed.notify_all()
                self._wake_at = 1
                self._changed.wait_for(lambda: self._arrived or self._is_stopped or (self._held and self._may_release))
                if self._is_stopped and not self._arrived and not self._held:
                    return
                self._wake_at = NEVER
                is_stopped = self._is_stopped
            if not is_stopped:
                time.sleep(SPOOL_SECONDS)

    def _look_up(self) -> None:
        """Learn what the server's routes read of bodies, and its settings, from time to time."""
        now = time.monotonic()
        if now < self._look_up_at:
            return
        is_last = self._is_closed
        self._look_up_at = now + LOOKUP_SECONDS
        routes = self._ask(requests.list_routes(), if_refused=[])
        if routes is None:
            if is_last:
                self._end_look_up()
            elif self._is_closed:  # meanwhile: this was not the last time
                self._look_up_at = 0.0
            return
        self.bodies = BodyNeeds.of(routes)
        with self._changed:
            self._changed.notify_all()  # what is held can go
        found = self._ask(settings.get_all(), if_refused={})
        if found is not None:
            self.tracking = self._sources.with_server(found)

    def _end_look_up(self) -> None:
        """Give up asking for the routes: what is held goes without its bodies, rather than not at all."""
        with self._changed:
            is_news, self._is_look_up_over = not self._is_look_up_over, True
            self._changed.notify_all()
        if is_news and not self.bodies.is_known:
            logger.warning("The routes could not be looked up: requests that are still held go without their bodies.")

    @property
    def _may_release(self) -> bool:
        """Whether nobody needs to wait for the routes any more, in order to send a request with bodies."""
        return self.bodies.is_known or self._is_look_up_over or self._is_stopped

    def _ask(self, plan: Plan[T], *, if_refused: T) -> T | None:
        """Return the answer, or None where there is none at present. Either way it is asked for again later."""
        try:
            return self._transport.run(plan, retry=NO_RETRY)
        except (AuthenticationError, PermissionRefusedError, NotFoundError) as refusal:
            self._look_up_at = time.monotonic() + REFUSED_SECONDS
            logger.info("The key may not ask how to record (%s): by the defaults, and without bodies.", refusal)
            return if_refused
        except Exception as failure:  # whatever it is, requests are recorded as before
            self._look_up_at = time.monotonic() + LOOKUP_AGAIN_SECONDS
            logger.info("The server could not be asked how to record: %s", failure)
            return None

    def _take_over(self, sizes: list[int]) -> None:
        """Count what another process left on disk as this one's."""
        with self._changed:
            self._taken_count += len(sizes)
            self._waiting_count += len(sizes)
            self._waiting_bytes += sum(sizes)

    def _take_arrived(self, queue: RequestQueue) -> None:
        """Encode what has arrived and queue it, on disk first where there is a spool."""
        with self._changed:
            arrived, self._arrived = self._arrived, deque()
        if self._may_release:
            arrived.extendleft(reversed(self._held))
            self._held.clear()
        queue.adjust(self.tracking)
        while arrived:
            watch = arrived.popleft()
            if watch.has_bodies and not self._may_release:
                self._held.append(watch)
                continue
            size: int | None = None
            try:
                encoded = encode_request(
                    watch, has_ip_address=self.tracking.has_ip_address, bodies=self.bodies.find(watch)
                )
                queue.put(encoded, now=time.monotonic())
                size = len(encoded)
            except OSError as failure:
                self._count_unspooled(failure)
            except Exception as failure:  # of this one request
                self.note_failure(failure)
            self._count_taken(watch.weight, size)

    def _count_taken(self, weight: int, size: int | None) -> None:
        with self._changed:
            self._waiting_bytes += (size or 0) - weight
            if size is None:
                self._waiting_count -= 1
                self._discarded_count += 1
                self._changed.notify_all()

    def _count_unspooled(self, failure: OSError) -> None:
        with self._changed:
            self._dropped_count += 1
            is_news, self._is_overflowing = not self._is_overflowing, True
        if is_news:
            logger.warning("Requests cannot be written to disk (%s); those that come now are not recorded.", failure)

    def _send_if_due(self, queue: RequestQueue) -> float | None:
        """Make one attempt if a batch is due. Return the seconds to wait; None: until a request arrives."""
        now = time.monotonic()
        seconds = queue.seconds_until_due(now=now)
        if seconds is None:
            left_behind = queue.adopt(now=now)
            self._take_over(left_behind)
            return 0.0 if left_behind else self._seconds_until_look_up(now)
        if self._departed_count < self._flush_target:
            seconds = 0.0
        seconds = max(seconds, self._not_before - now)
        if seconds <= 0:
            self._send(queue)
            return 0.0
        return seconds

    def _seconds_until_look_up(self, now: float) -> float | None:
        """None where nothing waits for it."""
        return max(self._look_up_at - now, 0.0) if self._held and not self._may_release else None

    def _send(self, queue: RequestQueue) -> None:
        batch = queue.next_batch()
        try:
            result = self._transport.run(attempt(batch, is_compressed=self.tracking.compression), retry=NO_RETRY)
        except Exception as failure:  # whatever it is, the requests must outlive it
            pause = queue.fail(failure)
            self.last_failure, self._not_before = failure, time.monotonic() + pause
            is_foreseen = isinstance(failure, MeterbookError)
            logger.warning(
                "Requests could not be sent (%s); trying again in %.1f s.",
                failure,
                pause,
                exc_info=None if is_foreseen else failure,
            )
            return
        self.last_failure = None
        if result is not None and result.errors:
            first = result.errors[0]
            logger.warning("%d requests were rejected; the first: %s %s", result.rejected, first.code, first.message)
        settled = queue.settle(batch, result, now=time.monotonic())
        verdicts = queue.counters  # not with our lock held: the queue's may wait for the disk
        with self._changed:
            self._waiting_count -= len(settled)
            self._waiting_bytes -= sum(len(encoded) for encoded in settled)
            self._verdicts = verdicts
            self._is_overflowing = self._is_overflowing and self._waiting_count > self.tracking.max_requests // 2
            self._changed.notify_all()

    def _wait(self, queue: RequestQueue, seconds: float | None, written_count: int) -> None:
        """Sleep until there is something to do: what was asked for, a full batch, or the time."""
        with self._changed:
            if self._is_stopped or self._is_asked or seconds == 0 or self._written_count != written_count:
                self._is_asked = False
                return
            if seconds is None and not self.is_enabled:
                seconds = LOOKUP_SECONDS  # without requests nobody would learn that they are wanted again
            if queue.is_on_disk:  # its other thread looks at what arrives
                self._changed.wait(seconds)
                return
            is_waiting_out = self._not_before > time.monotonic()
            if queue.count:
                self._wake_at = NEVER if is_waiting_out else max(1, self.tracking.batch_size - queue.count)
            else:
                self._wake_at = 1
            if len(self._arrived) < self._wake_at:
                self._changed.wait(seconds)
            self._wake_at = NEVER

    # --- the ends of a process ---

    def _close_at_exit(self) -> None:
        if not self._is_closed:
            self.close(self.tracking.exit_seconds)

    def _restart_in_child(self) -> None:
        """Make the recorder usable in a forked child, where its thread does not run and its lock may be held."""
        if self._queue is not None:
            self._queue.close()  # its files are the parent's, and so is the place in the spool
        self._start_afresh()


_live_recorders: weakref.WeakSet[RequestRecorder] = weakref.WeakSet()


def _restart_recorders_in_child() -> None:
    for recorder in list(_live_recorders):
        recorder._restart_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_restart_recorders_in_child)
