"""Celery: the broker is Redis; every task is idempotent, acknowledged late, and scheduled here alone."""

from urllib.parse import parse_qs, urlsplit

from celery.schedules import crontab

from config.queues import QUICK_QUEUE, SLOW_QUEUE, SLOW_TASKS
from config.settings.database import REDIS_URL


def broker_url(redis_url: str) -> str:
    """Return the URL as Celery spells it: a Unix socket is `redis+socket://` there, `unix://` for all others."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    number = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={number}"


CELERY_TASK_DEFAULT_QUEUE = QUICK_QUEUE
CELERY_TASK_ROUTES = {name: {"queue": SLOW_QUEUE} for name in SLOW_TASKS}
CELERY_BROKER_URL = broker_url(REDIS_URL)
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # for ever: Redis comes back
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

CELERY_BEAT_SCHEDULE = {
    # The sweep is the safety net: ingest wakes the worker itself, but a wake-up is lost when Redis is away. Sweeps that
    # nobody ran while the worker was away expire: one finds everything.
    "metering.sweep_pending_batches": {
        "task": "metering.sweep_pending_batches",
        "schedule": 2.0,
        "options": {"expires": 10.0},
    },
    "alerts.sweep_changes": {"task": "alerts.sweep_changes", "schedule": 2.0, "options": {"expires": 10.0}},
    # Billing wakes it too.
    "alerts.tell_billing_notices": {
        "task": "alerts.tell_billing_notices",
        "schedule": 5.0,
        "options": {"expires": 10.0},
    },
    "alerts.check_silence": {"task": "alerts.check_silence", "schedule": 20.0, "options": {"expires": 60.0}},
    "alerts.send_due_mails": {"task": "alerts.send_due_mails", "schedule": 60.0, "options": {"expires": 60.0}},
    "usage_reports.send_due_reports": {
        "task": "usage_reports.send_due_reports",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    # By the clock, not every 3,600 s: beat remembers nothing over a restart.
    "metering.prune_expired_rows": {"task": "metering.prune_expired_rows", "schedule": crontab(minute="7")},
    "billing.expire_credits": {"task": "billing.expire_credits", "schedule": crontab(minute="22")},
    "alerts.prune_reservations": {"task": "alerts.prune_reservations", "schedule": crontab(minute="37")},
    "usage_reports.prune_runs": {"task": "usage_reports.prune_runs", "schedule": crontab(minute="52")},
    "influx.prune_anonymous_reports": {
        "task": "influx.prune_anonymous_reports",
        "schedule": crontab(minute="*/10"),
    },
    # Often: whoever reaches the forward port can fill the quarantine.
    "weave.prune_quarantine": {
        "task": "weave.prune_quarantine",
        "schedule": crontab(),
        "options": {"expires": 60.0},
    },
    # Periods end at midnights somewhere, which are whole or half hours after this; a few minutes for late events.
    "billing.run_invoices": {"task": "billing.run_invoices", "schedule": crontab(minute="4,34")},
    # Stripe keeps an invoice open for an hour after its period, unless told otherwise: an hourly run is not too late.
    "billing.report_usage": {"task": "billing.report_usage", "schedule": crontab(minute="10")},
    # At night, between two hourly runs: days with reports on their way are not compared.
    "billing.reconcile_usage": {"task": "billing.reconcile_usage", "schedule": crontab(hour="4", minute="45")},
    # After Stripe was compared, and long before anybody looks.
    "billing.check_usage": {"task": "billing.check_usage", "schedule": crontab(hour="5", minute="15")},
    # What was not settled: a lost answer, a killed worker, haste.
    "billing.send_usage_reports": {
        "task": "billing.send_usage_reports",
        "schedule": crontab(minute="*/2"),
        "options": {"expires": 100.0},
    },
    "billing.mail_invoices": {
        "task": "billing.mail_invoices",
        "schedule": crontab(minute="*/2"),
        "options": {"expires": 100.0},
    },
    "billing.evaluate_budgets": {
        "task": "billing.evaluate_budgets",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "billing.send_budget_mails": {
        "task": "billing.send_budget_mails",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    # A finalised invoice is at Stripe within a minute or two; also what was not settled, and what has ended here.
    "billing.push_invoices": {
        "task": "billing.push_invoices",
        "schedule": crontab(),
        "options": {"expires": 50.0},
    },
    # The webhook wakes a worker itself; this finds lost wake-ups, and failures whose pause is over.
    "billing.sweep_stripe_events": {
        "task": "billing.sweep_stripe_events",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "billing.prune_stripe_events": {"task": "billing.prune_stripe_events", "schedule": crontab(hour="3", minute="42")},
    "alerts.prune_deliveries": {"task": "alerts.prune_deliveries", "schedule": crontab(minute="22")},
    # Horizons are whole days, so this deletes once a day; every hour, for machines that sleep.
    "gateway.clean_up_usage": {"task": "gateway.clean_up_usage", "schedule": crontab(minute="27")},
    "metering.resume_erasures": {
        "task": "metering.resume_erasures",
        "schedule": crontab(minute="*/10"),
        "options": {"expires": 300.0},
    },
}
