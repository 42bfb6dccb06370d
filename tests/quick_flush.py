"""Emptying the database after a test with real commits, in milliseconds.

Django truncates every table there is, which makes new files of all of them and of all their indexes: a third of a
second for some hundred tables, of which a test has filled a dozen with a few rows. Those are deleted instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db import connection
from django.db.backends.postgresql.operations import DatabaseOperations
from psycopg.sql import SQL, Identifier, Literal

# From here on a new file is quicker than marking every row, and what was deleted before takes room too.
MOST_BYTES = 2 * 2**20

_IN_USE = "SELECT {name}, pg_relation_size({quoted}::regclass) WHERE EXISTS (SELECT FROM {table})"
_truncate: Callable[..., list[str]] = DatabaseOperations.sql_flush


def install() -> None:
    """Have every flush of the test run be a quick one, where the database lets us."""
    DatabaseOperations.sql_flush = _sql_flush  # type: ignore[method-assign]


def _sql_flush(self: DatabaseOperations, style: Any, tables: Iterable[str], **options: Any) -> list[str]:
    names = list(tables)
    in_use = _list_in_use(names)
    if options.get("reset_sequences") or any(size > MOST_BYTES for size in in_use.values()) or not _may_skip_triggers():
        return _truncate(self, style, names, **options)
    deletions = [f"DELETE FROM {self.quote_name(name)}" for name in in_use]
    # In any order, and past the triggers that keep what was invoiced: this is not the product that deletes.
    return ["SET LOCAL session_replication_role = replica", *deletions] if deletions else []


def _list_in_use(names: list[str]) -> dict[str, int]:
    """Return the tables that have rows, with their size in bytes."""
    if not names:
        return {}
    parts = [
        SQL(_IN_USE).format(name=Literal(name), quoted=Literal(f'"{name}"'), table=Identifier(name)) for name in names
    ]
    with connection.cursor() as cursor:
        cursor.execute(SQL(" UNION ALL ").join(parts))
        return dict(cursor.fetchall())


def _may_skip_triggers() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT usesuper FROM pg_user WHERE usename = current_user")
        [is_superuser] = cursor.fetchone()
        return bool(is_superuser)
