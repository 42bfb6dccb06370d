"""One place that turns errors raised outside DRF into the JSON error shape, for every path of the API."""

from collections.abc import Callable
from http import HTTPStatus

from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from redis.exceptions import ConnectionError as RedisConnectionError

from common.errors import ApplicationError, NotFound, Unavailable

API_PREFIX = "/v1/"
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


def error_response(error: ApplicationError) -> JsonResponse:
    return JsonResponse(error.as_json(), status=error.status, headers=error.headers)


def store_unavailable() -> Unavailable:
    return Unavailable(
        "A store is not reachable; nothing was lost that was acknowledged. Retry.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class ApiErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not request.path.startswith(API_PREFIX):
            return response
        if response.status_code >= HTTPStatus.BAD_REQUEST and not _is_json(response):
            response = _as_json(response)
        for name, value in request.META.get(RESPONSE_HEADERS, {}).items():
            response[name] = value
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not request.path.startswith(API_PREFIX):
            return None
        if isinstance(exception, ApplicationError):
            return error_response(exception)
        if isinstance(exception, Http404):
            return error_response(NotFound("There is no such resource."))
        if isinstance(exception, OperationalError | InterfaceError | RedisConnectionError):
            return error_response(store_unavailable())
        return None


def _is_json(response: HttpResponseBase) -> bool:
    return response.get("Content-Type", "").partition(";")[0].endswith("json")


def _as_json(response: HttpResponseBase) -> JsonResponse:
    """Return the same refusal in the API's shape, with the headers that belong to it (`Allow`, cookies)."""
    code, message = DJANGO_REFUSALS.get(
        response.status_code, ("refused", f"The request was refused ({response.status_code}).")
    )
    answer = JsonResponse({"code": code, "message": message, "errors": []}, status=response.status_code)
    for name, value in response.items():
        if name not in {"Content-Type", "Content-Length"}:
            answer[name] = value
    answer.cookies = response.cookies
    return answer
