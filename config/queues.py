"""The queues of background tasks. Each has threads of its own, so that what takes moments never waits for minutes."""

# Rollups, alerts, and whatever else is not named below.
QUICK_QUEUE = "quick"
SLOW_QUEUE = "slow"

# By their names, since who publishes a task often knows no more of it.
SLOW_TASKS = (
    "billing.check_organization_usage",
    "billing.handle_stripe_event",
    "billing.mail_invoices",
    "billing.push_invoices",
    "billing.push_organization_invoices",
    "billing.reconcile_organization",
    "billing.report_organization",
    "billing.send_usage_reports",
    "billing.sweep_stripe_events",
    "billing.work_invoice_run",
    "gateway.clean_up_usage",
    "gateway.finish_cleanup",
    "metering.prune_expired_rows",
    "metering.resume_erasures",
    "metering.resume_erasures_of_organization",
    "usage_reports.send_run",
)
