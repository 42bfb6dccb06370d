"""What can go wrong, as exceptions. Every one is a `MeterbookError`.

An error says what the caller can do: change the request (`ValidationError`, `ConflictError`), change the key
(`AuthenticationError`, `PermissionRefusedError`) or try later (`RateLimitedError`, `ServerUnavailableError`; the
client has already retried by the time these are raised).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meterbook.events import IngestResult
    from meterbook.quotas import QuotaVerdict


@dataclass(frozen=True, slots=True)
class EventError:
    """Why one event was refused. `index` is its place in the list that was given to `ingest`."""

    index: int
    idempotency_key: str | None
    code: str
    field: str | None
    message: str

    @classmethod
    def from_json(cls, body: Mapping[str, Any], *, first_index: int = 0) -> EventError:
        return cls(
            index=first_index + int(body.get("index") or 0),
            idempotency_key=body.get("idempotency_key"),
            code=str(body.get("code", "rejected")),
            field=body.get("field"),
            message=str(body.get("message", "")),
        )


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field of a request."""

    field: str | None
    code: str
    message: str
    index: int | None = None


class MeterbookError(Exception):
    """Base of all errors of this package that come from talking to a server.

    `status` is the HTTP status, or None when no answer arrived; `code` is the server's machine-readable reason.
    `partial` is set when a long `ingest` stopped in the middle: the verdicts of the requests before the failure.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "error",
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.body: Mapping[str, Any] = body or {}
        self.retry_after = retry_after
        self.partial: IngestResult | None = None


class AuthenticationError(MeterbookError):
    """The API key is missing, wrong, expired or revoked (401)."""


class PermissionRefusedError(MeterbookError):
    """The API key is good but lacks the scope (403)."""


class NotFoundError(MeterbookError):
    """There is no such metric, customer or event in the key's organization (404)."""


class ConflictError(MeterbookError):
    """The request contradicts what the server holds (409)."""


class AlreadyExistsError(ConflictError):
    """The thing to create is there already (409); `body` carries the existing one."""


class ValidationError(MeterbookError):
    """The request is malformed, or means nothing the server can do (400, 413, 415, 422).

    `errors` lists what is wrong, field by field. When every event of an `ingest` was refused, `result` holds the
    verdict of each.
    """

    def __init__(
        self,
        message: str,
        *,
        errors: Sequence[FieldError] = (),
        result: IngestResult | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.errors = list(errors)
        self.result = result


class TooLargeError(ValidationError):
    """The request is over a limit of the server (413). Nothing of it was stored."""


class RateLimitedError(MeterbookError):
    """Too many requests (429); `retry_after` says how many seconds to wait, where the server told."""


class ServerUnavailableError(MeterbookError):
    """No answer, or a 5xx answer. What was being written may or may not be stored: repeat it with the same keys.

    `may_have_arrived` is False when the request surely did not reach the server.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = True, **details: Any) -> None:
        super().__init__(message, **details)
        self.may_have_arrived = may_have_arrived


class QuotaExceededError(MeterbookError):
    """The amount does not fit the customer's quota (402). Nothing is held."""

    @property
    def verdict(self) -> QuotaVerdict | None:
        """How the quota stands: limit, used, remaining, and when it starts anew."""
        from meterbook.quotas import QuotaVerdict

        quota = self.body.get("quota")
        return QuotaVerdict.from_json(quota) if isinstance(quota, dict) else None


class BufferFullError(Exception):
    """A buffered client holds as many unacknowledged events as it may; the event was not taken."""


class StoppingError(RuntimeError):
    """The client that should take an event has been closed; the event was not taken."""


_BY_STATUS: dict[int, type[MeterbookError]] = {
    401: AuthenticationError,
    402: QuotaExceededError,
    403: PermissionRefusedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitedError,
}


def error_from_answer(
    *, status: int, body: Mapping[str, Any] | None, reason: str, retry_after: float | None
) -> MeterbookError:
    """Return the exception for an error answer. `body` is None where a proxy answered something else than JSON."""
    body = body or {}
    code = str(body.get("code") or f"http_{status}")
    message = str(body.get("message") or f"The server answered {status} {reason}.")
    if status >= 500:
        return ServerUnavailableError(message, code=code, status=status, body=body, retry_after=retry_after)
    if status in (400, 413, 415, 422):
        refused = TooLargeError if status == 413 else ValidationError
        return refused(message, errors=_field_errors(body), code=code, status=status, body=body)
    if status == 409 and code == "already_exists":
        return AlreadyExistsError(message, code=code, status=status, body=body)
    kind = _BY_STATUS.get(status, MeterbookError)
    return kind(message, code=code, status=status, body=body, retry_after=retry_after)


def _field_errors(body: Mapping[str, Any]) -> list[FieldError]:
    return [
        FieldError(
            field=error.get("field"),
            code=str(error.get("code", "")),
            message=str(error.get("message", "")),
            index=error.get("index"),
        )
        for error in body.get("errors") or []
        if isinstance(error, dict)
    ]
