"""The secrets of webhook endpoints: made, kept encrypted, and used to sign as Standard Webhooks prescribes.

Owns the text of a secret between its creation and its signature. Signing needs the secret itself, so a hash would
not do; it is encrypted under a key derived from `SECRET_KEY`, so that a copy of the database alone signs nothing.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 30  # a multiple of three: its base64 needs no padding
KEY_PURPOSE = b"meterbook webhook secrets"


class SecretUnreadable(Exception):
    """It was encrypted under a `SECRET_KEY` that is not known any more; only a new secret helps."""


def make_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def seal_secret(secret: str) -> bytes:
    return _box().encrypt(secret.encode())


def open_secret(sealed: bytes) -> str:
    """Return the secret. Raises `SecretUnreadable`."""
    try:
        return _box().decrypt(bytes(sealed)).decode()
    except InvalidToken:
        raise SecretUnreadable from None


def sign_message(*, message_id: str, body: str, now: datetime, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers that prove who sent the body, with one signature for each secret."""
    moment = now.astimezone(UTC)  # the library takes the clock's digits for UTC's
    signatures = [Webhook(secret).sign(message_id, moment, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _box() -> MultiFernet:
    """Return what encrypts under the current key and also decrypts under `SECRET_KEY_FALLBACKS`."""
    return MultiFernet([_fernet(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


@cache
def _fernet(secret_key: str) -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=KEY_PURPOSE).derive(secret_key.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
