"""The clients' books against the server's, after everything has settled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from benchmarks.chaos.instance import Instance
from benchmarks.chaos.senders import Acknowledgement, Books, Event, Voider

# Redis writes its log before it answers and syncs it every second; while a sync is slow it may hold back up to two
# seconds of answered writes, and those are gone with the process. See `metering.services.queue`.
LOSS_WINDOW_SECONDS = 2.0
# The value of the recurring threshold on the number of jobs.
JOBS_PER_ALERT = 20


@dataclass(frozen=True, slots=True)
class Tenant:
    organization_id: int
    api_key: str


@dataclass(slots=True)
class Verdict:
    """What was found; `faults` is empty if every guarantee held."""

    faults: list[str] = field(default_factory=list)
    sync_acknowledged: int = 0
    async_acknowledged: int = 0
    async_lost: int = 0
    present: int = 0
    voided: int = 0
    retries: int = 0
    alerts: int = 0

    def require(self, condition: bool, fault: str) -> None:
        if not condition:
            self.faults.append(fault)


def judge(
    instance: Instance,
    tenant: Tenant,
    *,
    sync_books: Sequence[Books],
    async_books: Sequence[Books],
    voider: Voider,
    redis_kills: Sequence[float],
) -> Verdict:
    """Compare everything. The clients have stopped, and nothing waits any more."""
    verdict = Verdict(retries=sum(books.retries for books in (*sync_books, *async_books)))
    sent = {key: event for books in (*sync_books, *async_books) for key, event in books.sent.items()}
    present = _read_events(instance, tenant)
    verdict.present = len(present)
    _judge_sync(verdict, sync_books, present)
    _judge_async(verdict, async_books, present, redis_kills)
    _judge_contents(verdict, instance, tenant, sent, present)
    voided = _judge_voids(verdict, instance, tenant, voider)
    _judge_usage(verdict, instance, tenant, [sent[key] for key in present.keys() & sent.keys() - voided])
    _judge_rollups(verdict, instance, tenant)
    _judge_alerts(verdict, instance, tenant)
    for surprise, count in sum((books.surprises for books in (*sync_books, *async_books)), voider.surprises).items():
        verdict.faults.append(f"answered {count} times: {surprise}")
    return verdict


def _read_events(instance: Instance, tenant: Tenant) -> dict[str, tuple[str, datetime, Decimal]]:
    rows = instance.query(
        "SELECT idempotency_key, customer.external_id, occurred_at, value FROM metering_event AS event "
        "JOIN accounts_customer AS customer ON customer.id = event.customer_id WHERE event.organization_id = %s",
        tenant.organization_id,
    )
    return {key: (customer, at, value) for key, customer, at, value in rows}


def _judge_sync(verdict: Verdict, books: Iterable[Books], present: Mapping[str, object]) -> None:
    keys = {key for each in books for acknowledgement in each.acknowledged for key in acknowledgement.keys}
    verdict.sync_acknowledged = len(keys)
    missing = sorted(keys - present.keys())
    verdict.require(not missing, f"{len(missing)} acknowledged sync events are missing, such as {missing[:3]}")


def _judge_async(
    verdict: Verdict, books: Iterable[Books], present: Mapping[str, object], redis_kills: Sequence[float]
) -> None:
    """An acknowledged async event may be missing only if Redis was killed within the window after the answer."""
    acknowledged = [each for book in books for each in book.acknowledged]
    verdict.async_acknowledged = sum(len(each.keys) for each in acknowledged)
    for each in acknowledged:
        lost = [key for key in each.keys if key not in present]
        verdict.async_lost += len(lost)
        verdict.require(
            not lost or _is_within_window(each, redis_kills),
            f"{len(lost)} async events acknowledged outside the loss window are missing, such as {lost[:3]}",
        )


def _is_within_window(acknowledgement: Acknowledgement, kills: Sequence[float]) -> bool:
    return any(0 <= kill - acknowledgement.at <= LOSS_WINDOW_SECONDS for kill in kills)


def _judge_contents(
    verdict: Verdict,
    instance: Instance,
    tenant: Tenant,
    sent: Mapping[str, Event],
    present: Mapping[str, tuple[str, datetime, Decimal]],
) -> None:
    [(rows, offsets)] = instance.query(
        'SELECT count(*), count(DISTINCT "offset") FROM metering_event WHERE organization_id = %s',
        tenant.organization_id,
    )
    verdict.require(rows == offsets == len(present), f"{rows} rows, {offsets} offsets, {len(present)} keys")
    unknown = sorted(present.keys() - sent.keys())
    verdict.require(not unknown, f"{len(unknown)} events were never sent, such as {unknown[:3]}")
    changed = [
        key
        for key, content in present.items()
        if key in sent and content != (sent[key].customer, sent[key].at, sent[key].value)
    ]
    verdict.require(not changed, f"{len(changed)} events are not what was sent, such as {changed[:3]}")
    [(refused,)] = instance.query(
        "SELECT count(*) FROM metering_inboxevent WHERE organization_id = %s", tenant.organization_id
    )
    verdict.require(refused == 0, f"{refused} events ended in the inbox")


def _judge_voids(verdict: Verdict, instance: Instance, tenant: Tenant, voider: Voider) -> set[str]:
    rows = instance.query(
        "SELECT idempotency_key FROM metering_eventvoid WHERE organization_id = %s", tenant.organization_id
    )
    voided = {key for (key,) in rows}
    verdict.voided = len(voided)
    lost = sorted(voider.acknowledged - voided)
    verdict.require(not lost, f"{len(lost)} acknowledged voids are missing, such as {lost[:3]}")
    verdict.require(voided <= voider.asked, "events are voided that nobody asked to void")
    return voided


def _judge_usage(verdict: Verdict, instance: Instance, tenant: Tenant, events: Sequence[Event]) -> None:
    """Ask for every metric, by customer, and count the same by hand."""
    by_customer: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_customer[event.customer].append(event)
    expected = {
        "work_seconds": {name: sum((each.value for each in its), Decimal(0)) for name, its in by_customer.items()},
        "jobs": {name: Decimal(len(its)) for name, its in by_customer.items()},
        "longest": {name: max(each.value for each in its) for name, its in by_customer.items()},
        "people": {name: Decimal(len({each.person for each in its})) for name, its in by_customer.items()},
    }
    for metric, values in expected.items():
        found = _ask_usage(instance, tenant, metric)
        verdict.require(found == values, f"usage of {metric} is {found}, by hand {values}")


def _ask_usage(instance: Instance, tenant: Tenant, metric: str) -> dict[str, Decimal]:
    now = datetime.now(UTC)
    span = {"from": (now - timedelta(days=60)).isoformat(), "to": (now + timedelta(days=1)).isoformat()}
    query = urlencode({"metric": metric, "group_by": "customer", **span})
    answer = instance.get(f"/v1/usage/breakdown?{query}", {"Authorization": f"Bearer {tenant.api_key}"})
    return {row["group"]["customer"]: Decimal(row["value"]) for row in answer.get("rows", [])}


def _judge_rollups(verdict: Verdict, instance: Instance, tenant: Tenant) -> None:
    [(pending,)] = instance.query(
        "SELECT count(*) FROM metering_ingestbatch WHERE organization_id = %s AND state = 0", tenant.organization_id
    )
    verdict.require(pending == 0, f"{pending} batches are still pending")
    done = instance.manage("rebuild_rollups", "--verify", "--organization", str(tenant.organization_id))
    words = (done.stdout + done.stderr)[-1000:]
    verdict.require(done.returncode == 0, f"rollups differ from raw events:\n{words}")


def _judge_alerts(verdict: Verdict, instance: Instance, tenant: Tenant) -> None:
    """Every multiple that the number of jobs has reached was told, once for each time that voids armed it again."""
    offsets = [
        offset
        for (offset,) in instance.query(
            'SELECT "offset" FROM alerts_crossing WHERE organization_id = %s ORDER BY id', tenant.organization_id
        )
    ]
    verdict.alerts = len(offsets)
    verdict.require(offsets == list(range(1, len(offsets) + 1)), "the offsets of the alerts have gaps")
    # One row per customer and period: what the last evaluation saw, and which multiples were told.
    rows = instance.query(
        "SELECT customer.external_id, state.period_start, state.value, state.fired, state.arming, "
        "array_agg(crossing.multiple ORDER BY crossing.multiple) FILTER (WHERE crossing.multiple IS NOT NULL) "
        "FROM alerts_thresholdstate AS state "
        "JOIN accounts_customer AS customer ON customer.id = state.customer_id "
        "LEFT JOIN alerts_crossing AS crossing ON crossing.organization_id = state.organization_id "
        "AND crossing.threshold_id = state.threshold_id AND crossing.customer_id = state.customer_id "
        "AND crossing.period_start = state.period_start "
        "WHERE state.organization_id = %s GROUP BY 1, 2, 3, 4, 5",
        tenant.organization_id,
    )
    for customer, start, value, fired, arming, told in rows:
        whose = f"{customer} from {start:%Y-%m-%d}"
        counted = _ask_jobs(instance, tenant, customer, start)
        verdict.require(value == counted, f"{whose}: the last evaluation saw {value} of {counted} jobs")
        verdict.require(fired == value // JOBS_PER_ALERT, f"{whose}: {fired} multiples stand as told at {value}")
        verdict.require(set(range(1, fired + 1)) <= set(told or ()), f"{whose}: of {fired} multiples only {told} told")
        most = max((told.count(multiple) for multiple in told), default=0) if told else 0
        verdict.require(most <= 1 + arming, f"{whose}: told {most} times, though armed again {arming} times")


def _ask_jobs(instance: Instance, tenant: Tenant, customer: str, start: datetime) -> Decimal:
    following = (start + timedelta(days=32)).replace(day=1)
    span = {"from": start.isoformat(), "to": following.isoformat()}
    query = urlencode({"metric": "jobs", "customer": customer, **span})
    answer = instance.get(f"/v1/usage?{query}", {"Authorization": f"Bearer {tenant.api_key}"})
    return Decimal(answer["value"])
