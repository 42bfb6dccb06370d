"""Errors as the usage-client reads them, for everything under `/api/v1/`.

The client notices 401, 404, 422 and 500; every other status is success to it, without a retry. So every refusal gets
one of the four: it reads `{"error": "…"}` with the three, `{"errors": {"field": ["…"]}}` with 422, which has both here.
"""

from http import HTTPStatus
from typing import Any

from common.errors import ApplicationError, ErrorAnswer

# Each report opens a connection of its own, which the client keeps open for ever unless the server closes it. WSGI
# leaves this header to servers; ours passes it on, which a test holds it to.
CLOSING = {"Connection": "close"}
_STATUSES: dict[int, int] = {
    HTTPStatus.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    # A valid key that may not: the same to this client.
    HTTPStatus.FORBIDDEN: HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND: HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: HTTPStatus.NOT_FOUND,
    # The report is lost, and the sender must learn it: the status that usually says so is success to this client.
    HTTPStatus.TOO_MANY_REQUESTS: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def answer_error(error: ApplicationError) -> ErrorAnswer:
    """Put an error in the shapes of this client. The error's own headers are for others and left out."""
    status = _status_of(error.status)
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        body["errors"] = _messages_by_field(error)
    return ErrorAnswer(status, body, dict(CLOSING))


def _status_of(status: int) -> int:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return HTTPStatus.INTERNAL_SERVER_ERROR
    return _STATUSES.get(status, HTTPStatus.UNPROCESSABLE_ENTITY)


def _messages_by_field(error: ApplicationError) -> dict[str, list[str]]:
    messages: dict[str, list[str]] = {}
    for problem in error.errors:
        messages.setdefault(problem.field, []).append(problem.message)
    return messages or {"body": [error.message]}
