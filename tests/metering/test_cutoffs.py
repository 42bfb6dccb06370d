"""Cut-offs: what a snapshot at one says is what reads by it say ever after, and what a fold of its raw events says."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from threading import Event as Signal
from time import monotonic, sleep
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from accounts.models import Organization
from metering import queries
from metering.dialects.native import decode_json
from metering.domain import Cutoff, Granularity
from metering.models import Event, EventVoid
from metering.queries import CountedEvent
from metering.queries.reading import RangeNotKept
from metering.services import cutoffs
from metering.services.cutoffs import CutoffBusy, snapshot_at_cutoff
from metering.services.metrics import update_metric
from metering.services.queue import accept_events, drain_queue
from metering.services.retention import prune_organization
from metering.services.rollup import RollupBusy
from metering.services.voids import AlreadyVoided
from tests.metering.meter import Meter, encode_body, utc
from tests.scenarios.racing import race

START, END = utc(2026, 11, 1, 0, 0, 30), utc(2026, 11, 20, 12)
CUSTOMERS = ("ann", "bob", "cy")
AGGREGATIONS = ("count", "sum", "max", "min", "latest", "count_unique")
DIMENSIONS = ({"key": "region", "values": ["us", "eu"]}, {"key": "tier"})
GROUPINGS: tuple[tuple[str, ...], ...] = ((), ("region",), ("tier", "region"))
PATIENCE = 30.0

# Per metric, grouping and customer: its groups with their values.
Numbers = dict[tuple[str, tuple[str, ...], int], dict[tuple[str | None, ...], Decimal]]


@pytest.fixture
def metered(meter: Meter) -> Meter:
    """Six metrics: five of the numbers of events `use`, one of the members whom events `seat` add and remove."""
    for aggregation in AGGREGATIONS:
        event_type = "seat" if aggregation == "count_unique" else "use"
        meter.define(aggregation, aggregation, event_type=event_type, dimensions=DIMENSIONS)
    return meter


class Sender:
    """Random events with known keys; times coincide often."""

    def __init__(self, meter: Meter, seed: str) -> None:
        self.meter, self.seed, self.random, self.keys = meter, seed, random.Random(seed), list[str]()

    def draw(self) -> dict[str, Any]:
        choose = self.random.choice
        key = f"{self.seed}-{len(self.keys)}"
        self.keys.append(key)
        properties = {"region": choose(["us", "eu", "ap", None]), "tier": choose(["free", "pro"])}
        event = {
            "idempotency_key": key,
            "customer": choose(CUSTOMERS),
            "timestamp": (utc(2026, 11, choose([1, 1, 7, 20]), choose([0, 0, 3]), choose([0, 1]))).isoformat(),
            "properties": {name: value for name, value in properties.items() if value},
        }
        if self.random.random() < 0.5:
            return {**event, "type": "use", "value": choose([1, 2, 5, Decimal("0.25"), -3])}
        return {**event, "type": "seat", "value": choose("abcde"), "operation": choose(["add", "add", "remove"])}

    def send(self, count: int, *, at: datetime | None = None) -> None:
        self.meter.send_all(*(self.draw() for _ in range(count)), at=at)

    def void_one(self) -> None:
        with suppress(AlreadyVoided):
            self.meter.void(self.random.choice(self.keys))


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    """Return what runs something on a connection of its own."""

    def run(act: Callable[[], Any]) -> Any:
        try:
            return act()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        yield lambda act: pool.submit(run, act)


# --- reading in two ways --------------------------------------------------------------------------------------


def read(meter: Meter, as_of: datetime | Cutoff | None = None) -> Numbers:
    """Return every number of every customer by the bulk reads."""
    ids = [meter.customer_id(name) for name in CUSTOMERS]
    numbers: Numbers = {}
    for code, metric in meter.metrics.items():
        for keys in GROUPINGS if metric.dimensions else ((),):
            customers = queries.list_customer_groups(
                organization=meter.organization,
                metric=metric,
                start=START,
                end=END,
                group_by=keys,
                customer_ids=ids,
                as_of=as_of,
            )
            for customer_id, groups in customers.items():
                found = {tuple(group[key] for key in keys): value for group, value in groups}
                assert len(found) == len(groups)
                numbers[code, keys, customer_id] = found
    return numbers


def fold(meter: Meter, as_of: datetime | Cutoff | None) -> Numbers:
    """Return the same from the raw events, in pages of seven."""
    numbers: Numbers = {}
    for code, metric in meter.metrics.items():
        for customer_id in map(meter.customer_id, CUSTOMERS):
            events = list(iterate(meter, code, customer_id, as_of))
            assert [event.offset for event in events] == sorted({event.offset for event in events})
            for keys in GROUPINGS if metric.dimensions and events else ((),) if events else ():
                groups: dict[tuple[str | None, ...], list[CountedEvent]] = defaultdict(list)
                for event in events:
                    groups[tuple(event.dimensions[key] for key in keys)].append(event)
                numbers[code, keys, customer_id] = {
                    group: aggregate(metric.aggregation, members) for group, members in groups.items()
                }
    return numbers


def iterate(meter: Meter, code: str, customer_id: int, as_of: datetime | Cutoff | None) -> Iterator[CountedEvent]:
    after = None
    while page := queries.iterate_counted_events(
        organization=meter.organization,
        metric=meter.metrics[code],
        customer_id=customer_id,
        start=START,
        end=END,
        as_of=as_of,
        after=after,
        limit=7,
    ):
        yield from page
        after = page[-1].offset


def aggregate(aggregation: str, events: Sequence[CountedEvent]) -> Decimal:
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.offset))
    if aggregation == "count":
        return Decimal(len(ordered))
    if aggregation == "count_unique":
        last = {event.member: event.operation for event in ordered}
        return Decimal(list(last.values()).count("add"))
    quantities = [event.quantity for event in ordered if event.quantity is not None]
    of: dict[str, Callable[[list[Decimal]], Decimal]] = {
        "sum": lambda found: sum(found, Decimal(0)),
        "max": max,
        "min": min,
        "latest": lambda found: found[-1],
    }
    return of[aggregation](quantities)


# --- the tests ------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_queue")
def test_a_snapshot_its_cutoff_later_and_a_fold_of_its_events_agree(
    metered: Meter, in_background: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    before, after = Sender(metered, "before"), Sender(metered, "after")
    before.send(120)
    metered.roll_up()
    before.send(40)
    for _ in range(20):
        before.void_one()
    # Arrived before the cut-off, and stored after it.
    waiting = decode_json(encode_body([after.draw() for _ in range(20)]))
    accept_events(organization=metered.organization, events=waiting, now=timezone.now())

    def go_on() -> None:
        assert drain_queue(now=timezone.now()) == 20
        after.send(60)
        after.keys += before.keys
        for _ in range(40):
            after.void_one()
        metered.roll_up()

    with snapshot_at_cutoff(organization=metered.organization) as cutoff:
        numbers = read(metered)
        in_background(go_on).result(PATIENCE)
        assert read(metered) == numbers

    assert fold(metered, cutoff) == read(metered, cutoff) == numbers
    assert fold(metered, None) == read(metered) != numbers
    assert {key[0] for key in numbers} == set(AGGREGATIONS)
    assert {"(other)", None} <= {region for _, region in numbers["sum", ("tier", "region"), metered.customer_id("ann")]}


@pytest.mark.django_db(transaction=True)
def test_every_read_takes_a_cutoff(metered: Meter) -> None:
    sender = Sender(metered, "k")
    sender.send(60)
    sender.void_one()
    names: dict[str, Any] = {"organization": metered.organization, "start": START, "end": END}

    def read_all(as_of: Cutoff | None) -> list[Any]:
        ids = [metered.customer_id(name) for name in CUSTOMERS]
        answers: list[Any] = []
        for metric in metered.metrics.values():
            own = {**names, "metric": metric, "as_of": as_of}
            answers += [queries.get_usage(**own), queries.list_breakdown(**own, group_by=("customer", "region"))]
            answers.append(queries.list_customer_values(**own, customer_ids=ids))
            series = queries.get_series(
                **own, granularity=Granularity.DAY, zone="UTC", now=metered.now, group_by=("tier",)
            )
            answers.append({repr(line.group): line.points for line in series.lines})
        return answers

    with snapshot_at_cutoff(organization=metered.organization) as cutoff:
        answers = read_all(None)
    sender.send(60)
    sender.void_one()
    metered.roll_up()

    assert read_all(cutoff) == answers
    assert read_all(None) != answers


@pytest.mark.django_db(transaction=True)
def test_a_cutoff_waits_for_what_is_being_stored_and_counts_it(
    metered: Meter, in_background: Callable[[Callable[[], Any]], Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(metered, "k")
    sender.send(50)
    stored, may_commit = Signal(), Signal()

    def store_slowly() -> None:
        with transaction.atomic():
            sender.send(30)
            stored.set()
            assert may_commit.wait(PATIENCE)

    def draw() -> tuple[Cutoff, Numbers]:
        with snapshot_at_cutoff(organization=metered.organization) as cutoff:
            return cutoff, read(metered)

    slow = in_background(store_slowly)
    assert stored.wait(PATIENCE)
    with monkeypatch.context() as impatient:
        impatient.setattr(cutoffs, "LOCKS", tuple((lock, 50) for lock, _ in cutoffs.LOCKS))
        with pytest.raises(CutoffBusy):
            draw()
    assert count_locks() == 0
    metered.void("k-0")  # nobody holds the rollups
    drawing = in_background(draw)
    wait_until(lambda: count_locks() == 2)  # one granted, one waited for
    behind = in_background(partial(Sender(metered, "behind").send, 10))
    sleep(0.05)
    assert not drawing.done()
    assert not behind.done()
    may_commit.set()
    slow.result(PATIENCE)
    cutoff, numbers = drawing.result(PATIENCE)
    behind.result(PATIENCE)

    events = Event.objects.for_organization(metered.organization).filter(occurred_at__gte=START)
    assert list_counted_keys(metered, cutoff) == {event.idempotency_key for event in events} & {*sender.keys[1:]}
    assert read(metered, cutoff) == numbers
    assert count_locks() == 0


def list_counted_keys(meter: Meter, cutoff: Cutoff) -> set[str]:
    return {
        event.idempotency_key
        for code in ("count", "count_unique")
        for name in CUSTOMERS
        for event in iterate(meter, code, meter.customer_id(name), cutoff)
    }


EXCLUSIVE_LOCKS = """
SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND locktype = 'advisory' AND mode = 'ExclusiveLock' AND classid = ANY(%s)
"""


def count_locks() -> int:
    """Count who holds an organization's rollups or fence alone, or waits for it."""
    with connection.cursor() as cursor:
        cursor.execute(EXCLUSIVE_LOCKS, [[lock for lock, _ in cutoffs.LOCKS]])
        return int(cursor.fetchone()[0])


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < give_up_at
        sleep(0.01)


