"""`python -m config.runner.prepare`: bring the database up to date, before anything serves from it."""

import os

import django
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

# Any constant will do, as long as every starting installation asks for the same lock.
MIGRATION_LOCK = 0x6D65746572


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    with connection.cursor() as cursor:
        # Two installations may start on one database at the same time.
        cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if pending:
            print(f"bringing the database up to date: {len(pending)} migrations …", flush=True)  # noqa: T201
            call_command("migrate", interactive=False, verbosity=0)
        cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK])


if __name__ == "__main__":
    main()
