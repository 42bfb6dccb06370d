"""The statements by which a cut-off is drawn, and by which a void learns where it stands among them.

Owns the statements, not their order: see `metering.services.cutoffs`. The locks are the session's here, not the
transaction's, because the snapshot has to begin after they are held and they are given back before it ends.
"""

from datetime import datetime

from django.db import connection


def draw_id() -> int:
    """Return a number that is greater than the id of every batch until now, and less than that of every later one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('metering_ingestbatch_id_seq')")
        number: int = cursor.fetchone()[0]
        return number


def take_session_lock(*, lock: int, organization_id: int, timeout_ms: int) -> None:
    """Take the advisory lock for this session. Inside a transaction, whose end it outlives.

    Raises `OperationalError`, caused by `LockNotAvailable`, after the timeout.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, TRUE)", [str(timeout_ms)])
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [lock, organization_id])


def release_session_lock(*, lock: int, organization_id: int) -> None:
    """Give the lock back at once, whatever becomes of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [lock, organization_id])


def fix_snapshot() -> datetime:
    """Make the transaction, which has just begun, read one snapshot and write nothing; return the time."""
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
        return at
