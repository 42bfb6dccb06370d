"""The shape of the project as a whole: who imports whom, and that migrations say what the models say."""

import pytest
from celery import current_app
from django.core.management import call_command
from importlinter.cli import lint_imports

from config.queues import QUICK_QUEUE, SLOW_QUEUE, SLOW_TASKS


def test_imports_point_downward() -> None:
    """The contracts are in `pyproject.toml`, under `tool.importlinter`."""
    assert lint_imports(no_cache=True) == 0


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_tasks_that_may_take_minutes_have_a_queue_of_their_own() -> None:
    """However they are published: they are routed by their names."""
    current_app.loader.import_default_modules()
    ours = [name for name in current_app.tasks if not name.startswith("celery.")]
    queues = {name: current_app.amqp.router.route({}, name)["queue"].name for name in ours}

    assert {name for name, queue in queues.items() if queue == SLOW_QUEUE} == set(SLOW_TASKS)
    assert set(queues.values()) == {QUICK_QUEUE, SLOW_QUEUE}
