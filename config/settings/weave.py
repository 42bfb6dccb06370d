"""The forward listener of the Weave dialect: where it listens, and who may map what arrives there."""

from config import env

# Beside the database, or behind a sidecar: the protocol is neither authenticated nor encrypted.
FORWARD_HOST = env.text("METERBOOK_FORWARD_HOST", "127.0.0.1")
FORWARD_PORT = env.integer("METERBOOK_FORWARD_PORT", 24225)
# A second port for senders that know a shared key. Without the port or the key: none.
FORWARD_SECURE_PORT = env.integer("METERBOOK_FORWARD_SECURE_PORT", 0)
FORWARD_SHARED_KEY = env.text("METERBOOK_FORWARD_SHARED_KEY", "")
# Whose admins may map instances. None named: the only organization of the installation.
FORWARD_ORGANIZATIONS = env.integers("METERBOOK_FORWARD_ORGANIZATIONS")
