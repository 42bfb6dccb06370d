"""The idempotency key of a request, which comes in a header or in the body."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from billing.api.fields import IdempotencyKey
from common.errors import InvalidInput

KEY_HEADER = "Idempotency-Key"
KEY_PARAMETER = OpenApiParameter(KEY_HEADER, str, OpenApiParameter.HEADER, required=False)


def read_idempotency_key(request: Request, body: dict[str, Any]) -> str:
    """Return the key of the header or the body; empty without. Raises `InvalidInput` where they differ."""
    given: str = body.get("idempotency_key", "")
    header = request.headers.get(KEY_HEADER)
    if header is None:
        return given
    try:
        key: str = IdempotencyKey().run_validation(header)
    except ValidationError as error:
        raise InvalidInput.of(KEY_HEADER, str(error.detail[0]), "invalid") from None  # type: ignore[index]
    if given and given != key:
        raise InvalidInput.of("idempotency_key", f"It differs from the header {KEY_HEADER}.", "invalid_combination")
    return key
