"""Requests of API gateways: whether old ones are let go by themselves; and what holds back whatever is let go."""

from config import env

# The second name is the one that APIGate's documentation gives it.
USAGE_CLEANUP_ENABLED = env.boolean(
    "METERBOOK_USAGE_CLEANUP_ENABLED", env.boolean("APIGATE_USAGE_CLEANUP_ENABLED", True)
)
# Who tells until when an organization's usage is billed (`organization` in, a time or None out): nothing later is let
# go. Where it answers None nobody is billed, and nothing is held back for it.
BILLED_UNTIL: str | None = "billing.queries.find_billed_until"
# Who tells from when on usage stands on no final invoice yet (`organization`, and the time before which raw events are
# gone already, in; a time or None out): no raw event of then or later goes by an organization's own retention.
UNBILLED_FROM: str | None = "billing.queries.find_unbilled_from"
# Who has rows on a customer that a person's export and erasure would not find by themselves (see `metering.traces`).
CUSTOMER_TRACES = (
    "metering.dialects.influx.services.traces",
    "metering.dialects.weave.services.traces",
    "billing.services.traces",
)
