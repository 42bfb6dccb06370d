"""The one error shape: services raise `ApplicationError`, one handler at each edge translates it.

Wire shape: `{"code", "message", "errors": [{"field", "code", "message", "index"?}]}`; an API that speaks another
system's dialect has a shape of its own (`common.middleware`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field; `index` is the event's place in its batch."""

    field: str
    code: str
    message: str
    index: int | None = None

    def as_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"field": self.field, "code": self.code, "message": self.message}
        if self.index is not None:
            answer["index"] = self.index
        return answer


class ApplicationError(Exception):
    """A refusal that the caller can act on. Subclasses fix the HTTP status and the default code."""

    status: int = 400
    code: str = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.errors = list(errors)
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "errors": [error.as_json() for error in self.errors],
            **self.extra,
        }


class ErrorAnswer(NamedTuple):
    """An error as it goes over the wire."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def answer_error(error: ApplicationError) -> ErrorAnswer:
    """Put an error in the native shape."""
    return ErrorAnswer(error.status, error.as_json(), error.headers)


class BadRequest(ApplicationError):
    status = 400
    code = "bad_request"


class NotAuthenticated(ApplicationError):
    status = 401
    code = "not_authenticated"


class PermissionRefused(ApplicationError):
    status = 403
    code = "forbidden"


class NotFound(ApplicationError):
    status = 404
    code = "not_found"


class MethodNotAllowed(ApplicationError):
    status = 405
    code = "method_not_allowed"


class Conflict(ApplicationError):
    status = 409
    code = "conflict"


class TooLarge(ApplicationError):
    status = 413
    code = "too_large"


class UnsupportedMediaType(ApplicationError):
    status = 415
    code = "unsupported_media_type"


class InvalidInput(ApplicationError):
    """Well-formed input whose meaning is refused (422); `errors` names the fields."""

    status = 422
    code = "invalid"

    @classmethod
    def of(cls, field: str, message: str, code: str = "invalid") -> "InvalidInput":
        return cls(f"{field}: {message}", code=code, errors=[FieldError(field, code, message)])


class TooManyRequests(ApplicationError):
    status = 429
    code = "rate_limited"


class Unavailable(ApplicationError):
    """A store is down; the caller should retry after the `Retry-After` header."""

    status = 503
    code = "unavailable"
