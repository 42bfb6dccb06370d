"""Requests of API gateways: whether old ones are let go by themselves, and what holds them back."""

from config import env

# The second name is the one that APIGate's documentation gives it.
USAGE_CLEANUP_ENABLED = env.boolean(
    "METERBOOK_USAGE_CLEANUP_ENABLED", env.boolean("APIGATE_USAGE_CLEANUP_ENABLED", True)
)
# Who tells until when an organization's usage is billed (`organization` in, a time or None out): nothing later is let
# go. None: nobody bills yet, and nothing is held back for it.
BILLED_UNTIL: str | None = None
