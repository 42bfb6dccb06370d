"""kill -9 during ingest, a few rounds; `python -m benchmarks.chaos` does many, also of the parts of each."""

from __future__ import annotations

from benchmarks.chaos.experiment import run_experiment
from benchmarks.chaos.victims import MAIN


def test_nothing_acknowledged_is_lost_or_counted_twice() -> None:
    """Web, worker, PostgreSQL and Redis are killed in turn while clients send, void, and repeat what broke."""
    report = run_experiment(rounds=len(MAIN), seed=4, victims=MAIN, quiet_seconds=(0.2, 0.8), say=print)

    verdict = report.verdict
    assert verdict.faults == []
    assert [finished.victims[0] for finished in report.rounds] == list(MAIN)
    # It was about something: events of both kinds came through, and requests had to be repeated.
    assert verdict.sync_acknowledged > 100
    assert verdict.async_acknowledged > 100
    assert verdict.retries > 0
