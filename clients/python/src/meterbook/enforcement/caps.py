"""Who is over which threshold now: a cache in memory, fed by the log of alerts and then by its stream.

Owns who is capped and until when; does not own what is done about it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self

from meterbook.alerts import Alert
from meterbook.client import Client
from meterbook.metrics import MetricPeriod
from meterbook.subscription import Subscription
from meterbook.verbs.alerts import Names, listed
from meterbook.wire import RetryPolicy

logger = logging.getLogger(__name__)

# Which alerts may belong to a period that still runs: those of its length, and some for zones and changed cycles.
LONGEST_DAYS = {"calendar": 31, "week": 7, "day": 1}
DEFAULT_DAYS = 30
MARGIN = timedelta(days=2)
# What is over is forgotten so often, when something new comes.
SWEEP_SECONDS = 60.0
BUFFER = 1_000
JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Cap:
    """Why a customer is turned away, and until when: the end of the period whose usage reached the threshold."""

    customer: str
    metric: str
    threshold_code: str
    threshold_value: Decimal
    until: datetime
    offset: int


class UsageCaps:
    """The customers that have crossed one of these thresholds in a period that still runs.

    At the start a background thread reads the alerts of the running periods, then follows the stream. Until that is
    done, and where the server cannot be reached, nobody is capped who is not known to be: requests are never held
    up, and `find_cap` costs a look into a dictionary. Every outage is waited out, and what happened meanwhile is
    learnt after it. Safe to share among threads, and to make before a fork: each child follows the stream itself.
    A void that takes a customer below a threshold again does not lift the cap; `lift` does.
    """

    def __init__(self, client: Client, *, thresholds: Names, metrics: Names = (), customers: Names = ()) -> None:
        self.thresholds = frozenset(listed(thresholds))
        if not self.thresholds:
            raise ValueError("Name the codes of the thresholds that cap; a warning's alert should not.")
        self._client = client
        self._metrics, self._customers = listed(metrics), listed(customers)
        self._caps: dict[str, dict[tuple[str, str], Cap]] = {}
        # The offset of the last alert that was looked at; None until the log was searched for the first.
        self._position: int | None = None
        self._swept_at = datetime.now(UTC)
        self._retry = RetryPolicy(first_delay=0.5, longest_delay=30.0)
        self.last_failure: Exception | None = None
        self._start_afresh()
        _live_caps.add(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._follow_until_closed, name="meterbook-caps", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    # --- the side that asks ---

    def find_cap(self, customer: str, metric: str | None = None, *, now: datetime | None = None) -> Cap | None:
        """Return what the customer (of this metric, or of any) is over now, the one that lasts longest; None: nothing.

        Never waits for the server.
        """
        if self._pid != os.getpid():
            self._restart_in_child()
        moment = datetime.now(UTC) if now is None else now
        with self._lock:
            known = self._caps.get(customer)
            if not known:
                return None
            running = [cap for cap in known.values() if cap.until > moment and metric in (None, cap.metric)]
        return max(running, key=lambda cap: cap.until, default=None)

    def is_capped(self, customer: str, metric: str | None = None, *, now: datetime | None = None) -> bool:
        return self.find_cap(customer, metric, now=now) is not None

    def lift(self, customer: str, metric: str | None = None) -> None:
        """Let the customer through again, because of a bigger plan for example, until something more is crossed.

        In this process: others, and this one after a restart, know only the log.
        """
        with self._lock:
            known = self._caps.get(customer, {})
            for key in [key for key, cap in known.items() if metric in (None, cap.metric)]:
                del known[key]

    @property
    def is_ready(self) -> bool:
        """Whether all alerts of the running periods have been read."""
        return self._ready.is_set()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait for `is_ready`; return whether it came within the timeout (seconds)."""
        return self._ready.wait(timeout)

    def close(self) -> None:
        """Stop following. What is known stays, and grows old."""
        self._closing.set()
        with self._lock:
            subscription = self._subscription
        if subscription is not None:
            subscription.close()
        if self._pid == os.getpid():
            self._thread.join(JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread ---

    def _follow_until_closed(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                self._read_log()
                failures, self.last_failure = 0, None
                self._follow_stream()
            except Exception as failure:  # whatever it is may pass, and nobody is served better without the thread
                if self._closing.is_set():
                    return
                self.last_failure = failure
                pause = self._retry.backoff(failures)
                failures += 1
                logger.warning("Caps cannot be followed (%s); trying again in %.1f s.", failure, pause)
                self._closing.wait(pause)

    def _read_log(self) -> None:
        """Take what the log holds after the last alert seen, at first from the oldest period on that still runs."""
        if self._position is None:
            self._position = self._client.alerts.find_position(
                customers=self._customers, metrics=self._metrics, before=self._oldest_start()
            )
        while not self._closing.is_set():
            page = self._client.alerts.list(
                since=self._position, customers=self._customers, metrics=self._metrics, limit=BUFFER
            )
            for alert in page:
                self._take(alert)
            if len(page) < BUFFER:
                self._ready.set()
                return

    def _oldest_start(self) -> datetime:
        periods = [
            metric.period for metric in self._client.metrics.list() if not self._metrics or metric.code in self._metrics
        ]
        days = max((_longest_days(period) for period in periods), default=DEFAULT_DAYS)
        return datetime.now(UTC) - timedelta(days=days) - MARGIN

    def _follow_stream(self) -> None:
        subscription = self._client.alerts.subscribe(
            customers=self._customers, metrics=self._metrics, since_offset=self._position, buffer=BUFFER
        )
        with self._lock:
            self._subscription = subscription
        with subscription:
            if self._closing.is_set():
                return
            for alert in subscription:
                self._take(alert)

    def _take(self, alert: Alert) -> None:
        now = datetime.now(UTC)
        with self._lock:
            self._position = alert.offset
            if (now - self._swept_at).total_seconds() > SWEEP_SECONDS:
                self._sweep(now)
            if alert.threshold_code in self.thresholds and alert.customer is not None and alert.period.end > now:
                key = (alert.metric, alert.threshold_code)
                self._caps.setdefault(alert.customer, {})[key] = _cap_of(alert, alert.customer)

    def _sweep(self, now: datetime) -> None:
        """Forget what is over."""
        self._swept_at = now
        running = {
            customer: {key: cap for key, cap in known.items() if cap.until > now}
            for customer, known in self._caps.items()
        }
        self._caps = {customer: known for customer, known in running.items() if known}

    # --- after a fork ---

    def _replace_lock_in_child(self) -> None:
        """The parent's thread may have held it; nobody would give it back here."""
        self._lock = threading.Lock()

    def _restart_in_child(self) -> None:
        with _restarting:
            if self._pid != os.getpid():
                self._start_afresh()


def _longest_days(period: MetricPeriod) -> int:
    return period.days or LONGEST_DAYS.get(period.type, DEFAULT_DAYS)


def _cap_of(alert: Alert, customer: str) -> Cap:
    return Cap(customer, alert.metric, alert.threshold_code, alert.threshold_value, alert.period.end, alert.offset)


_live_caps: weakref.WeakSet[UsageCaps] = weakref.WeakSet()
_restarting = threading.Lock()


def _replace_locks_in_child() -> None:
    global _restarting
    _restarting = threading.Lock()
    for caps in list(_live_caps):
        caps._replace_lock_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_replace_locks_in_child)
