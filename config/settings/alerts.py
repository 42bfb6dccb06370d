"""Alerts: what follows changed usage, and whom webhooks may reach."""

from config import env

# Tasks that run with an organization's id after its usage changed (see `metering.services.wake`).
USAGE_FOLLOWERS = ["alerts.evaluate_organization"]
# The task that runs with an organization's id after billing wrote down something to tell (`billing.services.notices`).
NOTICE_FOLLOWER = "alerts.tell_billing_notices"
# Who tells which thresholds a customer crossed (see `metering.api.usage`).
ALERT_FLAGS = "alerts.sql.alert_flags.list_alert_flags"
# Who tells how much of a metric a customer's quota allows (see `usage_reports.gateway.user_usage`).
QUOTA_LIMIT = "alerts.queries.quotas.find_limit"
# Who tells how much of a metric a customer's plan includes (see `alerts.queries.included`); None: nobody.
INCLUDED_QUANTITY: str | None = "billing.queries.find_included_quantity"
# True: webhooks may go to private addresses and over plain HTTP, for installations that only talk to themselves.
WEBHOOKS_MAY_BE_PRIVATE = env.boolean("METERBOOK_PRIVATE_WEBHOOKS", False)
