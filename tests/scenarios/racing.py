"""Racing for tests: several runners on threads and database connections of their own, all let go at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from django.db import connection, connections

Result = TypeVar("Result")
START_SECONDS = 30


def race(runners: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run all at once, each on its own connection; return their results in order, or raise the first error."""
    barrier = Barrier(len(runners))

    def run(runner: Callable[[], Result]) -> Result:
        try:
            barrier.wait(START_SECONDS)
            return runner()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(runners)) as pool:
        return [future.result() for future in [pool.submit(run, runner) for runner in runners]]


def count_waiting() -> int:
    """Return how many statements of this database wait for somebody's lock, also when asked within a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        [count] = cursor.fetchone()
    return int(count)
