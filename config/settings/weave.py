"""The forward listener of the Weave dialect: where it listens, and who may map what arrives there."""

from config import env

# Beside the database, or behind a sidecar: the protocol is neither authenticated nor encrypted.
FORWARD_HOST = env.text("METERBOOK_FORWARD_HOST", "127.0.0.1")
# 0: no open port.
FORWARD_PORT = env.integer("METERBOOK_FORWARD_PORT", 24225)
# A second port for senders that know a shared key. Without the port or the key: none.
FORWARD_SECURE_PORT = env.integer("METERBOOK_FORWARD_SECURE_PORT", 0)
FORWARD_SECURE_HOST = env.text("METERBOOK_FORWARD_SECURE_HOST", FORWARD_HOST)
FORWARD_SHARED_KEY = env.text("METERBOOK_FORWARD_SHARED_KEY", "")
# Whose admins may map instances. None named: the only organization of the installation.
FORWARD_ORGANIZATIONS = env.integers("METERBOOK_FORWARD_ORGANIZATIONS")
# What waits of instances that nobody mapped: whoever reaches the port can send it. Beyond this the oldest goes.
FORWARD_QUARANTINE_ROWS = env.integer("METERBOOK_FORWARD_QUARANTINE_ROWS", 1_000_000)
FORWARD_QUARANTINE_DAYS = env.integer("METERBOOK_FORWARD_QUARANTINE_DAYS", 90)
