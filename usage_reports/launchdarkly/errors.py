"""Errors as LaunchDarkly's clients know them: `{"code", "message"}`, for everything under `/api/v2/`.

Views raise the same errors as everywhere; the setting `API_ERRORS` has them written by `answer_error`.
"""

from http import HTTPStatus
from typing import Any

from common.errors import ApplicationError, ErrorAnswer

PREFIX = "/api/v2/"
_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable",
}
# These clients know one status for every request that is wrong in itself.
_STATUSES: dict[int, int] = {HTTPStatus.UNPROCESSABLE_ENTITY: HTTPStatus.BAD_REQUEST}
# Their HTTP library obeys this by sleeping and asking again, three times, before the caller learns anything.
_UNTOLD_HEADERS = frozenset({"Retry-After"})


_DESCRIPTIONS = {
    HTTPStatus.BAD_REQUEST: "A parameter is unknown or wrong; the message says which.",
    HTTPStatus.UNAUTHORIZED: "No API key, or one that is not valid.",
    HTTPStatus.FORBIDDEN: "The key lacks the scope, or may not read this metric.",
    HTTPStatus.NOT_FOUND: "What the path names does not exist, or the catalog `launchdarkly` is not installed.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests; see `X-Ratelimit-Auth-Token-Reset`.",
    HTTPStatus.SERVICE_UNAVAILABLE: "A store is down.",
}
_SCHEMA = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string", "enum": sorted(_CODES.values())}, "message": {"type": "string"}},
}


def answer_error(error: ApplicationError) -> ErrorAnswer:
    """Put an error in the shape of these clients."""
    status = _STATUSES.get(error.status, error.status)
    family = "internal_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"
    return ErrorAnswer(
        status=status,
        body={"code": _CODES.get(status, family), "message": error.message},
        headers={name: value for name, value in error.headers.items() if name not in _UNTOLD_HEADERS},
    )


def describe_errors(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular hook: give every operation of this API the errors that all of them may answer."""
    result.setdefault("components", {}).setdefault("schemas", {})["ReportError"] = _SCHEMA
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ReportError"}}}
    for path, operations in result["paths"].items():
        if path.startswith(PREFIX):
            for operation in operations.values():
                for status, description in _DESCRIPTIONS.items():
                    operation["responses"][str(int(status))] = {"description": description, "content": content}
    return result
