"""Billing: the account at Stripe to which usage is reported. Without a key nothing is sent anywhere."""

import re

from config import env

# A secret or restricted key. Only from the environment; it is never stored, shown or logged.
STRIPE_API_KEY = env.text("STRIPE_API_KEY", "")
# Where Stripe's API is; empty: where its package says. For a server of one's own in tests.
STRIPE_API_BASE = env.text("STRIPE_API_BASE", "")
# Calls of one process. A sandbox takes 25 a second, a live account more.
STRIPE_CALLS_PER_SECOND = env.integer("STRIPE_CALLS_PER_SECOND", 20)
# Begins the identifier of every report. Two installations that report to one account need different ones, or Stripe
# takes what the one says for what the other has said already.
STRIPE_IDENTIFIER_PREFIX = env.text("STRIPE_IDENTIFIER_PREFIX", "meterbook")
if not re.fullmatch(r"[A-Za-z0-9_.]{1,30}", STRIPE_IDENTIFIER_PREFIX):
    raise env.MisconfiguredVariable("STRIPE_IDENTIFIER_PREFIX takes 1 to 30 letters, digits, dots and underscores.")
# Ids of the organizations that may report to the account; empty: every one of this installation.
STRIPE_ORGANIZATIONS = env.integers("STRIPE_ORGANIZATIONS")
