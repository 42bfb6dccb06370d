"""The forward protocol's handshake with a shared key: HELO, PING, PONG. MessagePack only; the server speaks first.

Both sides prove that they know the key by a digest over the other's random bytes. It authenticates, it does not
encrypt: TLS is a sidecar's work.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec

from metering.dialects.weave.wire import msgpack_stream as msgpack
from metering.dialects.weave.wire.messages import Undecodable

NONCE_BYTES = 16
# A PING is two digests and some names.
MAX_PING_BYTES = 4_096
_encode = msgspec.msgpack.Encoder().encode


class Refusal(Exception):
    """The sender does not know the key, or does not speak the handshake. `answer` is the PONG that says so."""

    def __init__(self, reason: str, answer: bytes) -> None:
        super().__init__(reason)
        self.answer = answer


class Handshake:
    """One connection's handshake, as the server that knows the key and is called so."""

    def __init__(self, *, shared_key: str, server_name: str) -> None:
        self._key = shared_key.encode()
        self._name = server_name
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    def hello(self) -> bytes:
        """Return the HELO. Without `auth`: senders have no names and passwords."""
        return _encode(["HELO", {"nonce": self._nonce, "auth": "", "keepalive": True}])

    def answer(self, ping: bytes) -> bytes:
        """Return the PONG for a sender that knows the key. Raises `Refusal` with the one for a sender that does not."""
        members = _members_of(ping)
        if len(members) != 6 or members[0] != b"PING":
            raise Refusal("it sends no PING", self._pong(is_known=False, reason="a PING is due", salt=b""))
        # Taken as bytes: old senders write the random salt as text.
        _, host, salt, digest, *_ = members
        expected = hashlib.sha512(salt + host + self._nonce + self._key).hexdigest()
        if not hmac.compare_digest(expected.encode(), digest):
            raise Refusal("its key differs", self._pong(is_known=False, reason="shared_key mismatch", salt=salt))
        return self._pong(is_known=True, reason="", salt=salt)

    def _pong(self, *, is_known: bool, reason: str, salt: bytes) -> bytes:
        """Return the PONG; one that refuses proves nothing, so that a stranger learns nothing from it."""
        name = self._name.encode()
        digest = hashlib.sha512(salt + name + self._nonce + self._key).hexdigest()
        return _encode(["PONG", is_known, reason, self._name if is_known else "", digest if is_known else ""])


def _members_of(ping: bytes) -> list[bytes]:
    """Return the texts of a PING; none of what is no array of them."""
    if len(ping) > MAX_PING_BYTES or not msgpack.is_array(ping[0]):
        return []
    try:
        members = list(msgpack.split_array(ping))
    except Undecodable:
        return []
    return [msgpack.content_of(member) for member in members if msgpack.is_bytes(member[0])]
