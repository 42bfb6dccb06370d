"""The shape of the project as a whole: who imports whom, and that migrations say what the models say."""

import pytest
from django.core.management import call_command
from importlinter.cli import lint_imports


def test_imports_point_downward() -> None:
    """The contracts are in `pyproject.toml`, under `tool.importlinter`."""
    assert lint_imports(no_cache=True) == 0


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
