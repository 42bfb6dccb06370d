"""Waking the worker: no wake-up is lost, none is multiplied, and no organization keeps the worker to itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from celery.exceptions import Retry
from django.conf import settings
from django.db import connection
from pytest_django.fixtures import Settings

from accounts.models import Organization
from common.redis import redis_client
from config.queues import QUICK_QUEUE
from metering import tasks
from metering.catalogs import MetricDefinition
from metering.incoming import IncomingEvent
from metering.models import Aggregation, BatchState, IngestBatch
from metering.services import rollup
from metering.services.ingest import ingest_events, validate_events
from metering.services.metrics import create_metric
from metering.services.queue import STREAM
from metering.services.rollup import RollupBusy, roll_up_in_turn, roll_up_organization
from metering.services.voids import void_event
from metering.services.wake import ROLL_UP_TASK, Turn, clear_follower_mark, wake_followers
from metering.sql.roll_up import ROLLUP_LOCK
from tests.scenarios.racing import race

QUEUE = QUICK_QUEUE  # Celery's list of waiting tasks


@pytest.fixture
def meters(org: Organization) -> Iterator[Organization]:
    create_metric(organization=org, definition=MetricDefinition("requests", Aggregation.COUNT), actor="test")
    keys = (QUEUE, mark(org), f"turn:{ROLL_UP_TASK}:{org.pk}")
    redis_client().delete(*keys)
    yield org
    redis_client().delete(*keys)


def mark(org: Organization) -> str:
    return f"wake:rollup:{org.pk}"


def send(org: Organization, now: datetime, *keys: str) -> None:
    """Store each event in a batch of its own."""
    for key in keys:
        event = IncomingEvent(idempotency_key=key, customer="cust_42", type="requests")
        assert ingest_events(organization=org, events=[event], now=now).stored == 1


def count_pending(org: Organization) -> int:
    return IngestBatch.objects.for_organization(org).filter(state=BatchState.PENDING).count()


def count_published(task: str = ROLL_UP_TASK) -> int:
    messages = [json.loads(message) for message in redis_client().lrange(QUEUE, 0, -1)]
    return sum(message["headers"]["task"] == task for message in messages)


@contextmanager
def rollups_locked(org: Organization) -> Iterator[None]:
    """Hold the organization's rollup lock on another connection, as a void or another worker does."""
    rival = connection.copy()
    with rival.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [ROLLUP_LOCK, org.pk])
        yield
    rival.close()


