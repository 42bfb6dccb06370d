"""Overrides for the test run; the embedded servers are started by `tests/conftest.py`."""

from config.settings.base import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # speed only; Argon2 has its own test
STRIPE_API_KEY = ""  # whatever the environment says: no test reports to somebody's account
STRIPE_WEBHOOK_SECRETS = ()
