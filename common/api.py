"""What every DRF view of the APIs shares: strict input, keyset pages, and errors in the API's shape.

Does not own who may call: that is `accounts.api.base`.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import InterfaceError, OperationalError
from django.db.models import Field, Model, QuerySet
from django.http import Http404, QueryDict
from drf_spectacular.utils import extend_schema_field
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework import exceptions, negotiation, parsers, serializers
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from common.bodies import decode_json, read_body
from common.errors import (
    ApplicationError,
    FieldError,
    InvalidInput,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    PermissionRefused,
    UnsupportedMediaType,
    answer_error,
)
from common.middleware import find_error_writer, store_unavailable
from common.times import parse_time

MAX_BODY_BYTES = 1024 * 1024  # of a settings-like body; ingest has its own bound
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_NAMED_CHARACTERS = 100  # of a sender's own field name, repeated in an error
INT64 = range(-(2**63), 2**63)

ModelType = TypeVar("ModelType", bound=Model)


# --- bodies ---------------------------------------------------------------------------------------------------


class JSONParser(parsers.BaseParser):
    """JSON, also gzip or zstd, read within `MAX_BODY_BYTES`; fractions become `Decimal`."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        assert parser_context is not None  # DRF always gives it
        return decode_json(read_body(parser_context["request"]._request, max_bytes=MAX_BODY_BYTES, stream=stream))


class AlwaysFirstRenderer(negotiation.BaseContentNegotiation):
    """Answer JSON whatever `Accept` asks for: a 406 would help nobody."""

    def select_parser(self, request: Request, parsers: Iterable[parsers.BaseParser]) -> parsers.BaseParser | None:
        return negotiation.DefaultContentNegotiation().select_parser(request, parsers)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type or ""


# --- fields and serializers -----------------------------------------------------------------------------------


class StrictSerializer(serializers.Serializer[Any]):
    """A serializer that refuses what it does not know, naming every unknown field.

    `partial` lets a change name only what it changes. DRF's own would let nested objects be incomplete too.
    """

    def __init__(self, *args: Any, partial: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        if partial:
            for field in self.fields.values():
                field.required, field.default = False, serializers.empty

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {name for name, field in self.fields.items() if not field.read_only}
            unknown = {
                name[:MAX_NAMED_CHARACTERS]: serializers.ErrorDetail("This field is not known.", "unknown_field")
                for name in data
                if name not in known
            }
            if unknown:
                raise serializers.ValidationError(unknown)
        return super().to_internal_value(data)


class Text(serializers.CharField):
    """A JSON string; numbers are not turned into strings."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """`true` or `false`; no other spelling."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class WholeNumber(serializers.IntegerField):
    """A JSON integer (`5`, also `5.0`), or its digits in a query."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool):
            self.fail("invalid")
        if isinstance(data, str) and not (data.isascii() and data.removeprefix("-").isdigit()):
            self.fail("invalid")
        if isinstance(data, Decimal) and (data.adjusted() > 18 or data != data.to_integral_value()):
            self.fail("invalid")
        number = int(super().to_internal_value(int(data) if isinstance(data, Decimal) else data))
        if number not in INT64:
            self.fail("max_string_length")
        return number


@extend_schema_field({"oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]})
class Moment(serializers.DateTimeField):
    """A time from outside: RFC 3339 with an offset, or integer Unix time."""

    def to_internal_value(self, value: Any) -> datetime:
        try:
            return parse_time(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error), code="invalid_timestamp") from None


class ListQuery(StrictSerializer):
    """The query of every list."""

    limit = WholeNumber(min_value=1, max_value=MAX_PAGE_SIZE, default=DEFAULT_PAGE_SIZE)
    cursor = Text(required=False, allow_blank=True, max_length=2000, help_text="`next_cursor` of the page before.")


class NoQuery(StrictSerializer):
    """The query of a route that takes none."""


def read_query(parameters: QueryDict, serializer_class: type[serializers.Serializer[Any]]) -> dict[str, Any]:
    """Return the query's values. Raises `InvalidInput` naming unknown, repeated and invalid parameters.

    Needs no DRF view: `parameters` is any request's `GET`.
    """
    fields = serializer_class().fields
    repeated = {
        name: serializers.ErrorDetail("Give this parameter once.", "repeated")
        for name, values in parameters.lists()
        if len(values) > 1 and name in fields and not isinstance(fields[name], serializers.ListField)
    }
    if repeated:
        raise invalid_input(repeated)
    # A plain dictionary: of a `QueryDict` DRF would take an empty value for an absent one.
    given = {
        name: values if isinstance(fields.get(name), serializers.ListField) else values[-1]
        for name, values in parameters.lists()
    }
    return validated(serializer_class(data=given))


def validated(serializer: serializers.BaseSerializer[Any]) -> dict[str, Any]:
    """Return the values of a serializer made with `data=`. Raises `InvalidInput`."""
    if not serializer.is_valid():
        raise invalid_input(serializer.errors)
    return dict(serializer.validated_data)


# --- pages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Any]
    next_cursor: str | None

    def response(self, serializer_class: type[serializers.BaseSerializer[Any]]) -> Response:
        return Response({"data": serializer_class(self.rows, many=True).data, "next_cursor": self.next_cursor})


def take_page(
    rows: QuerySet[ModelType],
    *,
    limit: int,
    cursor: str | None = None,
    field: str = "id",
    is_newest_first: bool = False,
) -> Page:
    """Return one page in the order of a unique field: one query, stable while rows are added and removed."""
    rows = rows.order_by(f"-{field}" if is_newest_first else field)
    if cursor:
        [after] = decode_cursor(cursor, length=1)
        try:
            value = _column(rows, field).to_python(after)
        except ModelValidationError:
            raise _invalid_cursor() from None
        rows = rows.filter(**{f"{field}__{'lt' if is_newest_first else 'gt'}": value})
    found = list(rows[: limit + 1])
    is_last = len(found) <= limit
    return Page(found[:limit], None if is_last else encode_cursor(getattr(found[limit - 1], field)))


def _column(rows: QuerySet[ModelType], name: str) -> "Field[Any, Any]":
    column = rows.model._meta.get_field(name)
    assert isinstance(column, Field)  # a page is sorted by a column, not by a relation
    return column


def encode_cursor(*values: str | int) -> str:
    """Return an opaque cursor that names the last row of a page by its sort key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).rstrip(b"=").decode()