@pytest.mark.django_db(transaction=True)
class TestMark:
    def test_many_commits_wake_the_worker_once(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a", "b", "c")

        assert count_published() == 1

    def test_commit_after_the_worker_looked_wakes_it_again(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a")
        roll_up_organization(organization_id=meters.pk, now=now)
        send(meters, now, "b")

        assert count_published() == 2

    def test_commit_between_the_look_and_the_clearing_is_seen(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It publishes nothing, for the mark is still set."""
        send(meters, now, "a")
        clear = rollup.clear_rollup_mark

        def send_and_clear(*, organization_id: int) -> None:
            race([partial(send, meters, now, "b")])
            clear(organization_id=organization_id)
            monkeypatch.setattr(rollup, "clear_rollup_mark", clear)

        monkeypatch.setattr(rollup, "clear_rollup_mark", send_and_clear)
        roll_up_organization(organization_id=meters.pk, now=now)

        assert (count_published(), count_pending(meters)) == (1, 0)

    def test_changed_usage_wakes_its_followers_once_until_they_look(self, meters: Organization, now: datetime) -> None:
        [follower] = settings.USAGE_FOLLOWERS
        clear_follower_mark(task=follower, organization_id=meters.pk)
        for key in ("a", "b"):
            send(meters, now, key)
            roll_up_organization(organization_id=meters.pk, now=now)
        assert count_published(follower) == 1

        clear_follower_mark(task=follower, organization_id=meters.pk)
        void_event(organization=meters, idempotency_key="a", reason="a mistake", actor="test", now=now)

        assert count_published(follower) == 2

    def test_worker_that_finds_the_lock_taken_leaves_the_mark(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a")
        with rollups_locked(meters), pytest.raises(RollupBusy):
            roll_up_organization(organization_id=meters.pk, now=now)
        send(meters, now, "b")

        assert count_published() == 1  # the one that waits for the lock will find both

    def test_rollup_does_its_work_without_redis(
        self, meters: Organization, now: datetime, settings: Settings, tmp_path: Path
    ) -> None:
        send(meters, now, "a")
        settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"
        redis_client.cache_clear()
        try:
            roll_up_organization(organization_id=meters.pk, now=now)
            send(meters, now, "b")
        finally:
            redis_client.cache_clear()

        assert count_pending(meters) == 1

    def test_what_is_undone_wakes_nobody(self, meters: Organization, now: datetime) -> None:
        event = IncomingEvent(idempotency_key="a", customer="cust_42", type="requests")
        validate_events(organization=meters, events=[event], now=now)

        assert count_published() == 0


@pytest.mark.django_db
class TestChunks:
    @pytest.fixture(autouse=True)
    def _one_batch_per_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollup, "MAX_CHUNK_BATCHES", 1)

    def test_all_are_rolled_up_without_a_bound(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a", "b", "c")

        rolled = roll_up_organization(organization_id=meters.pk, now=now)

        assert (rolled.batches, rolled.is_unfinished, count_pending(meters)) == (3, False, 0)

    def test_bound_says_that_more_may_wait(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a", "b", "c")

        rolled = roll_up_organization(organization_id=meters.pk, now=now, max_chunks=2)

        assert (rolled.batches, rolled.is_unfinished, count_pending(meters)) == (2, True, 1)

    def test_lock_lost_between_chunks_keeps_what_was_done(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send(meters, now, "a", "b")
        answers = iter([True, False])
        monkeypatch.setattr("metering.sql.roll_up.try_lock", lambda **_: next(answers))

        rolled = roll_up_organization(organization_id=meters.pk, now=now)

        assert (rolled.batches, rolled.is_unfinished, count_pending(meters)) == (1, True, 1)


@pytest.mark.django_db(transaction=True)
class TestTurns:
    @pytest.fixture
    def turn(self, meters: Organization) -> Turn:
        """The turn as another worker has it."""
        return Turn(task=ROLL_UP_TASK, organization_id=meters.pk)

    def test_who_finds_the_turn_taken_leaves_the_work_and_the_mark(
        self, meters: Organization, now: datetime, turn: Turn
    ) -> None:
        send(meters, now, "a")
        assert turn.take()
        tasks.roll_up_organization_task.apply(args=(meters.pk,))
        send(meters, now, "b")

        assert (count_pending(meters), count_published()) == (2, 1)  # nobody waits, nobody is woken once more

    def test_what_comes_while_one_is_at_work_is_its_own_to_do(self, meters: Organization, now: datetime) -> None:
        """Commits wake nobody as long as there is something to do, and the worker takes all of it."""
        send(meters, now, "first")
        keys = ["a", "b", "c"]

        def send_one_more(*, organization_id: int) -> None:
            if keys:
                send(meters, now, keys.pop())

        rolled = roll_up_in_turn(organization_id=meters.pk, now=now, max_chunks=10, tell_followers=send_one_more)

        assert (rolled.is_unfinished, count_pending(meters), count_published()) == (False, 0, 1)

    def test_commit_between_the_last_look_and_the_end_is_not_left(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its task finds the turn still taken, and leaves."""
        send(meters, now, "a")
        give_back, keys = Turn.give_back, ["b"]

        def send_and_give_back(turn: Turn) -> None:
            if keys:
                send(meters, now, keys.pop())
                tasks.roll_up_organization_task.apply(args=(meters.pk,))
                assert count_pending(meters) == 1
            give_back(turn)

        monkeypatch.setattr(Turn, "give_back", send_and_give_back)
        roll_up_in_turn(organization_id=meters.pk, now=now, max_chunks=10, tell_followers=wake_followers)

        assert count_pending(meters) == 0

    def test_turn_is_given_back_when_the_lock_is_taken(self, meters: Organization, now: datetime, turn: Turn) -> None:
        roll_up = partial(roll_up_in_turn, organization_id=meters.pk, now=now, max_chunks=10)
        with rollups_locked(meters), pytest.raises(RollupBusy):
            roll_up(tell_followers=wake_followers)

        assert turn.take()

    def test_one_that_is_lost_is_free_again_after_a_while(
        self, meters: Organization, now: datetime, turn: Turn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("metering.services.wake.TURN_SECONDS", 0.05)
        assert Turn(task=ROLL_UP_TASK, organization_id=meters.pk).take()

        deadline = time.monotonic() + 10
        while not turn.take():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_without_redis_it_is_everybodys(self, meters: Organization, settings: Settings, tmp_path: Path) -> None:
        settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"
        redis_client.cache_clear()
        try:
            turns = [Turn(task=ROLL_UP_TASK, organization_id=meters.pk) for _ in range(2)]
            assert all(turn.take() for turn in turns)
            for turn in turns:
                turn.keep()
                turn.give_back()
        finally:
            redis_client.cache_clear()


@pytest.mark.django_db(transaction=True)
class TestTasks:
    def test_the_worker_runs_what_follows_itself(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [follower] = settings.USAGE_FOLLOWERS
        followed: list[tuple[int, int]] = []
        monkeypatch.setitem(current_app.tasks, follower, lambda pk: followed.append((pk, count_pending(meters))))
        monkeypatch.setattr(rollup, "MAX_CHUNK_BATCHES", 1)
        clear_follower_mark(task=follower, organization_id=meters.pk)
        send(meters, now, "a", "b")

        tasks.roll_up_organization_task.apply(args=(meters.pk,))

        assert followed == [(meters.pk, 1), (meters.pk, 0)]  # after each chunk, and after its commit
        assert count_published(follower) == 0

    def test_follower_that_fails_is_published_and_stops_no_rollup(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [follower] = settings.USAGE_FOLLOWERS

        def fail(organization_id: int) -> None:
            raise ZeroDivisionError

        monkeypatch.setitem(current_app.tasks, follower, fail)
        monkeypatch.setattr(rollup, "MAX_CHUNK_BATCHES", 1)
        clear_follower_mark(task=follower, organization_id=meters.pk)
        send(meters, now, "a", "b")

        tasks.roll_up_organization_task.apply(args=(meters.pk,))

        assert (count_pending(meters), count_published(follower)) == (0, 1)

    def test_sweep_finds_batches_that_nobody_was_woken_for(self, meters: Organization, now: datetime) -> None:
        send(meters, now, "a")
        redis_client().delete(QUEUE, STREAM)  # what other tests left in the queue would be swept as well

        tasks.sweep_pending_batches()

        assert count_published() == 1

    def test_unfinished_rollup_goes_to_the_end_of_the_queue(
        self, meters: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollup, "MAX_CHUNK_BATCHES", 1)
        monkeypatch.setattr(tasks, "MAX_CHUNKS_PER_TASK", 1)
        send(meters, now, "a", "b")
        redis_client().delete(QUEUE)

        tasks.roll_up_organization_task.apply(args=(meters.pk,))

        assert (count_pending(meters), count_published()) == (1, 1)

    @pytest.mark.parametrize(("is_swept", "published"), [(True, 0), (False, 1)], ids=["swept", "woken"])
    def test_only_a_woken_rollup_waits_for_the_lock(
        self, meters: Organization, now: datetime, is_swept: bool, published: int
    ) -> None:
        send(meters, now, "a")
        redis_client().delete(QUEUE)

        with rollups_locked(meters):
            task: Any = tasks.roll_up_organization_task
            # As the worker runs it: run directly, it would not publish its retry.
            task.push_request(id="test", called_directly=False, retries=0, args=[meters.pk], kwargs={})
            with suppress(Retry):
                task.run(meters.pk, is_swept=is_swept)
            task.pop_request()

        assert count_published() == published
