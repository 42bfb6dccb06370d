"""Racing for tests: several runners on threads and database connections of their own, all let go at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from django.db import connections

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
