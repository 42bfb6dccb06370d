"""Billing: the account at Stripe to which usage is reported, and the fonts of invoices."""

import re
from pathlib import Path

from config import env

# A secret or restricted key; without one nothing is sent anywhere. Only from the environment; it is never stored, shown
# or logged.
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

# Directories with fonts for the PDFs of invoices, by comma, for scripts that the built-in ones lack.
INVOICE_FONT_PATHS = env.names("METERBOOK_INVOICE_FONT_PATHS")
_missing = [path for path in INVOICE_FONT_PATHS if not Path(path).is_dir()]
if _missing:
    raise env.MisconfiguredVariable(f"METERBOOK_INVOICE_FONT_PATHS: {_missing[0]} is not a directory.")
# What Stripe signs its webhooks with. Several by comma: while one is replaced, both are accepted. Empty: none are.
STRIPE_WEBHOOK_SECRETS = tuple(env.names("STRIPE_WEBHOOK_SECRET"))
