"""One place that turns errors raised outside DRF into JSON, for every path of an API.

Each API's errors look as its clients know them: the setting `API_ERRORS` names, for the beginning of a path, the
function that puts an error in that API's shape. Paths that it does not name are pages.
"""

from collections.abc import Callable
from functools import cache
from http import HTTPStatus

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.module_loading import import_string
from redis.exceptions import ConnectionError as RedisConnectionError

from common.errors import ApplicationError, ErrorAnswer, NotFound, Unavailable

ErrorWriter = Callable[[ApplicationError], ErrorAnswer]

RETRY_AFTER_SECONDS = 5
# A view, or whoever authenticates for it, leaves headers for its response here (in `request.META`).
RESPONSE_HEADERS = "meterbook.response_headers"

# What Django itself answers in HTML, before or instead of a view.
DJANGO_REFUSALS: dict[int, tuple[str, str]] = {
    HTTPStatus.BAD_REQUEST: ("bad_request", "The request is malformed."),
    HTTPStatus.FORBIDDEN: ("forbidden", "You may not do this."),
    HTTPStatus.NOT_FOUND: ("not_found", "There is no such resource."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "This resource does not have this method; see `Allow`."),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal_error", "Something failed on our side; it has been logged."),
}


@cache
def _error_writers() -> dict[str, ErrorWriter]:
    return {prefix: import_string(name) for prefix, name in settings.API_ERRORS.items()}


def find_error_writer(path: str) -> ErrorWriter | None:
    """Return what puts an error in the shape of the path's API; None for a page."""
    return next((write for prefix, write in _error_writers().items() if path.startswith(prefix)), None)


def store_unavailable() -> Unavailable:
    return Unavailable(
        "A store is not reachable; nothing was lost that was acknowledged. Retry.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def not_found(request: HttpRequest, **parameters: str) -> HttpResponse:
    """Answer for what is below an API's prefix and no route knows, where a later route would take it for a page."""
    raise NotFound("There is no such resource.")


class ApiErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        write = find_error_writer(request.path)
        if write is None:
            return response
        if response.status_code >= HTTPStatus.BAD_REQUEST and not _is_json(response):
            response = _as_json(response, write)
        for name, value in request.META.get(RESPONSE_HEADERS, {}).items():
            response[name] = value
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        write = find_error_writer(request.path)
        error = None if write is None else _as_application_error(exception)
        return None if write is None or error is None else _respond(write(error))


def _as_application_error(exception: Exception) -> ApplicationError | None:
    match exception:
        case ApplicationError():
            return exception
        case Http404():
            return NotFound("There is no such resource.")
        case OperationalError() | InterfaceError() | RedisConnectionError():
            return store_unavailable()
    return None


def _respond(answer: ErrorAnswer) -> JsonResponse:
    return JsonResponse(answer.body, status=answer.status, headers=answer.headers)


def _is_json(response: HttpResponseBase) -> bool:
    return response.get("Content-Type", "").partition(";")[0].endswith("json")


def _as_json(response: HttpResponseBase, write: ErrorWriter) -> JsonResponse:
    """Return the same refusal in the API's shape, with the headers that belong to it (`Allow`, cookies)."""
    code, message = DJANGO_REFUSALS.get(
        response.status_code, ("refused", f"The request was refused ({response.status_code}).")
    )
    error = ApplicationError(message, code=code)
    error.status = response.status_code
    answer = _respond(write(error))
    for name, value in response.items():
        if name not in {"Content-Type", "Content-Length"}:
            answer[name] = value
    answer.cookies = response.cookies
    return answer