@pytest.mark.django_db(transaction=True)
def test_cutoffs_drawn_in_a_storm_stay_true(metered: Meter) -> None:
    """Senders, voids, replacements, the worker and changes of metrics go on while cut-offs are drawn."""
    steady = metered.define("steady", "count", event_type="steady")
    for name in CUSTOMERS:
        metered.send_all(*({"idempotency_key": f"{name}-{n}-0", **steady_event(name)} for n in range(5)))
    is_over = Signal()

    def until_over(act: Callable[[int], None]) -> int:
        turns = 0
        try:
            while not is_over.is_set():
                act(turns)
                turns += 1
        except BaseException:
            is_over.set()
            raise
        return turns

    sender = Sender(metered, "k")
    sender.send(10)

    def send(turn: int) -> None:
        sender.send(12, at=timezone.now())
        if turn % 3 == 0:
            sender.void_one()

    def exchange(turn: int) -> None:
        """Replace each steady event in turn, so that there are always as many."""
        name, (round_number, number) = CUSTOMERS[turn % 3], divmod(turn // 3, 5)
        prefix = f"{name}-{number}"
        event = {"idempotency_key": f"{prefix}-{round_number + 1}", **steady_event(name)}
        metered.replace(f"{prefix}-{round_number}", event)

    def work(turn: int) -> None:
        with suppress(RollupBusy):
            metered.roll_up()
        sleep(0.02)
        if turn % 5 == 0:  # not faster than a batch can be stored
            changes = {"name": f"Name {turn}"}
            update_metric(organization=metered.organization, metric=steady, changes=changes, actor="test")

    drawn: list[tuple[Cutoff, Numbers]] = []

    def draw(turn: int) -> None:
        with snapshot_at_cutoff(organization=metered.organization) as cutoff:
            drawn.append((cutoff, read(metered)))
        if turn == 9:
            is_over.set()

    metered.roll_up()
    turns = race([partial(until_over, act) for act in (send, exchange, work, draw)])

    assert len(drawn) == turns[-1] == 10
    assert min(turns) >= 3
    assert len({cutoff.id for cutoff, _ in drawn}) == 10
    for cutoff, numbers in drawn:
        assert read(metered, cutoff) == numbers
        assert [numbers["steady", (), metered.customer_id(name)] for name in CUSTOMERS] == [{(): Decimal(5)}] * 3
    assert fold(metered, drawn[4][0]) == drawn[4][1]
    assert count_locks() == 0


def steady_event(customer: str) -> dict[str, Any]:
    return {"customer": customer, "type": "steady", "timestamp": utc(2026, 11, 7).isoformat()}


@pytest.mark.django_db(transaction=True)
def test_an_error_in_the_block_releases_everything(metered: Meter) -> None:
    Sender(metered, "k").send(1)

    def fail() -> None:
        with snapshot_at_cutoff(organization=metered.organization):
            assert count_locks() == 0  # others go on while the snapshot is read
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert not connection.in_atomic_block
    metered.void("k-0")


@pytest.mark.django_db
def test_a_cutoff_is_refused_in_a_transaction(org: Organization) -> None:
    with pytest.raises(RuntimeError), snapshot_at_cutoff(organization=org):
        pass


@pytest.mark.django_db
def test_a_void_without_a_number_was_known_at_every_cutoff(metered: Meter) -> None:
    """As those are that were written before there were cut-offs."""
    metered.send_all({"idempotency_key": "k", "customer": "ann", "type": "use", "value": 3})
    cutoff = Cutoff(2**40, metered.now)
    metered.void("k")
    EventVoid.objects.for_organization(metered.organization).update(known_id=0)

    assert metered.value("sum", START, END + timedelta(days=1), as_of=Cutoff(2, cutoff.at)) == 0
    assert metered.value("sum", START, END + timedelta(days=1), as_of=cutoff) == 0


@pytest.mark.django_db
def test_events_that_were_let_go_are_told_and_not_passed_over(metered: Meter, now: datetime) -> None:
    sent = {"customer": "ann", "type": "use", "value": 3, "timestamp": utc(2026, 11, 7).isoformat()}
    metered.send_all(sent, at=utc(2026, 11, 7))
    metered.roll_up()
    metered.organization.raw_retention_days = 5
    prune_organization(organization=metered.organization, now=now)

    with pytest.raises(RangeNotKept):
        list(iterate(metered, "sum", metered.customer_id("ann"), None))
    with pytest.raises(RangeNotKept):
        list(iterate(metered, "sum", metered.customer_id("ann"), Cutoff(2**40, now)))