def decode_cursor(cursor: str, *, length: int) -> list[str | int]:
    """Return the values of a cursor of ours. Raises `InvalidInput` for any other text."""
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = msgspec.json.decode(content, type=list[str | int])
    except (binascii.Error, ValueError):  # msgspec's and the encoding's errors are ValueErrors
        raise _invalid_cursor() from None
    if len(values) != length or not all(_is_storable(value) for value in values):
        raise _invalid_cursor()
    return values


def _is_storable(value: str | int) -> bool:
    return value in INT64 if isinstance(value, int) else "\x00" not in value


def _invalid_cursor() -> InvalidInput:
    return InvalidInput.of("cursor", "Use the `next_cursor` of the page before, unchanged.", "invalid_cursor")


# --- errors ---------------------------------------------------------------------------------------------------


def handle_exception(exception: Exception, context: Mapping[str, Any]) -> Response | None:
    """DRF's exception handler: every refusal in its API's shape; None (a 500) for what nobody foresaw."""
    error = _as_application_error(exception)
    if error is None:
        return None
    write = find_error_writer(context["request"].path) or answer_error
    answer = write(error)
    return Response(answer.body, status=answer.status, headers=answer.headers)


def _as_application_error(exception: Exception) -> ApplicationError | None:
    match exception:
        case ApplicationError():
            return exception
        case exceptions.ValidationError():
            return invalid_input(exception.detail)
        case exceptions.NotFound() | Http404():
            return NotFound("There is no such resource.")
        case exceptions.MethodNotAllowed():  # the view adds `Allow`
            return MethodNotAllowed(str(exception.detail))
        case exceptions.UnsupportedMediaType():
            return UnsupportedMediaType("Send JSON with `Content-Type: application/json`.")
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return NotAuthenticated(str(exception.detail), headers={"WWW-Authenticate": "Bearer"})
        case exceptions.PermissionDenied() | PermissionDenied():
            return PermissionRefused("You may not do this.")
        case OperationalError() | InterfaceError() | RedisConnectionError():
            return store_unavailable()
    return None


def invalid_input(detail: Any) -> InvalidInput:
    """Return DRF's nested error details as our refusal, which lists every field."""
    errors = list(_flatten(detail))
    return InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors)


def _flatten(detail: Any, path: str = "") -> Iterator[FieldError]:
    """Yield DRF's nested details as a flat list: `a.b` for members, `a[0]` for items."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _flatten(inner, _path_of(path, name))
    elif isinstance(detail, list | tuple):
        for index, inner in enumerate(detail):
            yield from _flatten(inner, _path_of(path, index) if isinstance(inner, Mapping | list) else path)
    else:
        yield FieldError(path or "body", getattr(detail, "code", "invalid"), str(detail))


def _path_of(path: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    if name == "non_field_errors":
        return path
    return f"{path}.{name}" if path else name
