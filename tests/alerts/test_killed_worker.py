"""A worker process killed with -9 around the evaluation: the crossing still comes, once."""

from __future__ import annotations

import os
import subprocess
import sys
from signal import SIGKILL

import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo

from accounts.models import Organization
from alerts import tasks
from alerts.models import Delivery, WebhookEndpoint
from alerts.queries.due import list_organizations_to_evaluate
from alerts.services.evaluation import evaluate_organization
from common.redis import redis_client
from config.queues import QUICK_QUEUE
from metering.models import UsageChange
from tests.alerts.watch import Told, Watch

# What the doomed process does, with `organization_id` and `now` in its hands; `die` is kill -9 of itself.
PREAMBLE = """
import os, sys
from datetime import datetime
from functools import wraps
from signal import SIGKILL
import django
django.setup()
organization_id, now = int(sys.argv[1]), datetime.fromisoformat(sys.argv[2])

def die():
    os.kill(os.getpid(), SIGKILL)

def dying_after(function):
    @wraps(function)
    def call(*arguments, **names):
        function(*arguments, **names)
        die()
    return call
"""
BETWEEN_ROLLUP_AND_EVALUATION = """
from metering.services.rollup import roll_up_organization
roll_up_organization(organization_id=organization_id, now=now)
die()
"""
BEFORE_THE_ROLLUP_COMMITS = """
from metering.services import rollup
rollup.roll_up.mark_rolled = dying_after(rollup.roll_up.mark_rolled)
rollup.roll_up_organization(organization_id=organization_id, now=now)
"""
BEFORE_THE_EVALUATION_COMMITS = """
from alerts.services import evaluation
from metering.services.rollup import roll_up_organization
roll_up_organization(organization_id=organization_id, now=now)
evaluation.append_crossings = dying_after(evaluation.append_crossings)
evaluation.evaluate_organization(organization_id=organization_id, now=now)
"""
AFTER_THE_EVALUATION = """
from alerts.services.evaluation import evaluate_organization
from metering.services.rollup import roll_up_organization
roll_up_organization(organization_id=organization_id, now=now)
evaluate_organization(organization_id=organization_id, now=now)
die()
"""


def run_until_killed(script: str, watch: Watch) -> None:
    """Run the script in a process of its own on the test's database; it must end by its own kill -9."""
    url = make_conninfo(os.environ["DATABASE_URL"], dbname=connection.settings_dict["NAME"])
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, str(watch.organization.pk), watch.now.isoformat()],
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings.base"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    "script",
    [
        BETWEEN_ROLLUP_AND_EVALUATION,
        BEFORE_THE_ROLLUP_COMMITS,
        BEFORE_THE_EVALUATION_COMMITS,
        AFTER_THE_EVALUATION,
    ],
    ids=["between rollup and evaluation", "in the rollup", "in the evaluation", "after the evaluation"],
)
def test_the_crossing_comes_once_with_its_delivery(watch: Watch, script: str) -> None:
    watch.define("m", "sum")
    watch.threshold("m", "cap", 10)
    WebhookEndpoint.objects.create(organization=watch.organization, url="https://example.com/hook", secret=b"")
    watch.send_all({"customer": "ann", "type": "m", "value": 10})

    run_until_killed(script, watch)
    watch.evaluate()  # what another worker does, woken by the sweep

    assert watch.told() == [Told("ann", "cap", 10, 10)]
    assert Delivery.objects.for_organization(watch.organization).count() == 1
    assert not UsageChange.objects.all_tenants().exists()


def test_the_sweep_finds_what_the_dead_worker_left(watch: Watch, org: Organization) -> None:
    watch.define("m", "sum")
    watch.threshold("m", "cap", 10)
    evaluate_organization(organization_id=org.pk, now=watch.now)
    watch.send_all({"customer": "ann", "type": "m", "value": 10})
    assert list_organizations_to_evaluate() == set()

    run_until_killed(BETWEEN_ROLLUP_AND_EVALUATION, watch)
    redis_client().delete(QUICK_QUEUE)  # the wake-up that it had sent is lost as well
    assert list_organizations_to_evaluate() == {org.pk}
    tasks.evaluate_organization_task.apply(args=(org.pk,))

    assert watch.told() == [Told("ann", "cap", 10, 10)]
    assert list_organizations_to_evaluate() == set()
