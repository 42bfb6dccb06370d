"""Fixtures of the accounts tests."""

from collections.abc import Iterator

import pytest

from config.celery import app


@pytest.fixture
def eager_tasks() -> Iterator[None]:
    """Run tasks where they are queued."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False
