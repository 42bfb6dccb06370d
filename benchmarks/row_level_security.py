"""`python -m benchmarks.row_level_security`: what row-level security would cost ingest and reads (ADR 6).

Measures, in turns on the same tables, batches of 1,000 events and reads of one usage number: without policies, with
policies and the tenant set once per connection (the least it can cost), and with the tenant set before every call (as
a shared connection needs). Run it against a database of its own whose owner is no superuser, after `migrate`.
"""

import argparse
import os
import random
import secrets
import statistics
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import django
from django.apps import apps
from django.db import connection
from django.utils import timezone

BATCH_SIZE = 1_000
CUSTOMERS = 50
REPETITIONS = 3
_server_process: list[int] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()

    ingest, roll_up, read, set_tenant = _prepare()
    for title, work in (("batch of 1,000", ingest), ("rolling it up", roll_up), ("usage of one customer", read)):
        before = ingest if work is roll_up else None
        cost = _measure(work, before, set_tenant, rounds)
        base = statistics.median(cost["no policies"])
        for arrangement, taken in cost.items():
            median = statistics.median(taken)
            print(f"{title:<24}{arrangement:<32}{median:8.2f} ms  {median / base - 1:+7.1%}")
        roll_up()


def _measure(
    work: Callable[[], None], before: Callable[[], None] | None, set_tenant: Callable[[], None], rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds under each arrangement, in a new order each round."""
    cost: dict[str, list[float]] = {
        "no policies": [],
        "policies": [],
        "policies, tenant set per call": [],
    }
    for round_number in range(-1, rounds):
        for arrangement in random.sample(list(cost), k=len(cost)):
            _enforce(arrangement != "no policies")
            set_tenant()
            for repetition in range(-1, REPETITIONS):
                if before is not None:
                    before()
                started = _server_milliseconds()
                if arrangement.endswith("per call"):
                    set_tenant()
                work()
                taken = _server_milliseconds() - started
                if round_number >= 0 and repetition >= 0:  # the first of each plans anew
                    cost[arrangement].append(taken)
    _enforce(False)
    return cost


def _server_milliseconds() -> float:
    """Return the processor time that our PostgreSQL process has used: the clock would measure the neighbours too."""
    if not _server_process:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            _server_process.append(cursor.fetchone()[0])
    return int(Path(f"/proc/{_server_process[0]}/schedstat").read_text().split()[0]) / 1e6


def _prepare() -> tuple[Callable[[], None], ...]:
    """Create a tenant with one metric; return ingest of a batch, rollup, a read, and the naming of the tenant."""
    from accounts.models import User
    from accounts.services import create_organization, ensure_customers
    from metering.catalogs import MetricDefinition
    from metering.incoming import IncomingEvent
    from metering.models import Aggregation
    from metering.queries.usage import get_usage
    from metering.services.ingest import ingest_events
    from metering.services.metrics import create_metric
    from metering.services.rollup import roll_up_organization

    owner = User.objects.create_user(f"{secrets.token_hex(4)}@example.test")
    organization = create_organization(name="Policies", owner=owner, actor="benchmark")
    metric = create_metric(
        organization=organization,
        definition=MetricDefinition(code="calls", aggregation=Aggregation.SUM, dimensions=({"key": "region"},)),
        actor="benchmark",
    )
    names = [f"customer {number}" for number in range(CUSTOMERS)]
    customers = ensure_customers(organization=organization, external_ids=names)

    def ingest() -> None:
        events = [
            IncomingEvent(
                idempotency_key=secrets.token_hex(16),
                customer=names[number % CUSTOMERS],
                type="calls",
                value=number,
                properties={"region": "eu"},
            )
            for number in range(BATCH_SIZE)
        ]
        assert ingest_events(organization=organization, events=events, now=timezone.now()).stored == BATCH_SIZE

    def read() -> None:
        now = timezone.now()
        get_usage(
            organization=organization,
            metric=metric,
            start=now - timedelta(hours=1),
            end=now,
            customer_id=customers[names[0]],
        )

    def set_tenant() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('meterbook.organization', %s, false)", [str(organization.pk)])

    def roll_up() -> None:
        roll_up_organization(organization_id=organization.pk, now=timezone.now())

    return ingest, roll_up, read, set_tenant


def _enforce(is_enforced: bool) -> None:
    """Put every tenant's table under a policy, or take it away; the owner is bound by it too."""
    with connection.cursor() as cursor:
        for model in apps.get_models():
            if model._meta.app_label not in {"accounts", "metering"} or not hasattr(model, "organization"):
                continue
            table = connection.ops.quote_name(model._meta.db_table)
            cursor.execute(f"DROP POLICY IF EXISTS tenant ON {table}")
            cursor.execute(f"ALTER TABLE {table} {'ENABLE' if is_enforced else 'DISABLE'} ROW LEVEL SECURITY")
            cursor.execute(f"ALTER TABLE {table} {'' if is_enforced else 'NO '}FORCE ROW LEVEL SECURITY")
            if is_enforced:
                cursor.execute(
                    f"CREATE POLICY tenant ON {table} USING "
                    "(organization_id = current_setting('meterbook.organization')::bigint)"
                )


if __name__ == "__main__":
    main()
